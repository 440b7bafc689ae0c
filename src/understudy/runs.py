"""The run folder: what a run was asked, what it did, and what came of it.

recipe.yaml        the resolved recipe
run.json           versions, command, teachers with their hashes, how far it got
metrics.jsonl      one line for each member at each look
checkpoints/       what a resumed run goes on from
models/            one weights file for each member
evaluation.json    what report.html is made from
report.html
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import UnderstudyError
from understudy.files import write_whole
from understudy.recipe import AnyRecipe
from understudy.recipe_text import read_yaml, recipe_from, to_yaml

if TYPE_CHECKING:
    from understudy.models import Network
    from understudy.reporting import RunFacts


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path

    @property
    def recipe(self) -> AnyRecipe:
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
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def duration(self) -> float:
        """Seconds of training, over all the times it was resumed."""
        return float(self.record.get("seconds", 0.0))

    @property
    def facts(self) -> RunFacts:
        """What the evaluation found."""
        from understudy.reporting import RunFacts

        path = self.path / "evaluation.json"
        if not path.exists():
            raise UnderstudyError(f"{self.path} has no evaluation yet; finish it with: understudy resume {self.path}")
        return RunFacts.from_json(json.loads(path.read_text()))

    @property
    def models(self) -> dict[str, Path]:
        """Member name -> weights file, the distilled ones first, in the order in which their methods were named."""
        methods = getattr(self.recipe, "method", ()) if self.exists else ()

        def place(file: Path) -> tuple[bool, int, str]:
            method = file.stem.rpartition("-")[0].removeprefix("distilled-")
            return file.stem < "distilled", methods.index(method) if method in methods else 0, file.stem

        files = sorted((self.path / "models").glob("*.safetensors"), key=place)
        return {file.stem: file for file in files}

    def network(self, name: str, *, trust_code: bool = False) -> Network:
        """One of the trained networks, as "distilled-0"."""
        from understudy.models import load_network

        return load_network(self.path / "models" / f"{name}.safetensors", trust_code=trust_code)

    def open(self, recipe: AnyRecipe, *, overwrite: bool = False) -> None:
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
                raise UnderstudyError(f"{self.path} holds this run, finished; pass --overwrite to make it again")
            raise UnderstudyError(f"{self.path} holds this run, unfinished; go on with: understudy resume {self.path}")
        if self.exists:
            for part in ("checkpoints/*", "models/*"):
                for file in self.path.glob(part):
                    file.unlink()
            for name in ("run.json", "metrics.jsonl", "evaluation.json", "report.html"):
                (self.path / name).unlink(missing_ok=True)
        write_whole(self.path / "recipe.yaml", to_yaml(recipe))

    def leave(self) -> None:
        """Give the folder back if a mistake ended the run before its first step."""
        if not (self.path / "metrics.jsonl").exists():
            for name in ("recipe.yaml", "run.json"):
                (self.path / name).unlink(missing_ok=True)
            if not any(self.path.iterdir()):
                self.path.rmdir()

    def epochs(self) -> list[dict[str, Any]]:
        """The metrics at the end of each epoch, as they were written."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [json.loads(line) for line in lines]
        return [row for row in rows if row.get("end_of_epoch")]


def fresh_run(recipe: AnyRecipe, verb: str = "") -> Path:
    """The first of runs/VERB-DATA-1, -2, ... that is not there; the verb is the recipe's kind where unset."""
    return fresh_folder(verb or recipe.kind, Path(recipe.data).stem, "data")


def fresh_folder(verb: str, name: str, unnamed: str) -> Path:
    """The first of runs/VERB-NAME-1, -2, ... that is not there, the name brought to what any file system takes."""
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or unnamed
    folders = (Path("runs") / f"{verb}-{plain}-{number}" for number in count(1))
    return next(folder for folder in folders if not folder.exists())


def find_run(path: Path) -> Run:
    """The run in a folder.

    Raises:
        UnderstudyError: there is none.
    """
    if not Run(path).exists:
        raise UnderstudyError(f"{path} is no run folder: it has no recipe.yaml")
    return Run(path)
