"""The run folder: what a run was to do, what it did, and its results.

recipe.yaml        the recipe, every field
run.json           versions, command, teachers with their hashes, progress
metrics.jsonl      losses and accuracies of each member
checkpoints/       what a resumed run continues from
models/            one weights file for each member
gallery/           the images shown on the page
evaluation.json    the facts that the page is made from
report.html        the page
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from understudy.config.recipe import Recipe
from understudy.config.yaml import read_yaml, recipe_from, to_yaml
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import RunFacts
from understudy.files import write_whole
from understudy.models import Network, load_network
from understudy.runs.folder import EvaluatedFolder

_PARTS = ("checkpoints/*", "models/*", "gallery/*")
_FILES = ("run.json", "metrics.jsonl", "evaluation.json", "report.html")


@dataclass(frozen=True)
class Run(EvaluatedFolder):
    """A run folder."""

    @property
    def recipe(self) -> Recipe:
        return recipe_from(read_yaml(self.path / "recipe.yaml"), str(self.path / "recipe.yaml"))

    @property
    def record(self) -> dict[str, Any]:
        """`run.json`; {} before there is one."""
        path = self.path / "run.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def note(self, **facts: Any) -> None:
        """Add to `run.json`."""
        write_whole(self.path / "run.json", json.dumps(self.record | facts, indent=2) + "\n")

    @property
    def exists(self) -> bool:
        return (self.path / "recipe.yaml").exists()

    @property
    def finished(self) -> bool:
        return bool(self.record.get("finished"))

    @property
    def duration(self) -> float:
        """Seconds of training, over all resumptions."""
        return float(self.record.get("seconds", 0.0))

    @property
    def facts(self) -> RunFacts:
        """The results of the evaluation."""
        return RunFacts.from_json(self.evaluation)

    @property
    def models(self) -> dict[str, Path]:
        """Member name -> weights file, the distilled ones first, in the order of the recipe's methods."""
        methods = getattr(self.recipe, "method", ()) if self.exists else ()

        def place(file: Path) -> tuple[bool, int, str]:
            method = file.stem.rpartition("-")[0].removeprefix("distilled-")
            return file.stem < "distilled", methods.index(method) if method in methods else 0, file.stem

        files = sorted((self.path / "models").glob("*.safetensors"), key=place)
        return {file.stem: file for file in files}

    def network(self, name: str, *, trust_code: bool = False) -> Network:
        """One of the trained networks, as "distilled-0"."""
        return load_network(self.path / "models" / f"{name}.safetensors", trust_code=trust_code)

    def open(self, recipe: Recipe, *, overwrite: bool = False) -> None:
        """Take the folder for a recipe.

        Raises:
            UnderstudyError: it holds a run already.
        """
        if self.exists and not overwrite:
            if self.recipe != recipe:
                raise UnderstudyError(
                    f"{self.path} holds a run of another recipe; choose another --run folder or pass --overwrite"
                )
            if self.finished:
                raise UnderstudyError(f"{self.path} holds this run, finished; pass --overwrite to repeat it")
            raise UnderstudyError(
                f"{self.path} holds this run, unfinished; continue with: understudy resume {self.path}"
            )
        if self.exists:
            for part in _PARTS:
                for file in self.path.glob(part):
                    file.unlink()
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)
        write_whole(self.path / "recipe.yaml", to_yaml(recipe))

    def prepare(self, recipe: Recipe, notes: Sequence[str], *, overwrite: bool) -> None:
        """Take the folder for a recipe, with notes for its page, unless it holds that recipe's run already."""
        if overwrite or not self.exists or self.recipe != recipe:
            self.open(recipe, overwrite=True)
            self.note(notes=list(notes))

    def abandon(self) -> None:
        """Remove the folder if a mistake ended the run before its first step."""
        if not (self.path / "metrics.jsonl").exists():
            for name in ("recipe.yaml", "run.json"):
                (self.path / name).unlink(missing_ok=True)
            if self.path.exists() and not any(self.path.iterdir()):
                self.path.rmdir()

    def epochs(self) -> list[dict[str, Any]]:
        """The metrics at the end of each epoch."""
        path = self.path / "metrics.jsonl"
        rows = [json.loads(line) for line in (path.read_text().splitlines() if path.exists() else [])]
        return [row for row in rows if row.get("end_of_epoch")]


def new_run_path(verb: str, name: str, default: str = "data") -> Path:
    """The first of runs/VERB-NAME-1, -2, ... that does not exist, NAME being the stem of a path in safe characters."""
    plain = plain_stem(name, default)
    paths = (Path("runs") / f"{verb}-{plain}-{number}" for number in count(1))
    return next(path for path in paths if not path.exists())


def plain_stem(name: str | Path, default: str) -> str:
    """The stem of a path in safe characters.

    >>> plain_stem("photos of birds.zip", "data"), plain_stem("...", "data")
    ('photos-of-birds', 'data')
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", Path(name).stem).strip("-.")[:100] or default


def find_run(path: Path) -> Run:
    """The run in a folder.

    Raises:
        UnderstudyError: there is none.
    """
    if not Run(path).exists:
        raise UnderstudyError(f"{path} is not a run folder: it has no recipe.yaml")
    return Run(path)
