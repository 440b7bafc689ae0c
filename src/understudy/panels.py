"""The folder of a panel of specialists.

specialists.json          the generalist and its hash, the groups, how they were found
covariance.safetensors    of the generalist's predictions
specialist-0/, -1/, ...   a run folder each
evaluation.json           what report.html is made from
report.html
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from understudy.errors import UnderstudyError
from understudy.files import sha256, write_whole
from understudy.models import Network, load_network
from understudy.recipe import SpecialistRecipe
from understudy.runs import Run
from understudy.teachers import SpecialistPanel

MANIFEST = "specialists.json"


class Manifest(BaseModel):
    """What a panel is made of.

    Attributes:
        generalist: its weights file, from the panel's folder.
        sha256: of that file.
        data: what the groups were found on.
        clusters, group_size, columns, seed: how.
        groups: the classes of each specialist.
        held: the share of the generalist's expected confusion that lies within each group.
        top_n: how many of the generalist's most probable classes call specialists.
        soft: whether specialists keep the classes outside of their group apart.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    generalist: str
    sha256: str
    data: str
    clusters: int
    group_size: int | None
    columns: Literal["correlation", "covariance"]
    seed: int
    classes: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    held: tuple[float, ...]
    top_n: int = 1
    soft: bool = False

    @property
    def index(self) -> list[tuple[int, ...]]:
        """The class indices of each group."""
        return [tuple(self.classes.index(name) for name in group) for group in self.groups]


@dataclass(frozen=True)
class PanelFolder:
    """A folder of specialists."""

    path: Path

    @property
    def manifest_file(self) -> Path:
        return self.path / MANIFEST

    @property
    def exists(self) -> bool:
        return self.manifest_file.is_file()

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def manifest(self) -> Manifest:
        try:
            return Manifest.model_validate(json.loads(self.manifest_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UnderstudyError(f"{self.path} holds no specialists: it has no {MANIFEST}") from None
        except (ValidationError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise UnderstudyError(
                f"{self.manifest_file} is not what understudy specialists writes ({line}); make the panel again"
            ) from None

    def write(self, manifest: Manifest) -> None:
        write_whole(self.manifest_file, json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n")

    def run(self, number: int) -> Run:
        return Run(self.path / f"specialist-{number}")

    def weights(self, number: int) -> Path:
        return self.run(number).path / "models" / "model-0.safetensors"

    def missing(self) -> list[int]:
        """The specialists that are not trained to their end."""
        numbers = range(len(self.manifest.groups))
        return [number for number in numbers if not (self.run(number).finished and self.weights(number).is_file())]

    def generalist_file(self, manifest: Manifest) -> Path:
        """The generalist's weights.

        Raises:
            UnderstudyError: they are not there, or not those that the specialists began from.
        """
        file = Path(os.path.normpath(self.path / manifest.generalist))
        if not file.is_file():
            raise UnderstudyError(f"the generalist of {self.path} is not at {file}; put it back there")
        if sha256(file) != manifest.sha256:
            raise UnderstudyError(
                f"{file} is not the generalist that {self.path} was made for (its SHA-256 differs); put that back, or "
                "make the specialists again with --overwrite"
            )
        return file

    def parts(self) -> list[Path]:
        """All that the panel is read from: its list, the generalist, the specialists.

        Raises:
            UnderstudyError: a specialist is missing, or of another generalist or group.
        """
        manifest = self.manifest
        files = [self.manifest_file, self.generalist_file(manifest)]
        if missing := self.missing():
            listed = ", ".join(map(str, missing))
            raise UnderstudyError(
                f"of the {len(manifest.groups)} specialists in {self.path} these are not trained: {listed}; run "
                f"understudy specialists with the same flags again, or with --only {missing[0]}"
            )
        for number, group in enumerate(manifest.groups):
            run = self.run(number)
            if list(run.record.get("teachers", {}).values()) != [manifest.sha256]:
                raise UnderstudyError(
                    f"{run.path} was trained from another generalist than {self.path} names (its SHA-256 differs); "
                    f"train it again: remove it and use --only {number}"
                )
            recipe = run.recipe
            if not isinstance(recipe, SpecialistRecipe) or recipe.group != group or bool(recipe.soft) != manifest.soft:
                raise UnderstudyError(
                    f"{run.path} is not a specialist for {', '.join(group[:8])}; remove it and use --only {number}"
                )
            files.append(self.weights(number))
        return files

    def load(self, top_n: int | None = None) -> SpecialistPanel:
        """The panel as a teacher.

        Raises:
            UnderstudyError: as for `parts`.
        """
        manifest = self.manifest
        _, generalist, *specialists = self.parts()
        return SpecialistPanel(
            load_network(generalist), [load_network(file) for file in specialists], manifest.index,
            manifest.top_n if top_n is None else top_n,
        )  # fmt: skip


def load_teacher(file: Path) -> Network:
    """The network of a weights file, or the panel of a list of specialists."""
    return PanelFolder(file.parent).load() if file.name == MANIFEST else load_network(file)


def parts_of(file: Path) -> list[Path]:
    """The files that `load_teacher` reads."""
    return PanelFolder(file.parent).parts() if file.name == MANIFEST else [file]
