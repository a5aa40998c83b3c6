"""The whole graph, for real: dvc, Ray, MLflow, every stage, at the smallest size."""

import csv
import hashlib
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.pipeline.conftest import STAGES
from tests.pipeline.project import Project

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def project(graph: Project) -> Project:
    """The last to need it, and so free to change it."""
    return graph


def test_every_face_is_accounted_for_in_every_stage(project: Project) -> None:
    for stage in ("shards", "restored", "pairs"):
        rows = pq.read_table(project.folder / "data" / stage / "manifest.parquet").to_pylist()
        assert sum(row["count"] + row["quarantined"] for row in rows) == 24 * 2
        assert {row["split"] for row in rows} == {"train", "val", "test"}


def test_no_identity_is_in_two_splits(project: Project) -> None:
    from cfpp.data.samples import SampleStore

    identities = {}
    for split in ("train", "val", "test"):
        store = SampleStore(project.folder, split, ("hq",))
        identities[split] = {store[i].identity for i in range(len(store))}
        assert identities[split]
    assert not identities["train"] & identities["test"]
    assert not identities["train"] & identities["val"]
    assert not identities["val"] & identities["test"]


def test_the_table_holds_every_picture_with_its_interval(project: Project) -> None:
    metrics = project.json("reports/metrics.json")
    text = json.dumps(metrics)
    for picture in ("lq", "id", "gp", "warp", "ap", "out"):
        assert f'"{picture}"' in text
    report = (project.folder / "reports" / "report.html").read_text()
    assert "<img" in report
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", report)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    with (project.folder / "reports" / "per_image.csv").open() as file:
        assert len(list(csv.DictReader(file))) > 0


def test_one_parent_run_holds_a_nested_run_per_stage(project: Project) -> None:
    parents = project.sql("select distinct value from tags where key = 'mlflow.parentRunId'")
    assert len(parents) == 1
    statuses = dict(project.sql("select name, status from runs"))
    for stage in STAGES:
        assert statuses.get(stage) == "FINISHED", statuses


def test_every_run_says_what_it_was_made_of(project: Project) -> None:
    manifest = (project.folder / "data" / "shards" / "manifest.parquet").read_bytes()
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=project.folder, capture_output=True, text=True, check=True
    ).stdout.strip()
    runs = [run for (run,) in project.sql("select run_uuid from runs")]
    assert len(runs) == 1 + len(STAGES)
    for run in runs:
        tags = dict(project.sql(f"select key, value from tags where run_uuid = '{run}'"))
        assert tags["data_manifest_sha"] == hashlib.sha256(manifest).hexdigest()
        assert tags["git_commit"] == head
        assert project.sql(f"select count(*) from params where run_uuid = '{run}'")[0][0] > 0


def test_training_runs_hold_curves_pictures_and_the_state_of_the_machine(project: Project) -> None:
    for stage in ("prior", "train_dam", "train_tgrn"):
        ((run, artifacts),) = project.sql(f"select run_uuid, artifact_uri from runs where name = '{stage}'")
        points = dict(project.sql(f"select key, count(*) from metrics where run_uuid = '{run}' group by key"))
        assert any(count > 1 and key.endswith("loss") for key, count in points.items()), points
        assert any(key.startswith("system/") for key in points), points
        pictures = [*Path(artifacts.removeprefix("file://")).rglob("*.png")]
        assert pictures, artifacts


def test_the_challenger_is_registered(project: Project) -> None:
    registered = project.json("reports/registered.json")
    aliases = project.sql("select name, alias, version from registered_model_aliases")
    assert ("codeformer-plus-plus", "challenger", int(registered["version"])) in [
        (name, alias, int(version)) for name, alias, version in aliases
    ]


def test_again_with_nothing_changed_no_stage_runs(project: Project) -> None:
    before = {path: path.stat().st_mtime_ns for path in (project.folder / "data").rglob("*.tar")}
    seconds = []
    for _ in range(3):  # the quickest: other work on the machine is no fault of the graph
        started = time.monotonic()
        assert project.repro() == []
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 10
    assert {path: path.stat().st_mtime_ns for path in (project.folder / "data").rglob("*.tar")} == before


