"""From registered versions to champions and back, as a user runs it, on a small project of real pictures."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from scipy import ndimage

from cfpp.cli import main as cfpp
from cfpp.config import Params, load_params
from cfpp.data.pictures import encode_png
from cfpp.data.samples import SampleStore
from cfpp.evaluation.contenders import columns_for, score
from cfpp.evaluation.measure import build_instruments
from cfpp.evaluation.metrics import psnr
from cfpp.registry.champions import Champions
from cfpp.registry.package import log_package, register
from cfpp.registry.provenance import RegistryError, part_tags
from cfpp.registry.runs import Store
from cfpp.restoration.restorer import PARTS, Restorer
from pipelines import promote as gate
from pipelines import rollback
from tests.tiny_models import SIZE, write_models
from tests.tiny_shards import write_stage

REPOSITORY = Path(__file__).resolve().parents[1]
PEOPLE = 8

# TGRN does something by chance to I_F in the first version, less in the second, which is so better
CHANGES = (0.1, 0.01)


def write_data(root: Path, side: int = SIZE) -> None:
    """A face of eight people, I_F a little softer than I_HQ."""
    clean, restored = [], []
    for number in range(PEOPLE):
        rng = np.random.default_rng(number)
        waves = ndimage.gaussian_filter(rng.standard_normal((side, side, 3)), (2, 2, 0))
        picture = np.clip(128 + 300 * waves, 0, 255).astype(np.uint8)
        facts = {"identity": f"p{number}", "source": "", "landmarks5": [], "landmarks68": []}
        meta = json.dumps(facts).encode()
        clean.append((f"p{number}s0", {"hq.png": encode_png(picture), "meta.json": meta}))
        soft = encode_png(ndimage.gaussian_filter(picture, (0.6, 0.6, 0)))
        softer = encode_png(ndimage.gaussian_filter(picture, (2, 2, 0)))
        pictures = {"0.lq.png": softer, "0.id.png": soft, "0.gp.png": softer}
        restored.append((f"p{number}s0", pictures | {"0.draw.json": b"{}"}))
    write_stage(root / "data/shards", {"test": clean})
    write_stage(root / "data/restored", {"test": restored})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[Any]]]:
    """A project, and two packages without a prior of their own that are logged there."""
    root = tmp_path_factory.mktemp("project")
    write_data(root)
    params = write_params(root)
    store = Store.open(params.mlflow, root)
    run = store.start_stage("register", store.start_parent("p", params, {}), {})
    packages = []
    for change in CHANGES:
        models = write_models(root / f"models{change}", prior_kind="folder", change=change)
        packages.append(log_package(models, PARTS[1:], {}))
    run.end("FINISHED")
    yield root, packages
    mlflow.set_tracking_uri(None)


def write_params(root: Path) -> Params:
    text = (REPOSITORY / "params.yaml").read_text()
    text = text[: text.index("promote: ")] + (
        "promote:\n"
        "  rules: [{metric: psnr, margin: 0.0, effect: 1.0}, {metric: nlpd, margin: -0.05, effect: 0.0}]\n"
        "  floors: [{metric: psnr, value: 10.0}]\n"
        "  latency_ceiling: 60.0\n  confidence: 0.95\n"
    )
    (root / "params.yaml").write_text(text)
    return load_params(root / "params.yaml")


@pytest.fixture
def project(
    made: tuple[Path, list[Any]], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The packages as versions 1 and 2 of a registered model of the test's own, without aliases."""
    root, packages = made
    write_params(root)
    params = root / "params.yaml"
    own = request.node.name
    params.write_text(params.read_text().replace("model_name: codeformer-plus-plus", f"model_name: {own}"))
    mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
    for package, change in zip(packages, CHANGES, strict=True):
        tags = part_tags(root / f"models{change}", PARTS[1:]) | {"eval.out.psnr": "21.5"}
        register(package, own, tags)
    monkeypatch.chdir(root)
    yield root
    shutil.rmtree(root / "reports", ignore_errors=True)


