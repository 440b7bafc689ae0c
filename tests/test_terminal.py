"""What takes long says so."""

from __future__ import annotations

import threading
import time

import pytest

from understudy import terminal
from understudy.terminal import Terminal


def test_a_wait_is_said_every_few_seconds_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "_REMIND", 0.05)
    before = threading.active_count()
    with Terminal().waiting("exporting [b]x"):
        time.sleep(0.3)
    assert threading.active_count() == before
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 6
    assert lines[0] == "exporting [b]x, 0 s"
    with pytest.raises(ValueError, match="inside"), Terminal().waiting("failing"):
        raise ValueError("inside")
    assert threading.active_count() == before


def test_a_short_wait_is_not_worth_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal().waiting("quick"):
        pass
    assert capsys.readouterr().out == ""
