"""The ablation runner on a real graph of DVC, whose stages take no time."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.ablate import ablate, choose
from tests.pipeline.project import REPOSITORY

pytestmark = pytest.mark.slow

STAGE = """
import hashlib, pathlib, sys, yaml
params, (_, stage, out, *deps) = yaml.safe_load(open("params.yaml")), sys.argv
print("RUN", stage, flush=True)
made = repr(params.get(stage)) + "".join(pathlib.Path(dep).read_text() for dep in deps)
if params["train_tgrn"]["adversarial_weight"] == 0:
    sys.exit(f"{stage}: the loss is not finite")
path = pathlib.Path(out)
path.parent.mkdir(parents=True, exist_ok=True)
path.unlink(missing_ok=True)
if stage == "evaluate":
    figure = int(hashlib.sha256(made.encode()).hexdigest()[:6], 16) / 2**24
    rows = [f"k{i},0,p{i},out,{20 + figure + i / 10}" for i in range(6)]
    made = chr(10).join(["key,variant,person,kind,psnr", *rows])
    path.with_name("metrics.json").write_text("{}")
path.write_text(made)
"""


def stage(name: str, params: str, out: str, dep: str, **more: object) -> dict:
    return {
        "cmd": f"python stage.py {name} {out} {dep}",
        "deps": ["stage.py", dep],
        "params": [params],
        "outs": [out],
        **more,
    }


REPORTS = {
    "outs": [{"reports/per_image.csv": {"cache": False}}],
    "metrics": [{"reports/metrics.json": {"cache": False}}],
}
STAGES = {
    "train_dam": stage("train_dam", "train_dam", "models/dam", "data/shards/manifest.parquet"),
    "pair": stage("pair", "run", "data/pairs", "models/dam", outs=[{"data/pairs": {"persist": True}}]),
    "train_tgrn": stage("train_tgrn", "train_tgrn", "models/tgrn.bin", "data/pairs"),
    "evaluate": stage("evaluate", "evaluate", "reports/per_image.csv", "models/tgrn.bin", **REPORTS),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that is up to date, with a commit."""
    root = tmp_path / "project"
    (root / "data/shards").mkdir(parents=True)
    (root / "data/shards/manifest.parquet").write_text("faces")
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(json.dumps({"stages": STAGES}))
    for name in ("params.yaml", ".gitignore"):
        shutil.copy(REPOSITORY / name, root)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    git = [["git", "add", "-A"], ["git", *identity, "commit", "-qm", "Start"]]
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "repro", "-q"], *git):
        subprocess.run(command, cwd=root, check=True)
    return root


def test_each_computes_only_what_it_changes_and_the_project_stays(project: Path) -> None:
    def ran(trial: str) -> list[str]:
        lines = (project / "reports/ablations" / trial / "log.txt").read_text().splitlines()
        return [line.removeprefix("RUN ") for line in lines if line.startswith("RUN ")]

    def contents() -> dict[str, bytes]:
        folders = [project / name for name in ("data", "models")]
        files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
        files += [project / name for name in ("params.yaml", "dvc.lock", "reports/per_image.csv")]
        return {str(file): file.read_bytes() for file in files}

    before = contents()
    ablate(project, choose(["no-adversarial"]), [0])
    assert ran("full-seed0") == []
    table = ablate(project, choose(["no-tam"]), [1])
    assert ran("full-seed1") == list(STAGES)
    assert ran("no-tam-seed1") == ["train_tgrn", "evaluate"]
    assert (table["full"]["seeds"], table["no-tam"]["seeds"]) == ([0, 1], [1])
    assert table["no-tam"]["differences"]["psnr"]["mean"] != 0
    reason = table["no-adversarial"]["failed"]["0"]
    assert reason.startswith("train_tgrn: the loss is not finite (exit code ")
    assert contents() == before
    refs = ["git", "for-each-ref", "--format=%(refname:lstrip=-1)", "refs/exps"]
    names = subprocess.run(refs, cwd=project, capture_output=True, text=True, check=True).stdout.split()
    assert {name.rpartition("-")[0] for name in names} >= {"full-seed1", "no-tam-seed1"}
