"""Who is champion, who was, and the acts that change it.

An act is a tag of the registered model, written before anything moves, so that the history survives whatever
happens next. The alias `champion` is then moved, in one step of the store: that decides the act. What follows
from it (alias `previous`, tags of the versions) can be derived again, and is, by the next act, if a process
was killed in between. MLflow keeps no history of aliases itself.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cfpp.config import MlflowParams
from cfpp.registry.acts import (
    ACT,
    CHAMPION,
    PREVIOUS,
    Act,
    Kind,
    Reign,
    new_act,
    now,
    read_act,
    version_tags,
    whoami,
    write_act,
)
from cfpp.registry.provenance import RegistryError, all_versions, answering, find_version, open_store
from cfpp.registry.runs import Store

log = logging.getLogger(__name__)

REFUSED = "refused_by_gate"  # tag of a version: when, and by which rules
PATIENCE = 60.0  # seconds that an act waits for another one to end


@dataclass(frozen=True)
class Champions:
    """The champion of a registered model.

    Readers need none of this: they resolve models:/NAME@champion. Acts of one project folder wait for each
    other; the lock does not reach other machines on the same registry, where an act only checks right before
    it moves the alias that nobody else has.

    Attributes:
        store: where the registry is.
        name: of the registered model.
        folder: for the lock.
    """

    store: Store
    name: str
    folder: Path

    @classmethod
    def open(cls, params: MlflowParams, root: Path) -> "Champions":
        """Of the project in `root`.

        Raises:
            RegistryError: nothing was ever registered, or the store does not answer.
        """
        store = open_store(params, root)
        if store is None or not all_versions(store, params.model_name):
            raise RegistryError(f"there is no version of {params.model_name}; run dvc repro register")
        return cls(store, params.model_name, root / ".cfpp")

    def reign(self) -> Reign:
        """As the registry says it now; see `Reign.settled`.

        Raises:
            RegistryError: the store does not answer.
        """
        with answering(self.store.uri):
            model = self._client().get_registered_model(self.name)
        acts = [read_act(key, value) for key, value in model.tags.items() if key.startswith(ACT)]
        acts.sort(key=lambda act: (act.number, act.when))
        return Reign(tuple(acts), str(model.aliases.get(CHAMPION, "")))

    def promote(
        self, version: str, *, instead_of: str, why: str, figures: dict[str, Any], forced: bool = False
    ) -> Act:
        """Make a version the champion.

        Args:
            version: its number.
            instead_of: the champion that it was measured against, "" for none.
            why: recorded.
            figures: recorded; what JSON holds.
            forced: whether the gate had its say overruled.

        Raises:
            RegistryError: another champion came meanwhile, another act does not end, no such version, or the
                store does not answer; the champion is as it was.
        """
        with self._acting() as reign:
            if reign.champion != instead_of:
                raise RegistryError(
                    f"{self.name}: the champion is {_named(reign.champion)} by now, not "
                    f"{_named(instead_of)}, which version {version} was measured against; promote again"
                )
            if version == reign.champion:
                raise RegistryError(f"{self.name}: version {version} is the champion already")
            find_version(self.store, self.name, version)
            return self._perform(reign, "force" if forced else "promote", version, why, figures)

    def settle(self) -> None:
        """Put in order what an act that was killed has left undone.

        Raises:
            RegistryError: another act does not end, or the store does not answer.
        """
        with self._acting():
            pass

    def note_refusal(self, version: str, text: str) -> None:
        """Leave on a version that the gate refused it; the next promotion takes it away."""
        with answering(self.store.uri):
            self._client().set_model_version_tag(self.name, version, REFUSED, text)

    def roll_back(self, *, why: str, check: Callable[[str], None], to: str = "") -> Act:
        """Make the champion before this one the champion again.

        Args:
            why: recorded.
            check: gets the number of that version, and raises if it cannot serve; nothing moves then.
            to: an earlier champion, rather than the one before.

        Raises:
            RegistryError: there is none, another act does not end, or the store does not answer; the champion
                is as it was. What `check` raises.
        """
        with self._acting() as reign:
            below = reign.below(self._numbers())
            now = f"{self.name}: the champion is {_named(reign.champion)}"
            if not below:
                raise RegistryError(f"{now}, and there is none before it to go back to")
            if to and to not in below:
                raise RegistryError(f"{now}; it can go back to version {', '.join(below)}, not to {to}")
            after = to or below[0]
            check(after)
            return self._perform(reign, "rollback", after, why, {})

    def _perform(self, reign: Reign, kind: Kind, after: str, why: str, figures: dict[str, Any]) -> Act:
        act = new_act(reign.acts, kind, reign.champion, after, why, figures, state="begun")
        client = self._client()
        with answering(self.store.uri):
            self._write(act)
            client.set_registered_model_alias(self.name, CHAMPION, after)  # this decides
        done = replace(act, state="done")
        try:
            self._conclude(Reign((*reign.acts, done), after), done)
        except RegistryError as error:  # decided all the same
            log.error("version %s is the champion; the next act completes its record: %s", after, error)
        return done

    def _conclude(self, reign: Reign, act: Act) -> None:
        """What follows from the last act; may be done again."""
        client, numbers = self._client(), self._numbers()
        below = reign.below(numbers)
        with answering(self.store.uri):
            if below:
                client.set_registered_model_alias(self.name, PREVIOUS, below[0])
            elif PREVIOUS in client.get_registered_model(self.name).aliases:
                client.delete_registered_model_alias(self.name, PREVIOUS)
            for number, tags in version_tags(act).items():
                for key, value in tags.items() if number in numbers else ():
                    client.set_model_version_tag(self.name, number, key, value)
            if act.after in numbers and REFUSED in client.get_model_version(self.name, act.after).tags:
                client.delete_model_version_tag(self.name, act.after, REFUSED)
            self._write(act)

    @contextmanager
    def _acting(self) -> Iterator[Reign]:
        """Hold the lock; what an earlier act left undone is put in order first."""
        with self._locked():
            found = self.reign()
            settled = found.settled
            for act in settled.acts[max(0, len(found.acts) - 1) :]:
                if act not in found.acts:
                    if act.state == "done":
                        self._conclude(settled, act)
                    else:
                        with answering(self.store.uri):
                            self._write(act)
            yield settled

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        owner = self.folder / "champions.owner"
        try:
            with FileLock(self.folder / "champions.lock", timeout=PATIENCE):
                owner.write_text(f"{whoami()}, process {os.getpid()}, since {now()}", encoding="utf-8")
                try:
                    yield
                finally:
                    owner.unlink(missing_ok=True)
        except Timeout:
            by = owner.read_text(encoding="utf-8") if owner.is_file() else "another process"
            raise RegistryError(
                f"{self.name}: its champion is being changed by {by}; try again when that has ended"
            ) from None

    def _write(self, act: Act) -> None:
        self._client().set_registered_model_tag(self.name, act.key, write_act(act))

    def _numbers(self) -> list[str]:
        return [version.number for version in all_versions(self.store, self.name)]

    def _client(self) -> Any:
        import mlflow

        return mlflow.MlflowClient(self.store.uri)


def _named(number: str) -> str:
    return f"version {number}" if number else "none"
