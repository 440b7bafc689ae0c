"""What a run folder and a collection share: a record, the facts of an evaluation, and the page made from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from understudy.config.yaml import complaint
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import Facts
from understudy.files import read_json, write_whole

EVALUATION, REPORT = "evaluation.json", "report.html"
RECORD = "collection.json"
"""What makes a folder one of several runs."""


def read_record(path: Path, schema: type[BaseModel], remedy: str) -> dict[str, Any]:
    """What was noted in a file, checked; fields that were not noted are left out.

    Raises:
        UnderstudyError: it is damaged; with the remedy.
    """
    try:
        return schema.model_validate(read_json(path, remedy)).model_dump(exclude_unset=True)
    except ValidationError as error:
        where, why = complaint(error)
        raise UnderstudyError(f"{path} is damaged ({'.'.join(map(str, where))}: {why}); {remedy}") from None


F = TypeVar("F", bound=Facts)

DATA = "data.json.gz"
"""What the data was made of when the folder's first run began."""


@dataclass(frozen=True)
class About:
    """What a folder is of, as a list of runs has it."""

    kind: str  # the verb
    data: str
    created: datetime | None
    seconds: float  # of training


@dataclass(frozen=True)
class EvaluatedFolder(ABC):
    """A folder with a record, `evaluation.json` and `report.html`."""

    path: Path

    @property
    @abstractmethod
    def exists(self) -> bool:
        """Whether the folder has a record."""

    @property
    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What was noted."""

    @abstractmethod
    def note(self, **facts: Any) -> None:
        """Add to the record."""

    def finish(self) -> None:
        """Note that everything is written that the verb promises; called last."""
        self.note(finished=True, pages=[name for name in (EVALUATION, REPORT) if (self.path / name).exists()])

    @property
    def finished(self) -> bool:
        """Whether everything was written, and its pages are still there."""
        record = self.record if self.exists else {}
        return bool(record.get("finished")) and all((self.path / name).exists() for name in record.get("pages", ()))

    @property
    def without_page(self) -> list[str]:
        """What the terminal shows where there is no page."""
        missing = f"not finished; continue with: understudy resume {self.path}"
        return [f"{self.path}: {'no labeled test part, so nothing was scored' if self.finished else missing}"]

    @property
    def facts(self) -> Any:  # each kind of folder has its own
        """The results of the evaluation."""
        raise UnderstudyError(f"{self.path} has no evaluation")

    @property
    def report(self) -> Path:
        return self.path / REPORT

    def facts_of(self, schema: type[F]) -> F:
        """What `evaluation.json` holds.

        Raises:
            UnderstudyError: there is none yet, or it is damaged.
        """
        path, again = self.path / EVALUATION, f"understudy resume {self.path}"
        if not path.exists():
            raise UnderstudyError(f"{self.path} has no evaluation yet; finish it with: {again}")
        return schema.from_json(read_json(path, f"delete it, and evaluate again with: {again}"))

    def _repr_html_(self) -> str:
        """What a notebook shows: the headline and the table, or why there are none."""
        if not (self.path / EVALUATION).exists():
            return f"<p>{escape(' '.join(self.without_page))}</p>"
        from understudy.reporting.notebook import snippet  # which takes a second to import

        return snippet(self.facts, self.path)

    def write_page(self, facts: Facts, page: str) -> None:
        """Write `evaluation.json` and `report.html`."""
        write_whole(self.path / EVALUATION, facts.model_dump_json() + "\n")
        write_whole(self.report, page)
