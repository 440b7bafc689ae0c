"""The run folder: what a run was to do, what it did, and its results.

recipe.yaml        the recipe, every field
run.json           versions, command, files with their places, teachers with their hashes, progress
data.json.gz       what the data was made of
metrics.jsonl      losses and accuracies of each member
first-stage.jsonl  those of a first stage, of methods of two
checkpoints/       what a resumed run continues from
models/            one weights file for each member
gallery/           the images shown on the page, with the teacher's answers
mistakes/          those of the surest mistakes
evaluation.json    the facts that the page is made from
report.html        the page
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from understudy.config.recipe import RECIPES, Recipe
from understudy.config.yaml import read_yaml, recipe_from, to_yaml
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import RunFacts
from understudy.files import remove_files, sha256, write_whole
from understudy.models import Network, load_network
from understudy.runs.folder import DATA, EVALUATION, RECORD, REPORT, About, EvaluatedFolder, read_record
from understudy.runs.places import Places, located, noted_places, same_files
from understudy.training.logging import read_metrics

_NOTES, _RECIPE = "run.json", "recipe.yaml"
_MODELS = ("model-[0-9]*.safetensors", "alone-[0-9]*.safetensors", "distilled-*[0-9].safetensors")
_WRITTEN = (
    "checkpoints/step-*.safetensors", "checkpoints/step-*.sha256", "checkpoints/first/step-*.safetensors",
    "checkpoints/first/step-*.sha256", "first-stage.jsonl", *(f"models/{name}" for name in _MODELS),
    "gallery/[0-9]*.png", "mistakes/[0-9]*.png", "tensorboard/events.*", "wandb/**/*", "mlflow.db", "metrics.csv",
    "metrics.jsonl", "decoder.json", DATA,
    EVALUATION, REPORT, _NOTES, _RECIPE,
)  # fmt: skip


class Machine(BaseModel):
    """What a run was begun on."""

    model_config = ConfigDict(extra="allow", frozen=True)

    device: str
    precision: str
    threads: int


class RunRecord(BaseModel):
    """What `run.json` holds; more may be noted."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str = ""
    recipe_sha256: str = ""
    created: str = ""
    command: list[str] = []
    versions: dict[str, str] = {}
    notes: list[str] = []
    teachers: dict[str, str] = {}
    """SHA-256 of each weights file that was read."""
    places: Places = Places()
    machine: Machine | None = None
    init_from: list[str] = []
    cautions: list[str] = []
    calibration: dict[str, str] = {}
    untrained_heads: list[str] = []
    sizes: dict[str, dict[str, float]] = {}
    skipped: dict[str, dict[str, str]] = {}
    seconds: float = 0.0
    finished: bool = False
    pages: list[str] = []


