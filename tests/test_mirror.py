"""What the project sees of a storage that lies elsewhere."""

from pathlib import Path

import pytest

from pipelines.mirror import MirrorError, check_same, pull, pull_all, push, stage_files

REPOSITORY = Path(__file__).resolve().parents[1]


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_dvc_yaml_says_what_belongs_to_a_stage() -> None:
    files = stage_files("synthesize", REPOSITORY)
    assert files.deps == ("data/shards", "models/prior")
    assert files.outs == ("data/restored", "reports/synthesize.json")
    assert stage_files("shard", REPOSITORY).deps == ()
    assert "reports/curves/train_dam.csv" in stage_files("evaluate", REPOSITORY).deps
    assert set(stage_files("train_dam", REPOSITORY).deps) == {"data/restored", "data/shards"}


def test_tables_models_and_reports_are_copied_and_tars_stay(tmp_path: Path) -> None:
    store, project = tmp_path / "store", tmp_path / "project"
    write(
        store, data__x__manifest_dot_parquet="m", data__x__train__0_dot_tar="t", models__a__card_dot_json="c"
    )
    write(
        project,
        data__x__train__9_dot_tar="of a run here",
        models__a__old_dot_json="old",
        models__b__x="other",
    )
    pull(store, project, ["data/x", "models/a", "models/none"])
    assert content(project) == {
        "data/x/manifest.parquet": "m",
        "models/a/card.json": "c",
        "models/b/x": "other",
    }
    write(project, reports__r_dot_json="r", models__a__more="new")
    (project / "models/a/card.json").unlink()
    push(store, project, ["data/x", "models/a", "reports/r.json"])
    assert content(store) == {
        "data/x/manifest.parquet": "m",
        "data/x/train/0.tar": "t",
        "models/a/more": "new",
        "reports/r.json": "r",
    }


def test_nothing_in_the_storage_deletes_nothing_here(tmp_path: Path) -> None:
    write(tmp_path / "project", models__a__card_dot_json="mine")
    with pytest.raises(MirrorError, match=r"models/a: nothing is there; do all machines see the same"):
        pull_all(tmp_path / "store", tmp_path / "project", ["models/a"])
    assert content(tmp_path / "project") == {"models/a/card.json": "mine"}


@pytest.mark.parametrize("theirs", ["other", None])
def test_what_another_run_wrote_is_noticed(tmp_path: Path, theirs: str | None) -> None:
    store, project = tmp_path / "store", tmp_path / "project"
    write(project, data__x__manifest_dot_parquet="mine", reports__m_dot_json="same")
    write(store, data__x__manifest_dot_parquet="mine", reports__m_dot_json="same")
    check_same(store, project, ["data/x", "reports/m.json", "models/not_here"])
    (store / "reports/m.json").unlink()
    if theirs:
        write(store, reports__m_dot_json=theirs)
    with pytest.raises(MirrorError, match=r"reports/m\.json is not what lies in"):
        check_same(store, project, ["data/x", "reports/m.json"])
