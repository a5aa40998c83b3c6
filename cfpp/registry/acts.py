"""Acts that change the champion, and what follows from all of them: no registry is asked here."""

import getpass
import json
import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

CHAMPION, PREVIOUS = "champion", "previous"
ACT = "champion.act."  # what the tags of acts begin with

_LONGEST = 4900  # characters; MLflow's databases hold 5000 in a tag of a registered model
_LONGEST_WHY = 1000

Kind = Literal["promote", "force", "rollback", "outside"]


@dataclass(frozen=True)
class Act:
    """One change of the champion.

    Attributes:
        number: counts from 1.
        kind: promote (the gate passed), force, rollback, or outside (the alias was moved by other means).
        state: begun; done; or abandoned, when it was cut off before the champion changed.
        when: UTC, ISO 8601; of an act outside, when it was noticed.
        who: user@host.
        why: for people.
        before, after: version numbers; "" for none.
        figures: what was measured, for a promotion.
        key: of its tag.
    """

    number: int
    kind: Kind
    state: Literal["begun", "done", "abandoned"]
    when: str
    who: str
    why: str
    before: str
    after: str
    figures: dict[str, Any]
    key: str


@dataclass(frozen=True)
class Reign:
    """The registered model at one moment: its acts, oldest first, and the champion's number, "" for none."""

    acts: tuple[Act, ...]
    champion: str

    @property
    def settled(self) -> "Reign":
        """The same with what was cut off finished or abandoned, and a change from outside as an act."""
        acts = list(self.acts)
        if acts and acts[-1].state == "begun":
            won = acts[-1].after == self.champion
            acts[-1] = replace(acts[-1], state="done" if won else "abandoned")
        done = [act for act in acts if act.state == "done"]
        known = done[-1].after if done else ""
        if known != self.champion:
            why = f"the alias {CHAMPION} was {'moved' if self.champion else 'removed'} by other means"
            acts.append(new_act(acts, "outside", known, self.champion, why, {}))
        return Reign(tuple(acts), self.champion)

    def stack(self, existing: Sequence[str]) -> list[str]:
        """The champions that are not rolled back, first to last, as far as they exist; the last is to be now.

        A promotion puts one on top. A rollback takes off all down to where it goes, and every entry of the
        version that it leaves, so that no later rollback ends there.
        """
        stack: list[str] = []
        for act in self.acts:
            if act.state == "done" and act.kind == "rollback":
                top = max((place for place, held in enumerate(stack) if held == act.after), default=-1)
                stack = [held for held in stack[:top] if held != act.before] + [act.after]
            elif act.state == "done" and act.after:
                stack.append(act.after)
        return [number for number in stack if number in existing]

    def below(self, existing: Sequence[str]) -> list[str]:
        """Where a rollback can go, nearest first."""
        stack = self.stack(existing)
        return [number for number in dict.fromkeys(reversed(stack)) if number != self.champion]


def new_act(
    acts: Sequence[Act],
    kind: Kind,
    before: str,
    after: str,
    why: str,
    figures: dict[str, Any],
    state: Literal["begun", "done"] = "done",
) -> Act:
    """The next act, by this user, now."""
    number = acts[-1].number + 1 if acts else 1
    # another machine may write one of the same number: neither is lost
    key = f"{ACT}{number:06d}.{uuid.uuid4().hex[:6]}"
    who = "unknown" if kind == "outside" else whoami()
    return Act(number, kind, state, now(), who, why[:_LONGEST_WHY], before, after, figures, key)


def read_act(key: str, value: str) -> Act:
    """The act that a tag holds."""
    number = int(key.removeprefix(ACT).split(".")[0])
    return Act(number=number, key=key, **json.loads(value))


def write_act(act: Act) -> str:
    """What its tag holds; figures that are too long for a tag are left out."""
    fields = {name: value for name, value in asdict(act).items() if name not in ("number", "key")}
    text = json.dumps(fields)
    return text if len(text) <= _LONGEST else json.dumps(fields | {"figures": {}})


def version_tags(act: Act) -> dict[str, dict[str, str]]:
    """Version number to what an act leaves on it."""
    if act.kind == "outside":
        return {}
    if act.kind == "rollback":
        left = {"at": act.when, "by": act.who, "to": act.after, "reason": act.why}
        return {act.before: {f"rolled_back_{name}": value for name, value in left.items()}}
    figures = json.dumps(act.figures)
    given = {"at": act.when, "by": act.who, "from": act.before or "none", "figures": figures[:_LONGEST]}
    return {
        act.after: {f"promoted_{name}": value for name, value in given.items()}
        | {"promotion_reason": act.why}
    }


def now() -> str:
    """UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def whoami() -> str:
    """user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
