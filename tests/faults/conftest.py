"""The fault campaign: each file is a kind of fault, each test a case. Without --campaign, only a sample runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--campaign"):
        return
    left_out = [item for item in items if item.get_closest_marker("campaign")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("campaign")]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """A row for each kind of fault: how many cases held."""
    if not config.getoption("--campaign"):
        return
    survived, total = Counter[str](), Counter[str]()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            kind = Path(report.nodeid.partition("::")[0]).stem.removeprefix("test_").replace("_", " ")
            total[kind] += 1
            survived[kind] += outcome == "passed"
    terminalreporter.section("faults")
    for kind in sorted(total):
        terminalreporter.write_line(f"{kind:<20}{survived[kind]:>6} of {total[kind]}")
