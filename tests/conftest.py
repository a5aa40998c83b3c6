"""Fixtures that every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.s3 import S3Server, s3_server

# Before anything imports torch: the tests' networks are tiny, and threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A loaded machine is no failure; what takes too long is caught by pytest's own timeout.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of facts, faces and weights beside the repository ($CFPP_SHARED names another)."""
    folder = Path(os.environ.get("CFPP_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "codeformer").is_dir():
        pytest.skip(f"{folder} is missing: reference data is not part of the repository; see CFPP_SHARED")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server in a process of its own, with an empty bucket."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Waiting for a second thread costs more than the tests' networks do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
