"""Champions: the account of acts, and what a kill, another hand or another process does to it."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from filelock import FileLock
from mlflow import MlflowClient

from cfpp.config import MlflowParams
from cfpp.registry import champions as module
from cfpp.registry.acts import Reign, new_act, read_act, write_act
from cfpp.registry.champions import Champions
from cfpp.registry.provenance import RegistryError
from cfpp.registry.runs import Store

PARAMS = MlflowParams(tracking_uri="sqlite:///mlflow.db", experiment="faces", model_name="restorer")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("registry")
    Store.open(PARAMS, folder)
    yield folder
    mlflow.set_tracking_uri(None)


def make(root: Path, name: str, versions: int = 3) -> Champions:
    """A registered model whose versions nobody opens."""
    params = replace(PARAMS, model_name=name)
    client = MlflowClient(Store.open(params, root).uri)
    client.create_registered_model(name)
    for _ in range(versions):
        client.create_model_version(name, str(root))
    return Champions.open(params, root)


def aliases(champions: Champions) -> tuple[str, str]:
    found = MlflowClient(champions.store.uri).get_registered_model(champions.name).aliases
    return str(found.get("champion", "")), str(found.get("previous", ""))


def promote(champions: Champions, *numbers: str) -> None:
    for number in numbers:
        champions.promote(
            number, instead_of=champions.reign().champion, why=f"{number} is better", figures={}
        )


def back(champions: Champions, to: str = "") -> str:
    return champions.roll_back(why="bad", check=lambda number: None, to=to).after


def test_promotions_push_and_rollbacks_pop_and_the_history_says_so(root: Path) -> None:
    champions = make(root, "stack")
    with pytest.raises(RegistryError, match="the champion is none, and there is none before it"):
        back(champions)
    champions.promote("1", instead_of="", why="first", figures={"psnr": 22.5})
    assert aliases(champions) == ("1", "")
    promote(champions, "2", "3")
    assert aliases(champions) == ("3", "2")
    assert back(champions) == "2"
    assert aliases(champions) == ("2", "1")
    assert back(champions) == "1"
    assert aliases(champions) == ("1", "")  # not 2 or 3, which were rolled back from
    with pytest.raises(RegistryError, match="version 1, and there is none before it"):
        back(champions)
    promote(champions, "3", "2")
    with pytest.raises(RegistryError, match="can go back to version 3, 1, not to 7"):
        back(champions, to="7")
    assert back(champions, to="1") == "1"
    assert aliases(champions) == ("1", "")
    acts = champions.reign().acts
    assert [(act.kind, act.before, act.after) for act in acts] == [
        ("promote", "", "1"),
        ("promote", "1", "2"),
        ("promote", "2", "3"),
        ("rollback", "3", "2"),
        ("rollback", "2", "1"),
        ("promote", "1", "3"),
        ("promote", "3", "2"),
        ("rollback", "2", "1"),
    ]
    assert [act.number for act in acts] == list(range(1, 9))
    client = MlflowClient(champions.store.uri)
    first = client.get_model_version("stack", "1").tags
    assert first["promoted_from"] == "none"
    assert first["promotion_reason"] == "first"
    assert first["promoted_figures"] == '{"psnr": 22.5}'
    assert first["promoted_at"] == acts[0].when
    assert first["promoted_by"] == acts[0].who
    assert client.get_model_version("stack", "3").tags["rolled_back_to"] == "2"


def test_a_version_that_came_back_twice_is_left_for_good() -> None:
    acts = []
    for kind, before, after in (
        ("promote", "", "1"),
        ("promote", "1", "2"),
        ("force", "2", "1"),
        ("rollback", "1", "2"),
    ):
        acts.append(new_act(acts, kind, before, after, "", {}))
    reign = Reign(tuple(acts), "2")
    assert reign.stack("12") == ["2"]
    assert reign.below("12") == []
    assert Reign(tuple(acts[:3]), "1").below("12") == ["2"]
    assert Reign(tuple(acts[:3]), "1").below("1") == []  # 2 was deleted


def test_a_promotion_is_refused_where_another_champion_came_meanwhile(root: Path) -> None:
    champions = make(root, "meanwhile")
    promote(champions, "1", "2")
    with pytest.raises(RegistryError, match="version 2 by now, not version 1, which version 3 was measured"):
        champions.promote("3", instead_of="1", why="better", figures={})
    with pytest.raises(RegistryError, match="version 2 is the champion already"):
        promote(champions, "2")
    with pytest.raises(RegistryError, match="9: no such model version"):
        promote(champions, "9")
    assert aliases(champions) == ("2", "1")
    assert len(champions.reign().acts) == 2


def test_a_version_that_fails_its_check_does_not_become_champion(root: Path) -> None:
    champions = make(root, "checked")
    promote(champions, "1", "2")

    def damaged(number: str) -> None:
        raise RegistryError(f"{number} is damaged")

    with pytest.raises(RegistryError, match="1 is damaged"):
        champions.roll_back(why="bad", check=damaged)
    assert aliases(champions) == ("2", "1")
    assert len(champions.reign().acts) == 2


class Killed(BaseException):
    """The process ends here."""


class Dying:
    """A client that is killed right before its nth write."""

    def __init__(self, client: MlflowClient, at: int) -> None:
        self.client, self.left = client, at

    def __getattr__(self, name: str) -> Any:
        own = getattr(self.client, name)
        if not name.startswith(("set_", "delete_")):
            return own

        def write(*given: Any) -> None:
            self.left -= 1
            if self.left == 0:
                raise Killed
            own(*given)

        return write


@pytest.mark.parametrize("act", ["promotion", "rollback"])
def test_a_kill_at_any_write_leaves_a_valid_champion_and_a_true_history(
    root: Path, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(1, 20):
        name = f"{act}{at}"
        champions = make(root, name)
        promote(champions, "1", "2")
        client = Dying(MlflowClient(champions.store.uri), at)
        target = "3" if act == "promotion" else "1"
        with monkeypatch.context() as patch:
            patch.setattr(Champions, "_client", lambda self, client=client: client)
            try:
                promote(champions, "3") if act == "promotion" else back(champions)
                assert at > 5  # writes
                return
            except Killed:
                pass
        cut = aliases(champions)[0]
        assert cut in ("2", target)
        seen = champions.reign().settled  # what a reader of the history is told meanwhile
        assert [entry.after for entry in seen.acts if entry.state == "done"][-1] == cut
        # the next act puts it in order, whatever it is
        other = next(number for number in "123" if number != cut)
        promote(champions, other)
        assert aliases(champions) == (other, cut)
        acts = champions.reign().acts
        assert {entry.state for entry in acts} <= {"done", "abandoned"}
        done = [entry for entry in acts if entry.state == "done"]
        assert [entry.after for entry in done] == ["1", "2", *([target] if cut == target else []), other]
        assert [entry.before for entry in done] == ["", *(entry.after for entry in done[:-1])]
        if cut == target:
            left, tag = ("3", "promotion_reason") if act == "promotion" else ("2", "rolled_back_reason")
            assert MlflowClient(champions.store.uri).get_model_version(name, left).tags[tag]
    raise AssertionError("an act of fewer writes was expected")


def test_what_others_do_to_the_alias_becomes_part_of_the_history(root: Path) -> None:
    champions = make(root, "outside")
    promote(champions, "1", "2")
    client = MlflowClient(champions.store.uri)
    client.set_registered_model_alias("outside", "champion", "3")
    assert [act.kind for act in champions.reign().settled.acts] == ["promote", "promote", "outside"]
    assert back(champions) == "2"
    client.delete_registered_model_alias("outside", "champion")
    assert back(champions) == "2"
    client.delete_model_version("outside", "1")  # takes `previous` with it
    with pytest.raises(RegistryError, match="there is none before it"):
        back(champions)
    assert [(act.kind, act.before, act.after) for act in champions.reign().acts[2:]] == [
        ("outside", "2", "3"),
        ("rollback", "3", "2"),
        ("outside", "2", ""),
        ("rollback", "", "2"),
    ]
    assert champions.reign().acts[2].who == "unknown"


def test_acts_wait_for_each_other_and_say_for_whom(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    champions = make(root, "locked", versions=6)
    faults: list[BaseException] = []

    def act(number: str) -> None:
        try:
            with FileLock(root / "turns.lock"):  # so that instead_of is still true
                promote(champions, number)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=act, args=(number,)) for number in "123456"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert sorted(act.after for act in champions.reign().acts) == list("123456")
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    (root / ".cfpp/champions.owner").write_text("ada@forge, process 7, since noon")
    with (
        FileLock(root / ".cfpp/champions.lock"),
        pytest.raises(RegistryError, match="is being changed by ada@forge, process 7, since noon; try again"),
    ):
        back(champions)


def test_an_act_fits_into_a_tag_and_comes_back() -> None:
    act = new_act([], "force", "3", "4", "because " * 400, {"psnr": 22.25})
    assert len(act.why) == 1000
    assert read_act(act.key, write_act(act)) == act
    long = replace(act, figures={f"figure {number}": 0.125 for number in range(1000)})
    assert len(write_act(long)) < 5000
    assert read_act(long.key, write_act(long)) == replace(act, figures={})


def test_a_registry_without_versions_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no version of restorer; run dvc repro register"):
        Champions.open(PARAMS, tmp_path)
    assert list(tmp_path.iterdir()) == []  # asking makes nothing