def registry(root: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{root}/mlflow.db")


def name(root: Path) -> str:
    return load_params(root / "params.yaml").mlflow.model_name


def aliases(root: Path) -> dict[str, str]:
    found = registry(root).get_registered_model(name(root)).aliases
    return {alias: str(number) for alias, number in found.items()}


def challenge(root: Path, number: str) -> None:
    registry(root).set_registered_model_alias(name(root), "challenger", number)


def state(root: Path) -> object:
    """What the registry and the reports hold."""
    model = registry(root).get_registered_model(name(root))
    tags = [registry(root).get_model_version(name(root), number).tags for number in "12"]
    reports = {path: path.read_bytes() for path in sorted(root.glob("reports/**/*")) if path.is_file()}
    return model.aliases, model.tags, tags, reports


def test_a_challenger_becomes_champion_only_when_it_is_better(
    project: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with pytest.raises(SystemExit, match=r"challenger: no such .* there is .* dvc repro -f -s register"):
        gate.main([])

    challenge(project, "1")
    before = state(project)
    assert gate.main(["--dry-run"]) == 0  # no champion yet: floors decide
    assert "Would be **promoted**" in caplog.text
    assert state(project) == before
    assert gate.main([]) == 0
    assert aliases(project) == {"challenger": "1", "champion": "1"}
    before = state(project)
    assert gate.main([]) == 0
    assert "is the champion already" in caplog.text
    assert state(project) == before

    challenge(project, "2")
    assert gate.main([]) == 0
    assert aliases(project) == {"challenger": "2", "champion": "2", "previous": "1"}
    record = json.loads((project / "reports/promotion.json").read_text())
    assert (record["decision"], record["champion"], record["challenger"]) == ("promoted", "1", "2")
    assert record["test_set"]["people"] == PEOPLE
    # the figures are those of the models' own restoring
    rows = pd.read_csv(project / "reports/promotion/scores.csv").set_index(["kind", "key"])
    store = SampleStore(project, "test", ("hq", "id", "gp"))
    pictures = [store.pictures(index) for index in range(PEOPLE)]
    truth, i_f, i_g = (np.stack([face[name] for face in pictures]) for name in ("hq", "id", "gp"))
    for kind, change in (("champion", 0.1), ("challenger", 0.01)):
        out = Restorer.load(project / f"models{change}").fuse(i_f, i_g)
        np.testing.assert_allclose(rows.loc[kind, "psnr"], psnr(out, truth), rtol=1e-5)
    means = rows.groupby("kind")["psnr"].mean()
    [rule, _] = record["rules"]
    assert rule["improvement"]["mean"] == pytest.approx(means["challenger"] - means["champion"], rel=1e-4)
    assert 0 < rule["improvement"]["low"] < rule["improvement"]["mean"]
    assert "PSNR, dB (high) better" in (project / "reports/promotion.md").read_text()

    # the worse one is refused, says why, and changes nothing but its own tag
    caplog.clear()
    assert gate.main(["--challenger", "1"]) == 3
    assert "**Refused** by psnr" in caplog.text
    assert "**failed**" in caplog.text
    assert aliases(project) == {"challenger": "2", "champion": "2", "previous": "1"}
    assert "psnr" in registry(project).get_model_version(name(project), "1").tags["refused_by_gate"]
    assert json.loads((project / "reports/promotion.json").read_text())["decision"] == "refused"

    with pytest.raises(SystemExit) as stop:
        gate.main(["--challenger", "1", "--force"])
    assert stop.value.code == 2
    assert gate.main(["--challenger", "1", "--force", "--reason", "a customer's demo"]) == 0
    assert aliases(project) == {"challenger": "2", "champion": "1", "previous": "2"}
    assert "refused_by_gate" not in registry(project).get_model_version(name(project), "1").tags

    assert rollback.main(["--reason", "too noisy"]) == 0
    assert aliases(project)["champion"] == "2"
    with pytest.raises(SystemExit, match="there is none before it to go back to"):
        rollback.main(["--reason", "again"])
    capsys.readouterr()
    assert cfpp(["registry", "history"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4].strip() for line in lines] == ["", "", "", "", "now"]
    for line, words in zip(
        lines[1:],
        ("none  1   promote", "1     2   promote", "2     1   force", "1     2   rollback"),
        strict=True,
    ):
        assert words in line
    assert "a customer's demo" in lines[3]
    assert "psnr improves by +" in lines[2]
    assert cfpp(["registry", "list"]) == 0
    table = capsys.readouterr().out
    assert "out.psnr" in table
    assert "challenger, champion" in table


def test_what_is_gone_or_damaged_is_named_and_the_champion_stays(project: Path) -> None:
    challenge(project, "1")
    assert gate.main([]) == 0
    challenge(project, "2")
    assert gate.main([]) == 0
    before = aliases(project)
    with pytest.raises(SystemExit, match="promote: nobody: no such model version; there is test_what"):
        gate.main(["--challenger", "nobody"])

    packages = sorted(
        (project / "mlartifacts").rglob("artifacts/tgrn"), key=lambda path: path.stat().st_mtime
    )
    held = [path.rename(path.with_name("hidden")) for path in packages]
    with pytest.raises(SystemExit, match=r"rollback: .*version 1 \(previous\): .*tgrn.*the champion stays"):
        rollback.main(["--reason", "bad"])
    with pytest.raises(SystemExit, match=r"promote: .*version 1 \(previous\): .*tgrn.*not found"):
        gate.main(["--challenger", "1"])
    assert aliases(project) == before

    held[0].rename(packages[0])  # now only the champion is damaged
    with pytest.raises(SystemExit, match=r"version 2.*nothing can be measured against it: run python -m"):
        gate.main(["--challenger", "1"])
    assert aliases(project) == before
    assert gate.main(["--challenger", "1", "--force", "--reason", "the champion's files are gone"]) == 0
    assert aliases(project)["champion"] == "1"
    assert "the champion cannot be measured" in (project / "reports/promotion.md").read_text()
    held[1].rename(packages[1])


def test_a_registry_that_is_down_or_empty_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    text = (project / "params.yaml").read_text()
    text = text.replace("sqlite:///mlflow.db", "http://127.0.0.1:9")
    (project / "params.yaml").write_text(text)
    with pytest.raises(SystemExit, match=r"promote: mlflow.tracking_uri http://127.0.0.1:9: "):
        gate.main([])
    with pytest.raises(SystemExit, match=r"rollback: mlflow.tracking_uri http://127.0.0.1:9: "):
        rollback.main(["--reason", "bad"])
    for action in ("list", "history"):
        assert cfpp(["registry", action]) == 1
        assert "cfpp registry: mlflow.tracking_uri http://127.0.0.1:9: " in capsys.readouterr().err
    (project / "params.yaml").write_text(text.replace("http://127.0.0.1:9", "sqlite:///none.db"))
    for action in ("list", "history"):
        assert cfpp(["registry", action]) == 1
        assert "run dvc repro register" in capsys.readouterr().err
    assert not (project / "none.db").exists()


def test_another_champion_that_came_while_it_was_measured_stays(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenge(project, "2")
    params = load_params()

    def slow(*given: object) -> object:
        registry(project).set_registered_model_alias(name(project), "champion", "1")
        return measured(*given)

    measured = gate._score
    monkeypatch.setattr(gate, "_score", slow)
    with pytest.raises(RegistryError, match="the champion is version 1 by now, not none"):
        gate.promote(params, project)
    assert aliases(project)["champion"] == "1"


def test_a_champion_whose_alias_was_removed_is_not_forgotten(project: Path) -> None:
    for number in "12":
        challenge(project, number)
        assert gate.main([]) == 0
    registry(project).delete_registered_model_alias(name(project), "champion")
    with pytest.raises(SystemExit, match=r"had a champion.*pipelines\.rollback, or promote with --force"):
        gate.main(["--challenger", "1"])
    assert "champion" not in aliases(project)
    assert rollback.main(["--reason", "its alias was removed"]) == 0
    assert aliases(project)["champion"] == "2"


def test_a_report_that_cannot_be_written_is_said_and_the_promotion_stands(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    challenge(project, "1")
    (project / "reports" / "promotion.md").mkdir(parents=True)
    assert gate.main([]) == 0
    assert "promoted, but its report cannot be written" in caplog.text
    assert aliases(project)["champion"] == "1"


def test_what_follows_from_a_promotion_is_made_up_for_later(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    challenge(project, "1")
    assert gate.main([]) == 0
    challenge(project, "2")
    with monkeypatch.context() as patch:

        def down(*_: object) -> None:
            raise RegistryError("the store went away")

        patch.setattr(Champions, "_conclude", down)
        assert gate.main([]) == 0
    assert "version 2 is the champion; the next act completes its record" in caplog.text
    assert aliases(project) == {"challenger": "2", "champion": "2"}
    assert gate.main([]) == 0  # it is so already
    assert aliases(project) == {"challenger": "2", "champion": "2", "previous": "1"}


def test_a_damaged_database_is_named(project: Path) -> None:
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("mlflow.db", "broken.db"))
    (project / "broken.db").write_bytes(b"no database" * 100)
    with pytest.raises(SystemExit, match=r"promote: mlflow.tracking_uri sqlite:///.*broken.db: "):
        gate.main([])


def test_few_resamples_do_not_make_the_gate_a_matter_of_luck(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[int]()

    def judged(*given: Any, **options: Any) -> object:
        seen.append(given[2].resamples)
        return judge(*given, **options)

    judge = gate.judge
    monkeypatch.setattr(gate, "judge", judged)
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("bootstrap: 2000", "bootstrap: 1"))
    challenge(project, "1")
    assert gate.main(["--dry-run"]) == 0
    assert seen == [1000]


def test_a_prior_of_their_own_gets_i_lq_and_another_size_is_brought_to_the_test_sets(tmp_path: Path) -> None:
    write_data(tmp_path, side=96)
    own = Restorer.load(write_models(tmp_path / "own"))
    pair = Restorer.load(write_models(tmp_path / "pair", prior_kind="folder"))
    assert columns_for([own, pair]) == ("hq", "lq", "id", "gp")
    assert columns_for([own]) == ("hq", "lq")
    store = SampleStore(tmp_path, "test", ("hq", "lq", "id", "gp"))
    instruments = build_instruments("procedural", load_params(REPOSITORY / "params.yaml").weights)
    found = score(store, {"own": own, "pair": pair}, instruments, 3)
    faces = [store.pictures(index) for index in range(PEOPLE)]
    truth, lq, i_f, i_g = (np.stack([face[name] for face in faces]) for name in ("hq", "lq", "id", "gp"))
    for kind, small in (("own", own.restore(lq)), ("pair", pair.fuse(i_f, i_g))):
        assert small.shape[1:] == (SIZE, SIZE, 3)
        out = np.stack([cv2.resize(face, (96, 96), interpolation=cv2.INTER_CUBIC) for face in small])
        rows = found.rows[found.rows["kind"] == kind]
        np.testing.assert_allclose(rows["psnr"], psnr(out, truth), rtol=1e-6)
    assert found.size == 96
    assert set(found.latency) == {"own", "pair"}
    assert min(found.latency.values()) > 0
    # the test set is known by its pictures, however they are read
    assert score(store, {"own": own}, instruments, 8).sha256 == found.sha256
