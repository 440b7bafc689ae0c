"""The option of the fault campaign; a cache of the tests' own; and `tmp`, the folder of the examples in docstrings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", action="store_true", help="run every case of tests/faults, not a sample")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["UNDERSTUDY_CACHE"] = str(tmp_path_factory.mktemp("cache"))  # of this process and of those it starts


@pytest.fixture(autouse=True)
def _folder(doctest_namespace: dict[str, Any], tmp_path: Path) -> None:
    doctest_namespace["tmp"] = tmp_path