@dataclass(frozen=True)
class Run(EvaluatedFolder):
    """A run folder."""

    @property
    def recipe(self) -> Recipe:
        """`recipe.yaml`: the recipe as it was given.

        Raises:
            UnderstudyError: it is damaged, or is not as the run wrote it.
        """
        path, known = self.path / _RECIPE, self.record.get("recipe_sha256")
        if known and sha256(path) != known:
            raise UnderstudyError(
                f"{path} is not as it was when the run began; restore it, or train by it with: understudy "
                f"{self.record['kind']} --config {path} --run FOLDER"
            )
        return recipe_from(read_yaml(path), str(path))

    def located_recipe(self, *, required: bool = False) -> Recipe:
        """The recipe, with the paths where its files are now.

        Args:
            required: whether all of them must exist.

        Raises:
            UnderstudyError: a required file does not.
        """
        return located(self.recipe, self.record.get("places", {}), self.path, required=required)

    def is_of(self, recipe: Recipe) -> bool:
        """Whether this is the run of a recipe, by whatever paths it names its files."""
        return self.exists and same_files(self.located_recipe(), recipe)

    @property
    def record(self) -> dict[str, Any]:
        """`run.json`; {} before there is one.

        Raises:
            UnderstudyError: it is damaged.
        """
        path = self.path / _NOTES
        return read_record(path, RunRecord, "restore it, or repeat the run with --overwrite") if path.exists() else {}

    def note(self, **facts: Any) -> None:
        """Add to `run.json`."""
        write_whole(self.path / _NOTES, json.dumps(self.record | facts, indent=2) + "\n")

    @property
    def exists(self) -> bool:
        return (self.path / _RECIPE).exists() and (self.path / _NOTES).exists()

    def files(self) -> Iterator[Path]:
        """What a run wrote in the folder, its recipe last; nothing where there is no run.

        Raises:
            UnderstudyError: the folder has a recipe, and no run wrote it.
        """
        recipe = self.path / _RECIPE
        if not recipe.exists():
            return
        if not self.exists or read_yaml(recipe).get("kind") not in RECIPES:
            raise UnderstudyError(f"{recipe} is not of a run, and stays; choose another --run folder")
        for pattern in _WRITTEN:
            yield from sorted(path for path in self.path.glob(pattern) if path.is_symlink() or not path.is_dir())

    @property
    def duration(self) -> float:
        """Seconds of training, over all resumptions."""
        return float(self.record.get("seconds", 0.0))

    @property
    def about(self) -> About:
        """The verb, the data, and when and how long it ran."""
        recipe, created = self.recipe, self.record.get("created")
        return About(recipe.kind, recipe.data, datetime.fromisoformat(created) if created else None, self.duration)

    @property
    def facts(self) -> RunFacts:
        """The results of the evaluation."""
        return self.facts_of(RunFacts)

    @property
    def models(self) -> dict[str, Path]:
        """Member name -> weights file, the distilled ones first, in the order of the recipe's methods."""
        methods = getattr(self.recipe, "method", ()) if self.exists else ()

        def place(file: Path) -> tuple[bool, int, str]:
            method = file.stem.rpartition("-")[0].removeprefix("distilled-")
            return file.stem < "distilled", methods.index(method) if method in methods else 0, file.stem

        files = sorted((file for name in _MODELS for file in (self.path / "models").glob(name)), key=place)
        return {file.stem: file for file in files}

    def network(self, name: str, *, trust_code: bool = False) -> Network:
        """One of the trained networks, as "distilled-0"."""
        return load_network(self.path / "models" / f"{name}.safetensors", trust_code=trust_code)

    def open(self, recipe: Recipe, notes: Sequence[str] = ()) -> None:
        """Take the folder for a recipe, with notes for its page.

        Raises:
            UnderstudyError: it holds a run already.
        """
        if self.exists:
            if self.recipe != recipe:
                raise UnderstudyError(
                    f"{self.path} holds a run of another recipe; choose another --run folder or pass --overwrite"
                )
            if self.finished:
                raise UnderstudyError(f"{self.path} holds this run, finished; pass --overwrite to repeat it")
            raise UnderstudyError(
                f"{self.path} holds this run, unfinished; continue with: understudy resume {self.path}"
            )
        if (self.path / RECORD).exists():
            raise UnderstudyError(f"{self.path} holds several runs; choose another --run folder or pass --overwrite")
        if (self.path / _RECIPE).exists():
            raise UnderstudyError(f"{self.path / _RECIPE} is not of a run, and stays; choose another --run folder")
        text = to_yaml(recipe)
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.note(
            kind=recipe.kind, recipe_sha256=digest, notes=list(notes), places=noted_places(recipe, self.path)
        )  # fmt: skip
        write_whole(self.path / _RECIPE, text)

    def prepare(self, recipe: Recipe, notes: Sequence[str]) -> None:
        """Take the folder for a recipe, unless it holds that recipe's run already."""
        if self.exists and not self.is_of(recipe):
            self.clear()
        if not self.exists:
            self.open(recipe, notes)

    def clear(self) -> None:
        """Remove what a run wrote in the folder."""
        remove_files(list(self.files()), self.path)

    @property
    def begun(self) -> bool:
        """Whether it has a checkpoint or metrics."""
        metrics = self.path / "metrics.jsonl"
        checkpointed = any((self.path / "checkpoints").rglob("step-*.sha256"))
        return checkpointed or (metrics.exists() and metrics.stat().st_size > 0)

    def abandon(self) -> None:
        """Remove what was written if a mistake ended the run before it had begun."""
        if not self.begun:
            self.clear()

    def epochs(self) -> list[dict[str, Any]]:
        """The metrics at the end of each epoch."""
        return [row for row in read_metrics(self.path / "metrics.jsonl") if row.get("end_of_epoch")]


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
    run = Run(path)
    if not run.exists:
        missing = next(name for name in (_RECIPE, _NOTES) if not (path / name).exists())
        raise UnderstudyError(f"{path} is not a run folder: it has no {missing}")
    return run
