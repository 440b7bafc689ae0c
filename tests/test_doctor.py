"""What `understudy doctor` says of an installation."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from understudy.cli.app import main
from understudy.verbs.doctor import doctor

REQUIRES = [
    "numpy>=1.26", "torch>=2", 'onnx>=1; extra == "export"', 'no-such-package>=2; extra == "other"',
    'pytest; extra == "test"', 'numpy>=99999; extra == "newer"', 'not-for-us; sys_platform == "none"',
]  # fmt: skip


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the package asks for; tests may add to it."""
    lines = list(REQUIRES)
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    return lines


def test_extras_are_those_of_the_package(installed: list[str]) -> None:
    found = doctor()
    assert [part.name for part in found.packages] == ["numpy", "torch"]
    assert found.healthy
    assert {name: [part.state for part in parts] for name, parts in found.extras.items()} == {
        "export": ["ok"], "other": ["missing"], "newer": ["old"],
    }  # fmt: skip
    (missing,) = found.extras["other"]
    assert missing.remedy == "pip install 'understudy[other]'"
    assert found.extras["newer"][0].value == f"{metadata.version('numpy')}, not >=99999"


def test_terminal_and_exit_code(installed: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert main(["doctor", "--data-root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}: digits, cifar10" in out
    assert "no: no-such-package missing; pip install 'understudy[other]'" in out
    installed.append("no-such-package")
    assert main(["doctor", "--data-root", str(tmp_path / "absent")]) == 1
    out = capsys.readouterr().out
    assert "no-such-package  missing; pip install --upgrade understudy" in out
    assert "UNDERSTUDY_DATA" in out


def test_folders_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNDERSTUDY_DATA", str(tmp_path))
    monkeypatch.setenv("UNDERSTUDY_CACHE", "")
    folders = {part.name: part for part in doctor().folders}
    assert folders["data"].value == f"{tmp_path}: digits"
    assert folders["decoded images"].value.startswith("not kept")
