"""What a run folder and a collection share: the facts of an evaluation, and the page made from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.evaluation.facts import Facts
from understudy.files import write_whole

DATA = "data.json.gz"
"""What the data was made of when the folder's first run began."""


@dataclass(frozen=True)
class EvaluatedFolder:
    """A folder with `evaluation.json` and `report.html`."""

    path: Path

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def evaluation(self) -> dict[str, Any]:
        """`evaluation.json`.

        Raises:
            UnderstudyError: there is none yet.
        """
        path = self.path / "evaluation.json"
        if not path.exists():
            raise UnderstudyError(f"{self.path} has no evaluation yet; finish it with: understudy resume {self.path}")
        return json.loads(path.read_text(encoding="utf-8"))

    def write_page(self, facts: Facts, page: str) -> None:
        """Write `evaluation.json` and `report.html`."""
        write_whole(self.path / "evaluation.json", facts.model_dump_json() + "\n")
        write_whole(self.report, page)
