"""The wheel: what it holds, and that it is installed and runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import understudy

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = [name for name in ("build", "hatchling") if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def test_wheel_holds_all_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as held:
        names = set(held.namelist())
        metadata = next(held.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    package = ROOT / "src" / "understudy"
    files = {
        f"understudy/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "understudy/py.typed" in files
    assert {name for name in names if name.startswith("understudy/")} == files
    assert f"Version: {understudy.__version__}\n" in metadata
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert all(f"Provides-Extra: {name}\n" in metadata for name in extras)


def test_wheel_is_installed_and_runs(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(pip, check=True, capture_output=True)
    script = site / "bin" / "understudy"
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([script, "--version"], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout.strip() == understudy.__version__, done.stderr
    program = "import understudy; print(understudy.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path, check=True
    )
    assert found.stdout.strip() == str(site / "understudy" / "__init__.py")
    train = [script, "train", "digits", "--model", "mlp:4x1", "--epochs", "1", "--threads", "1", "--run", "run"]
    subprocess.run(train, check=True, capture_output=True, env=environment, cwd=tmp_path)
    assert "</html>" in (tmp_path / "run" / "report.html").read_text()  # its templates are in the wheel
