"""A folder of several runs that one verb made: few-shot draws, tasks, stages, specialists.

collection.json    the verb's configuration, the runs by name, and whether all is done
data.json.gz       what the data was made of, where all runs have the same
NAME/              a run folder, or a collection of its own
evaluation.json    the facts that the page is made from
report.html        the page
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from understudy.config.options import Options
from understudy.config.verbs import VERBS
from understudy.config.yaml import checked
from understudy.errors import Interrupted, UnderstudyError
from understudy.evaluation.facts import COLLECTION_FACTS
from understudy.files import write_whole
from understudy.runs.folder import DATA, EvaluatedFolder
from understudy.runs.places import located, noted_places
from understudy.runs.run import Run

RECORD = "collection.json"


@dataclass(frozen=True)
class RunCollection(EvaluatedFolder):
    """A folder of runs."""

    @property
    def exists(self) -> bool:
        return (self.path / RECORD).is_file()

    @property
    def record(self) -> dict[str, Any]:
        """`collection.json`.

        Raises:
            UnderstudyError: it cannot be read.
        """
        try:
            return json.loads((self.path / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError) as fault:
            raise UnderstudyError(
                f"{self.path / RECORD} cannot be read ({fault}); restore it, or choose another --run folder"
            ) from None

    def note(self, **facts: Any) -> None:
        """Add to `collection.json`."""
        known = self.record if self.exists else {}
        write_whole(self.path / RECORD, json.dumps(known | facts, indent=1) + "\n")

    @property
    def kind(self) -> str:
        """The verb that made it."""
        return self.record["config"]["kind"]

    @property
    def config(self) -> Any:
        """The verb's configuration, with the fields that were set and the paths where its files are now."""
        record = self.record
        values = record["config"]
        config = checked(VERBS[values["kind"]], values, str(self.path / RECORD))
        return located(config, record.get("places", {}), self.path)

    @property
    def command(self) -> list[str]:
        """The command line that made it; empty for Python."""
        return self.record["command"]

    @property
    def notes(self) -> list[str]:
        return self.record["notes"]

    @property
    def runs(self) -> dict[str, Run]:
        """The runs by name, in their order."""
        return {name: Run(self.path / name) for name in self.record["runs"]}

    @property
    def finished(self) -> bool:
        return self.exists and bool(self.record.get("finished"))

    @property
    def facts(self) -> Any:
        """The results of the evaluation: the facts of its kind, as `SuiteFacts`."""
        return COLLECTION_FACTS[self.kind].from_json(self.evaluation)

    def continues(self, config: Options, *, overwrite: bool) -> bool:
        """Whether the folder holds an unfinished collection of this configuration, to go on with.

        Raises:
            UnderstudyError: it holds a run, another collection, or this one, finished.
        """
        if not self.exists:
            if Run(self.path).exists:
                raise UnderstudyError(f"{self.path} holds a run; choose another --run folder")
            return False
        if overwrite:
            return False
        if self.record["config"] != as_set(config):
            raise UnderstudyError(
                f"{self.path} holds results of other options; choose another --run folder or pass --overwrite"
            )
        if self.finished:
            raise UnderstudyError(f"{self.path} is finished; its page is {self.report}")
        return True

    def open(
        self, config: Options, runs: Sequence[str], *, command: Sequence[str], notes: Sequence[str] = (), **facts: Any
    ) -> None:
        """Write the record of a new collection, which has no evaluation and no page yet."""
        for name in (DATA, "evaluation.json", "report.html"):
            (self.path / name).unlink(missing_ok=True)
        record = {"config": as_set(config), "command": list(command), "notes": list(notes), "runs": list(runs)}
        record |= {"finished": False, "threads": torch.get_num_threads(), "places": noted_places(config, self.path)}
        write_whole(self.path / RECORD, json.dumps(record | facts, indent=1) + "\n")

    def abandon(self, files: Sequence[Path] = ()) -> None:
        """Remove the folder if a mistake ended every run before its first step.

        Args:
            files: written for the runs, to be removed with them.
        """
        for run in self.runs.values() if self.exists else ():
            if run.exists:
                run.abandon()
            if run.exists:
                return
        for file in (self.path / RECORD, self.path / DATA, *files):
            file.unlink(missing_ok=True)
        for folder in (*dict.fromkeys(file.parent for file in files), self.path):
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


@contextmanager
def named_when_stopped(path: Path) -> Iterator[None]:
    """Have a run that is stopped inside name its collection, which is what is resumed."""
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(str(path), stop.step, stop.signal_number) from stop


def as_set(config: Options) -> dict[str, Any]:
    """The fields of a configuration that were set, and its kind, as JSON holds them."""
    values: Mapping[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    return {"kind": getattr(config, "kind", "")} | dict(values)
