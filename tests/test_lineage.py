"""What pins a run: the commit, dirty or not, and hashes of params and files."""

import dataclasses
import hashlib
import subprocess
from pathlib import Path

from cfpp.config import load_params
from cfpp.lineage import git_commit, lineage, params_hash

PROJECT = Path(__file__).parents[1]


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", str(root), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_is_dirty_for_code_but_not_for_what_repro_writes(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == "unknown"
    git(tmp_path, "init")
    assert git_commit(tmp_path) == "unknown"
    (tmp_path / "reports").mkdir()
    for name in ("code.py", "dvc.lock", "params.yaml", "reports/metrics.json"):
        (tmp_path / name).write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(tmp_path) == head
    (tmp_path / "dvc.lock").write_text("2")
    (tmp_path / "reports/metrics.json").write_text("2")
    (tmp_path / "params.yaml").write_text("2")
    (tmp_path / "untracked").write_text("2")
    assert git_commit(tmp_path) == head
    (tmp_path / "code.py").write_text("2")
    assert git_commit(tmp_path) == f"{head}-dirty"


def test_lineage_holds_what_exists(tmp_path: Path) -> None:
    params = load_params(PROJECT / "params.yaml")
    assert set(lineage(params, tmp_path)) == {"params_hash"}
    (tmp_path / "data/shards").mkdir(parents=True)
    (tmp_path / "data/shards/manifest.parquet").write_bytes(b"rows")
    (tmp_path / "dvc.lock").write_bytes(b"lock")
    tags = lineage(params, tmp_path)
    assert tags["data_manifest_sha"] == hashlib.sha256(b"rows").hexdigest()
    assert tags["dvc_lock_md5"] == hashlib.md5(b"lock").hexdigest()
    other = dataclasses.replace(params, run=dataclasses.replace(params.run, seed=1))
    assert params_hash(params) == tags["params_hash"] != params_hash(other)
