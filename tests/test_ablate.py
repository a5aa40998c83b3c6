"""Ablations: what each changes, where they run, what becomes of those that fail."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cfpp.config import load_params, to_dict
from cfpp.evaluation.ablations import FULL, AblationError
from cfpp.profiles import apply_profile
from cfpp.synthesis.faces import face_config_hash
from pipelines import ablate as module
from pipelines.ablate import ABLATIONS, SEEDS, ablate, choose, main
from pipelines.experiment import (
    FOLDER,
    Experiment,
    ExperimentError,
    _as_override,
    clear,
    overridden,
)

REPOSITORY = Path(__file__).resolve().parents[1]
PROFILES = [None, *sorted(REPOSITORY.glob("profiles/*.yaml"))]


def changed(before: dict, after: dict, where: str = "") -> list[str]:
    """Dotted keys at which two trees differ."""
    found = []
    for key, value in before.items():
        if isinstance(value, dict):
            found += changed(value, after[key], f"{where}{key}.")
        elif value != after[key]:
            found.append(f"{where}{key}")
    return found


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem if path else "params")
def test_each_changes_one_parameter_and_dvc_reads_it_so(tmp_path: Path, profile: Path | None) -> None:
    from dvc.utils.hydra import apply_overrides

    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    if profile:
        apply_profile(profile, tmp_path / "params.yaml")
    base = to_dict(load_params(tmp_path / "params.yaml"))
    words: dict = dict.fromkeys(SEEDS, 3)
    for ablation in ABLATIONS:
        assert len(ablation.overrides) == (ablation.name != FULL)
        ours = to_dict(overridden(tmp_path, ablation.overrides))
        assert set(changed(base, ours)) <= set(ablation.overrides)
        words |= ablation.overrides
    ours_all = overridden(tmp_path, words)
    apply_overrides(
        str(tmp_path / "params.yaml"), [f"{key}={_as_override(value)}" for key, value in words.items()]
    )
    assert load_params(tmp_path / "params.yaml") == ours_all


def test_a_seed_of_the_trainings_leaves_the_faces_alone() -> None:
    params = overridden(REPOSITORY, dict.fromkeys(SEEDS, 5))
    assert (params.train_dam.train.seed, params.train_tgrn.train.seed) == (5, 5)
    assert params.prior.codebook.train.seed == 0
    assert face_config_hash(params) == face_config_hash(load_params(REPOSITORY / "params.yaml"))


def test_names() -> None:
    assert choose(()) == ABLATIONS
    assert [ablation.name for ablation in choose(["no-tam"])] == [FULL, "no-tam"]
    with pytest.raises(AblationError, match=r"no-tamm: no such ablation; there are: full, "):
        choose(["no-tamm"])


def test_list_shows_names_and_changes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(ablation.name in shown for ablation in ABLATIONS)
    assert "train_dam.lncc_window=21" in shown


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Experiments that write a table at once instead of training; lists those that ran. no-dam fails.

    TGRN is trained with the perceptual loss that the project's file `lpips` names, but for the full method's
    where it is there: DVC sees no reason. A copy says what has run in it.
    """
    names: list[str] = []

    def copy(source: Path, target: Path, root: Path) -> None:
        clear(target)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".cfpp", "ablations*"))

    def run(folder: Path, root: Path, experiment: Experiment, log_file: Path, lock: int) -> None:
        names.append(experiment.name.rsplit("-", 1)[0])
        if experiment.name.startswith("no-dam"):
            raise ExperimentError("train_tgrn: the loss is not finite")
        full, ran, card = names[-1].startswith("full"), folder / "ran", folder / "models/tgrn/card.json"
        assert ran.exists() != full, "an ablation starts from what the full method made"
        ran.touch()
        if not (full and card.exists()):
            write_json(card, {"config": {"training": {"perceptual": (root / "lpips").read_text()}}})
        rng = np.random.default_rng(list(experiment.name.encode()))
        rows = pd.DataFrame({"key": [f"k{i}" for i in range(8)], "variant": 0, "person": list("abcdefgh")})
        both = pd.concat([rows.assign(kind=kind, psnr=rng.normal(20, 1, 8)) for kind in ("out", "warp")])
        (folder / "reports").mkdir(exist_ok=True)
        both.to_csv(folder / "reports/per_image.csv", index=False)
        (folder / "reports/metrics.json").write_text("{}")

    monkeypatch.setattr(module, "copy_project", copy)
    monkeypatch.setattr(module, "run_experiment", run)
    return names


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "lpips").write_text("NLPD")
    return tmp_path


