"""Files on the local disk: there whole or not at all, and named by their content."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` in one step, flushed to the disk, when the block ends.

    After an error in the block, ``path`` is as it was and what was written is gone; after a kill it stays,
    under a name that is nobody else's and ends as the name of ``path`` does, and in .tmp. Missing folders
    above ``path`` are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # 60 characters are at most 240 bytes: the name of path may itself have the 255 that a file system takes
    partial = path.with_name(f"{uuid.uuid4().hex[:8]}.{path.name[-60:]}.tmp")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Digest of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
