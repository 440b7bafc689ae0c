"""The notebooks of examples/ run; and a run shows itself in one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import understudy
from understudy.runs.run import Run

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY: dict[str, dict[str, Any]] = {
    "photos": {
        "photos": "digits", "student": "mlp:8x1", "transfer_options": {"steps": 1, "batch_size": 32, "crop_size": 8},
        "distill_options": {"epochs": 1, "seeds": 1, "precision": "32", "threads": 1},
    },
    "own-loop": {"data": "digits", "steps": 30},
    "to-a-phone": {
        "photos": "digits", "student": "mlp:8x1", "formats": ["torch"],
        "transfer_options": {"steps": 1, "batch_size": 32, "crop_size": 8},
        "distill_options": {"epochs": 1, "precision": "32", "threads": 1},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "net"
    return understudy.train("digits", "cnn:4", run=folder, epochs=1, precision="32", threads=1)


def test_every_notebook_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(TINY)


@pytest.mark.parametrize("name", TINY)
def test_notebook(name: str, backbone: Run, tmp_path: Path) -> None:
    if missing := [package for package in ("nbclient", "nbformat", "ipykernel") if find_spec(package) is None]:
        pytest.skip(f"{', '.join(missing)} not installed")
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "stored without outputs"
    (settings,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    tiny = TINY[name] | ({"backbone": str(backbone.path), "folder": str(tmp_path)} if name != "own-loop" else {})
    named = {line.partition(" = ")[0] for line in settings.source.splitlines()}
    assert set(tiny) == named
    settings.source = "\n".join(f"{key} = {value!r}" for key, value in tiny.items())
    NotebookClient(notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    if name != "own-loop":
        assert any("text/html" in out.get("data", {}) for out in shown)


def test_a_run_shows_its_headline_and_table(backbone: Run, tmp_path: Path) -> None:
    html = backbone._repr_html_()
    assert "<strong>Measured</strong>" in html
    accuracy = backbone.facts.rows[0].mean("accuracy") or 0
    assert f"{100 * accuracy:.2f}" in html
    assert "<pre" in html
    assert "not finished" in Run(tmp_path / "<b>")._repr_html_()
    assert "<b>" not in Run(tmp_path / "<b>")._repr_html_()