def test_one_that_fails_is_named_and_the_others_go_on(
    bare: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bare)
    assert main(["no-dam", "no-tam", "--seeds", "0", "1"]) == 1
    first = [f"{name}-seed{seed}" for seed in (0, 1) for name in ("full", "no-dam", "no-tam")]
    assert runs == first
    table = json.loads((bare / "reports/ablations.json").read_text())
    assert table["no-dam"]["failed"] == dict.fromkeys("01", "train_tgrn: the loss is not finite")
    assert table["no-tam"]["seeds"] == [0, 1]
    rows = {
        name: [
            pd.read_csv(bare / f"reports/ablations/{name}-seed{seed}/per_image.csv")
            .query("kind == 'out'")["psnr"]
            .mean()
            for seed in (0, 1)
        ]
        for name in ("full", "no-tam")
    }
    assert table["no-tam"]["differences"]["psnr"]["by_seed"] == pytest.approx(
        np.subtract(rows["no-tam"], rows["full"]), rel=1e-4
    )
    assert "FAILED, train_tgrn: the loss is not finite" in (bare / "reports/ablations.md").read_text()
    assert not [path for path in (bare / FOLDER).iterdir() if path.is_dir()]

    runs.clear()  # what is done is not done again; what failed is, from what the full method makes
    assert main(["no-dam", "no-tam"]) == 1
    assert runs == ["full-seed0", "no-dam-seed0"]
    runs.clear()
    assert main(["no-tam"]) == 0
    assert runs == []
    kept = json.loads((bare / "reports/ablations.json").read_text())
    assert kept["no-tam"] == table["no-tam"]
    assert kept["no-dam"]["failed"] == table["no-dam"]["failed"]  # though not asked for, and not mended


