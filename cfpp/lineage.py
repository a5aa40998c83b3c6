"""Where a result came from: the commit, the parameters, the data and the locked graph, as short strings.

All functions read the project folder (the current one by default) and never fail for want of git.
"""

import hashlib
import json
import logging
import os
import subprocess
from pathlib import Path
from typing import Any

from cfpp.config import to_dict
from cfpp.files import file_digest

logger = logging.getLogger(__name__)

MANIFEST = Path("data/shards/manifest.parquet")
UNKNOWN = "unknown"
GIT_COMMIT = "CFPP_GIT_COMMIT"  # environment variable: says it where the code travels alone

# what `dvc repro` itself rewrites in a tracked file is a result, and params have a hash of their own: neither
# is a change of the code
_NO_CODE = (":(exclude)dvc.lock", ":(exclude)reports", ":(exclude)params.yaml")


def git_commit(root: str | Path = ".") -> str:
    """Commit of the project in `root`, 40 hex digits; "-dirty" is appended when tracked files differ from it.

    dvc.lock, reports/ and params.yaml (see `params_hash`) do not count as dirt. "unknown" outside a
    repository, before the first commit, or without git, unless CFPP_GIT_COMMIT says it.
    """
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if not commit:
        return os.environ.get(GIT_COMMIT, UNKNOWN)
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *_NO_CODE)
    return commit if changes == "" else f"{commit}-dirty"


def params_hash(section: Any) -> str:
    """sha256 of a dataclass of parameters as canonical JSON, 64 hex digits."""
    text = json.dumps(to_dict(section), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: str | Path, algorithm: str = "sha256") -> str:
    """Digest of a file in hex, or "unknown" when there is no such file."""
    try:
        return file_digest(Path(path), algorithm)
    except FileNotFoundError:
        return UNKNOWN


def lineage(params: Any, root: str | Path = ".") -> dict[str, str]:
    """The tags that pin a run or a model version to what it was made of.

    Returns:
        git_commit, params_hash, data_manifest_sha (of data/shards/manifest.parquet) and dvc_lock_md5; what
        does not exist yet is left out.
    """
    root = Path(root)
    tags = {
        "git_commit": git_commit(root),
        "params_hash": params_hash(params),
        "data_manifest_sha": file_hash(root / MANIFEST),
        "dvc_lock_md5": file_hash(root / "dvc.lock", "md5"),
    }
    return {name: value for name, value in tags.items() if value != UNKNOWN}


def _git(root: str | Path, *words: str) -> str | None:
    command = ["git", "-C", str(root), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("%s: %s", " ".join(command), error)
        return None
    return done.stdout.strip()