def test_retrain_puts_what_the_graph_made_before_the_gate(project: Project) -> None:
    process = project.start("python", "-m", "pipelines.retrain", "--now")
    text, _ = process.communicate()
    report = project.json("reports/retrain.json")
    assert process.returncode == {"promoted": 0, "refused": 3}[report["decision"]], text[-6000:]
    version = report["version"]
    assert version == project.json("reports/registered.json")["version"]
    assert report["record"] == project.json("reports/promotion.json")
    champions = project.sql("select version from registered_model_aliases where alias = 'champion'")
    assert champions == ([(int(version),)] if report["decision"] == "promoted" else [])
    # no faces have come since
    assert "nothing to do: data/shards is what the retraining" in project.run(
        "python", "-m", "pipelines.retrain"
    )


def test_one_worker_writes_the_bytes_of_two_and_a_knob_redoes_only_what_follows(
    project: Project,
) -> None:
    def shards() -> dict[str, str]:
        # data/codes is the prior stage's own, which does not run again here
        stages = ("shards", "restored", "pairs")
        tars = sorted(tar for stage in stages for tar in (project.folder / "data" / stage).rglob("*.tar"))
        return {str(tar): hashlib.sha256(tar.read_bytes()).hexdigest() for tar in tars}

    made_by_two = shards()
    assert made_by_two
    params = project.folder / "params.yaml"
    text = params.read_text().replace("max_actors: 2 ", "max_actors: 1 ")
    text, count = re.subn(r"metric_margin: [\d.]+", "metric_margin: 0.6", text)
    assert count == 1
    params.write_text(text)
    shutil.rmtree(project.folder / "data")
    # prior and train_dam see no change: the data that they read are the same bytes
    assert project.repro() == ["shard", "synthesize", "pair", *STAGES[STAGES.index("train_tgrn") :]]
    assert shards() == made_by_two
    assert int(project.json("reports/registered.json")["version"]) == 2


def test_pictures_from_elsewhere_go_through_the_graph_as_the_priors_own_do(project: Project) -> None:
    from cfpp.data.pictures import encode_png
    from cfpp.data.samples import SampleStore

    folder, splits = project.folder, ("train", "val", "test")

    def restored() -> dict[tuple[str, int], list[bytes]]:
        stores = [SampleStore(folder, split, ("lq", "id", "gp")) for split in splits]
        return {
            item: [encode_png(picture) for picture in store.pictures(index).values()]
            for store in stores
            for index, item in enumerate(store.items)
        }

    before = restored()
    for place, name in enumerate(("degraded", "identity", "generative")):
        (folder / name).mkdir()
        for (key, variant), pictures in before.items():
            (folder / name / f"{key}.{variant}.png").write_bytes(pictures[place])
    (folder / "identity" / "surplus.0.png").write_bytes(pictures[1])
    params = folder / "params.yaml"
    shutil.copytree(folder / "models/prior", folder / "trained")  # its features are still wanted
    text = params.read_text().replace("kind: codeformer ", "kind: folder ")
    text = re.sub(r"source: train\b", "source: checkpoint", text).replace(
        'checkpoint: ""', "checkpoint: trained", 1
    )
    for column, name in (("lq", "degraded"), ("id", "identity"), ("gp", "generative")):
        text = text.replace(f'{column}_folder: ""', f"{column}_folder: {name}")
    params.write_text(text)
    ran = project.repro()
    assert "synthesize" in ran
    assert ran[-1] == "register"
    assert restored() == before
    facts = project.json("reports/synthesize.json")
    assert facts["prior_kind"] == "folder"
    assert (facts["id_asked"], facts["id_found"], facts["id_surplus"]) == (len(before), len(before), 1)
    assert facts["gp_missing"] == facts["quarantined"] == 0
    assert project.json("reports/registered.json")["parts"] == ["dam", "tgrn"]