def test_other_params_or_code_make_it_run_again(
    bare: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ablations = choose(["no-tam"])
    ablate(bare, ablations, [0])
    runs.clear()
    text = (bare / "params.yaml").read_text()
    (bare / "params.yaml").write_text(re.sub(r"metric_margin: \S+", "metric_margin: 0.123", text))
    ablate(bare, ablations, [0])
    assert runs == ["full-seed0", "no-tam-seed0"]
    runs.clear()
    (bare / "dvc.yaml").write_text((bare / "dvc.yaml").read_text().replace("cfpp/data", "params.yaml", 1))
    ablate(bare, ablations, [0])
    assert runs == ["full-seed0", "no-tam-seed0"]


def test_what_was_made_from_something_else_is_not_compared(bare: Path, runs: list[str]) -> None:
    def trained_with(name: str) -> None:
        (bare / "lpips").write_text(name)
        write_json(bare / "models/tgrn/card.json", {"config": {"training": {"perceptual": name}}})

    trained_with("NLPD")
    table = ablate(bare, choose(["no-tam"]), [0])
    assert not table["no-tam"]["failed"]
    runs.clear()
    (bare / "lpips").write_text("LPIPS")  # fetched: what is trained from now on has it
    mixed = ablate(bare, choose(["no-tam", "no-metric"]), [0])
    assert runs == ["full-seed0", "no-metric-seed0"]
    assert mixed["no-tam"] == table["no-tam"]
    fault = "TGRN's perceptual loss: LPIPS, where the full method of the first seed has NLPD; bring"
    assert mixed["no-metric"]["failed"]["0"].startswith(fault)
    assert not mixed["no-metric"]["means"]
    runs.clear()
    trained_with("LPIPS")  # dvc repro --force
    mended = ablate(bare, choose(["no-tam", "no-metric"]), [0])
    assert runs == ["full-seed0", "no-tam-seed0", "no-metric-seed0"]
    assert not mended["no-metric"]["failed"]


@pytest.mark.parametrize("content", ["[1]", "{", '{"failed": ""}'])
def test_a_damaged_record_is_none(bare: Path, runs: list[str], content: str) -> None:
    ablate(bare, choose(["no-tam"]), [0])
    (bare / "reports/ablations/no-tam-seed0/experiment.json").write_text(content)
    runs.clear()
    assert ablate(bare, choose(["no-tam"]), [0])["no-tam"]["seeds"] == [0]
    assert runs == ["full-seed0", "no-tam-seed0"]


def test_a_record_without_its_figures_is_none(bare: Path, runs: list[str]) -> None:
    ablate(bare, choose(["no-tam"]), [0])
    (bare / "reports/ablations/no-tam-seed0/per_image.csv").unlink()
    table = ablate(bare, choose(["no-metric"]), [0])
    assert "no-tam-seed0/per_image.csv: no table" in table["no-tam"]["failed"]["0"]
    runs.clear()
    assert ablate(bare, choose(["no-tam"]), [0])["no-tam"]["seeds"] == [0]
    assert runs == ["full-seed0", "no-tam-seed0"]


def test_a_kill_leaves_no_record_of_another_experiments_figures(
    bare: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (bare / "params.yaml").read_text()
    ablate(bare, choose(["full"]), [0])
    (bare / "params.yaml").write_text(re.sub(r"metric_margin: \S+", "metric_margin: 0.123", first))
    with monkeypatch.context() as patch:
        patch.setattr(module, "git_commit", lambda _: module._stop(15, None))  # its figures are written
        with pytest.raises(SystemExit):
            ablate(bare, choose(["full"]), [0])
    (bare / "params.yaml").write_text(first)
    runs.clear()
    ablate(bare, choose(["full"]), [0])
    assert runs == ["full-seed0"]


def test_a_copy_that_fails_is_one_experiments_failure(
    bare: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, failing = vars(module)["copy_project"], [OSError("no room"), ExperimentError("git clone: no")]

    def full_disk(source: Path, target: Path, root: Path) -> None:
        if failing and target.name == ("ablated" if len(failing) == 2 else "full"):
            raise failing.pop(0)
        copy(source, target, root)

    monkeypatch.setattr(module, "copy_project", full_disk)
    table = ablate(bare, choose(["no-tam", "no-metric"]), [0, 1, 2])
    assert table["no-tam"]["failed"] == {"0": "no room", "1": "the full method failed: git clone: no"}
    assert table["full"]["failed"] == {"1": "git clone: no"}
    assert table["no-metric"]["seeds"] == [0, 2]
    monkeypatch.chdir(bare)
    assert main(["no-tam", "--seeds", "2"]) == 0  # the seeds that failed were not asked for


def test_on_the_projects_own_params_all_run_or_have_nothing_to_run(bare: Path, runs: list[str]) -> None:
    table = ablate(bare, ABLATIONS, [0])
    assert [name for name, entry in table.items() if entry["failed"]] == ["no-dam"]  # which the fixture fails
    void = {name: entry["void"] for name, entry in table.items() if entry["void"]}
    assert set(void) == {"negatives-id", "embedding-prior", "embedding-squeeze", "no-identity"}
    assert "needs squeezenet1_1-b8a52dc0.pth" in void["embedding-squeeze"]
    assert 'weights.root is ""' in void["embedding-squeeze"]
    assert [name.removesuffix("-seed0") for name in runs] == [a.name for a in ABLATIONS if a.name not in void]


def test_what_params_have_already_is_no_ablation(bare: Path, runs: list[str]) -> None:
    apply_profile(REPOSITORY / "profiles/ffhq512.yaml", bare / "params.yaml")
    table = ablate(bare, choose(["no-integration"]), [0])
    assert runs == ["full-seed0"]
    assert "params.yaml has it already" in table["no-integration"]["void"]


def test_storage_elsewhere_is_refused(bare: Path, runs: list[str]) -> None:
    text = (bare / "params.yaml").read_text()
    (bare / "params.yaml").write_text(text.replace('storage:\n  root: ""', "storage:\n  root: s3://b/p"))
    with pytest.raises(ExperimentError, match=r"storage\.root: is s3://b/p"):
        ablate(bare, ABLATIONS, [0])
    assert runs == []
