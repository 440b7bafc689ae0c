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

from pydantic import BaseModel, ConfigDict, field_validator

from understudy.config.options import Options
from understudy.config.places import shown
from understudy.config.verbs import VERBS
from understudy.config.yaml import checked
from understudy.errors import Interrupted, UnderstudyError
from understudy.evaluation.facts import COLLECTION_FACTS
from understudy.files import remove_files, write_whole
from understudy.runs.folder import DATA, EVALUATION, RECORD, REPORT, About, EvaluatedFolder, read_record
from understudy.runs.places import Places, located, noted_places
from understudy.runs.run import Run

_WRITTEN = (
    "subsets/*.json", "errors/*.txt", "export/model*", "export/model.mlpackage/**/*", "export/README.md",
    "export/predict*.py", "export/index.html",
    "targets/*.bin", "targets/shards/*.bin", "targets/ids.npy", "targets/sampled.npz", "targets/data.json.gz",
    "targets/targets.json", "export/export.json", "specialists.json", "covariance.safetensors", DATA, EVALUATION,
    REPORT, RECORD,
)  # fmt: skip


class CollectionRecord(BaseModel):
    """What `collection.json` holds; verbs add to it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    config: dict[str, Any]
    command: list[str]
    notes: list[str]
    runs: list[str]
    finished: bool
    places: Places = Places()

    @field_validator("config")
    @classmethod
    def _of_a_verb(cls, config: dict[str, Any]) -> dict[str, Any]:
        if config.get("kind") not in VERBS:
            raise ValueError(f"no verb is called {config.get('kind')!r}")
        return config

    @field_validator("runs")
    @classmethod
    def _within(cls, runs: list[str]) -> list[str]:
        for name in runs:
            if Path(name).name != name:
                raise ValueError(f"{name!r} is not the name of a folder")
        return runs


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
        return read_record(self.path / RECORD, CollectionRecord, "restore it, or choose another --run folder")

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
    def about(self) -> About:
        """The verb, the data, when the first of the runs began, and how long all of them trained."""
        data, parts = self.record["config"].get("data", ""), [run.about for run in self.runs.values() if run.exists]
        begun = min((part.created for part in parts if part.created), default=None)
        named = data if isinstance(data, str) else " ".join(map(shown, data))
        return About(self.kind, named, begun, sum(part.seconds for part in parts))

    def files(self) -> Iterator[Path]:
        """What a verb wrote in the folder; its record last."""
        for name in self.record["runs"]:
            held = RunCollection(self.path / name) if RunCollection(self.path / name).exists else Run(self.path / name)
            yield from held.files()
        for pattern in _WRITTEN:
            yield from sorted(path for path in self.path.glob(pattern) if not path.is_dir())

    @property
    def facts(self) -> Any:
        """The results of the evaluation: the facts of its kind, as `SuiteFacts`."""
        return self.facts_of(COLLECTION_FACTS[self.kind])

    def continues(self, config: Options) -> bool:
        """Whether the folder holds an unfinished collection of this configuration, to go on with.

        Raises:
            UnderstudyError: it holds a run, another collection, or this one, finished.
        """
        if not self.exists:
            if Run(self.path).exists:
                raise UnderstudyError(f"{self.path} holds a run; choose another --run folder or pass --overwrite")
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
        """Write the record of a new collection."""
        record = {"config": as_set(config), "command": list(command), "notes": list(notes), "runs": list(runs)}
        record |= {"finished": False, "places": noted_places(config, self.path)}
        write_whole(self.path / RECORD, json.dumps(record | facts, indent=1) + "\n")

    def abandon(self, files: Sequence[Path] = ()) -> None:
        """Remove what was written if a mistake ended every run before it had begun.

        Args:
            files: written for the runs, to be removed with them.
        """
        runs = list(self.runs.values()) if self.exists else []
        if not any(run.begun for run in runs):
            for run in runs:
                run.clear()
            remove_files((*files, self.path / RECORD, self.path / DATA), self.path)


@contextmanager
def named_when_stopped(path: Path) -> Iterator[None]:
    """Have a run that is stopped inside name its collection, which is what is resumed."""
    try:
        yield
    except Interrupted as stop:
        raise stop.named(str(path)) from stop


def as_set(config: Options) -> dict[str, Any]:
    """The fields of a configuration that were set, and its kind, as JSON holds them."""
    values: Mapping[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    return {"kind": getattr(config, "kind", "")} | dict(values)
