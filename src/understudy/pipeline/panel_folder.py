"""What a panel of specialists is made of, in its folder.

specialists.json          the generalist and its hash, the groups, how they were found
covariance.safetensors    of the generalist's predictions
specialist-0/, -1/, ...   a run folder each
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from understudy.errors import UnderstudyError
from understudy.files import read_json, sha256, write_whole
from understudy.models import load_network
from understudy.panels.panel import SpecialistPanel
from understudy.runs.run import Run

MANIFEST = "specialists.json"


class Manifest(BaseModel):
    """What a panel is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generalist: str  # its weights file, relative to the panel's folder
    sha256: str  # of that file
    data: str  # what the groups were found on
    clusters: int
    group_size: int | None
    columns: Literal["correlation", "covariance"]
    seed: int
    classes: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]  # the classes of each specialist
    confusion: tuple[float, ...]  # share of the generalist's expected confusion within each group
    top_n: int = 1  # number of the generalist's most probable classes that activate specialists
    soft: bool = False  # whether specialists keep the classes outside of their group apart

    @property
    def index(self) -> list[tuple[int, ...]]:
        """The class indices of each group."""
        return [tuple(self.classes.index(name) for name in group) for group in self.groups]

    def write(self, folder: Path) -> None:
        write_whole(folder / MANIFEST, json.dumps(self.model_dump(mode="json"), indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a panel; raises `UnderstudyError` if there is none or it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UnderstudyError(f"{folder} holds no specialists: it has no {MANIFEST}")
    try:
        return Manifest.model_validate(read_json(path, "run understudy specialists again with --overwrite"))
    except ValidationError as error:
        line = str(error).splitlines()[0]
        raise UnderstudyError(
            f"{path} is not what understudy specialists writes ({line}); run it again with --overwrite"
        ) from None


def specialist_run(folder: Path, number: int) -> Run:
    return Run(folder / f"specialist-{number}")


def untrained(folder: Path) -> list[int]:
    """The numbers of the specialists that are not fully trained."""
    numbers = range(len(read_manifest(folder).groups))
    return [n for n in numbers if not (specialist_run(folder, n).finished and _weights(folder, n).is_file())]


def panel_files(folder: Path) -> list[Path]:
    """All the files that a panel is read from: its manifest, the generalist, the specialists.

    Raises:
        UnderstudyError: A specialist is missing, or was trained for another generalist or group.
    """
    manifest = read_manifest(folder)
    files = [folder / MANIFEST, _generalist(folder, manifest)]
    if missing := untrained(folder):
        listed = ", ".join(map(str, missing))
        raise UnderstudyError(
            f"of the {len(manifest.groups)} specialists in {folder} these are not trained: {listed}; continue with: "
            f"understudy resume {folder}"
        )
    for number, group in enumerate(manifest.groups):
        run = specialist_run(folder, number)
        if next(iter(run.record.get("teachers", {}).values()), None) != manifest.sha256:  # after it: its targets
            raise UnderstudyError(
                f"{run.path} was trained from another generalist than {folder} names (its SHA-256 differs); "
                f"train it again: remove it and use --only {number}"
            )
        recipe = run.recipe.model_dump()
        if recipe.get("group") != group or bool(recipe.get("soft")) != manifest.soft:
            raise UnderstudyError(
                f"{run.path} is not a specialist for {', '.join(group[:8])}; remove it and use --only {number}"
            )
        files.append(_weights(folder, number))
    return files


def load_panel(folder: Path) -> SpecialistPanel:
    """The panel as a teacher; raises as `panel_files` does."""
    manifest = read_manifest(folder)
    _, generalist, *specialists = panel_files(folder)
    networks = [load_network(file) for file in specialists]
    return SpecialistPanel(load_network(generalist), networks, manifest.index, manifest.top_n)


def _weights(folder: Path, number: int) -> Path:
    return specialist_run(folder, number).path / "models" / "model-0.safetensors"


def _generalist(folder: Path, manifest: Manifest) -> Path:
    """The generalist's weights, checked to be those that the specialists started from."""
    file = Path(os.path.normpath(folder / manifest.generalist))
    if not file.is_file() and (run := specialist_run(folder, 0)).exists:  # the folder alone has moved
        known = Path(getattr(run.located_recipe(), "model", ""))
        file = known if known.is_file() and sha256(known) == manifest.sha256 else file
    if not file.is_file():
        raise UnderstudyError(f"the generalist of {folder} is not at {file}; restore it")
    if sha256(file) != manifest.sha256:
        raise UnderstudyError(
            f"{file} is not the generalist that {folder} was made for (its SHA-256 differs); restore it, or "
            "train the specialists again with --overwrite"
        )
    return file
