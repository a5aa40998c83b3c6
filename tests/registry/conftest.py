"""Loading a packaged model puts its code folder on sys.path, which must not reach the tests that follow."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _own_sys_path() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before
