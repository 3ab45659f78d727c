"""Options shared by all tests."""

from __future__ import annotations

import os
import tempfile

import pytest

# Set before any test starts a process: no test may read or fill the cache of whoever runs the tests.
_CACHE = tempfile.TemporaryDirectory(prefix="opc-test-cache-")
os.environ["OPC_CACHE_DIR"] = _CACHE.name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="rewrite golden files whose meaning did not change")


@pytest.fixture
def bless(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--bless"))
