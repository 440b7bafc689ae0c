"""`transfer --shots`: the same transfer from a few examples of each class, several times, each from others.

transfer.json    what was asked, and the runs
subsets/         a manifest of each draw's samples
shots-5-draw-0/  a run folder like any other, one for each
report.html      the medians
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from understudy.data import draw_shots, read_subset
from understudy.errors import Interrupted, UnderstudyError
from understudy.files import write_whole
from understudy.material import Given
from understudy.performing import perform
from understudy.reporting.draws import Drawn, render_draws
from understudy.runs import Run, find_run, fresh_run
from understudy.transferring import Task

RECORD = "transfer.json"


@dataclass(frozen=True)
class Shots:
    """The runs of one number of shots.

    Attributes:
        shots: examples of each class.
        examples: how many that are.
        runs: one for each draw.
    """

    shots: int
    examples: int
    runs: tuple[Run, ...]

    @property
    def drawn(self) -> Drawn:
        """The accuracy on the test part of each draw, the mean over its seeds; without such a part there are none."""
        rows = [run.facts.of("model") for run in self.runs]
        means = (of[0].mean("accuracy") for of in rows if of)
        return Drawn(self.shots, self.examples, tuple(mean for mean in means if mean is not None))


@dataclass(frozen=True)
class FewShots:
    """A folder of transfers from few examples."""

    path: Path

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.path / RECORD).read_text())

    @property
    def each(self) -> list[Shots]:
        """By number of shots, rising."""
        found = self.record["shots"]
        return [
            Shots(one["shots"], one["examples"], tuple(Run(self.path / name) for name in one["runs"])) for one in found
        ]

    @property
    def report(self) -> Path:
        return self.path / "report.html"


def few_shots(
    data: object,
    backbone: str | Path | nn.Module,
    shots: Sequence[int],
    *,
    draws: int = 5,
    run: str | Path | None = None,
    overwrite: bool = False,
    command: Sequence[str] = (),
    **options: Any,
) -> FewShots:
    """Transfer from so many examples of each class, several times, each time from others.

    Draw d of a number of shots is a function of (seed, d) and the samples' ids; fewer shots of a draw are part of
    more. Called again with the same folder it goes on where it was stopped.

    Args:
        data, backbone: as for `transfer`.
        shots: examples of each class; several numbers are done in turn.
        draws: how often each.
        run: the folder; a new one under runs/ where unset.
        **options: as for `transfer`.

    Raises:
        UnderstudyError: as `transfer`, and for a class with fewer examples.
    """
    if not shots or min(shots) < 1 or draws < 1:
        raise UnderstudyError(f"shots and draws count from 1: shots {' '.join(map(str, shots)) or '-'}, draws {draws}")
    task = Task.of(data, backbone, **options)
    first = task.base_recipe
    if first.validation or first.subset or first.fraction < 1:
        raise UnderstudyError("shots choose the samples to learn from; leave out --validation, --subset and --fraction")
    found = FewShots(Path(run) if run is not None else fresh_run(first, "transfer"))
    source = task.material().labelled
    subsets = {
        f"shots-{count}-draw-{draw}": draw_shots(source, count, first.seed, draw)
        for count in sorted(set(shots))
        for draw in range(draws)
    }
    listed = [
        {
            "shots": count,
            "examples": count * len(source.classes),
            "runs": [name for name, subset in subsets.items() if subset.shots == count],
        }
        for count in sorted(set(shots))
    ]
    begun = (found.path / RECORD).exists()
    record = {"data": first.data, "backbone": first.model, "command": list(command), "shots": listed}
    try:
        for name, subset in subsets.items():
            manifest = found.path / "subsets" / f"{name}.json"
            if manifest.exists() and not overwrite and read_subset(manifest) != subset:
                raise UnderstudyError(
                    f"{found.path} holds draws of other samples; choose another --run folder or pass --overwrite"
                )
            subset.write(manifest)
            plan = task.plan(subset=str(manifest), seed=first.seed + subset.draw)
            own = Run(found.path / name)
            if overwrite or not own.exists or own.recipe != plan.recipe:
                own.open(plan.recipe, overwrite=overwrite)
                own.note(told=list(plan.told))
        write_whole(found.path / RECORD, json.dumps(record, indent=1) + "\n")
        return go_on(found, task.given)
    except UnderstudyError:
        if not begun:
            _leave(found, list(subsets))
        raise


def go_on(found: FewShots, given: Given | None = None, *, trust_code: bool = False) -> FewShots:
    """Perform the runs that are not finished, and write the page anew."""
    for one in found.each:
        for run in one.runs:
            if find_run(run.path).finished:
                continue
            try:
                perform(run.recipe, run, given or Given(trust_code=trust_code), found.record["command"])
            except Interrupted as stop:
                raise Interrupted(str(found.path), stop.step, stop.signal_number) from stop
    record = found.record
    rows = [one.drawn for one in found.each]
    write_whole(
        found.report, render_draws(found.path.name, record["data"], record["backbone"], rows, record["command"])
    )
    return found


def _leave(found: FewShots, names: Sequence[str]) -> None:
    """Give the folder back if a mistake ended all before the first step."""
    for name in names:
        if Run(found.path / name).exists:
            Run(found.path / name).leave()
    if not any(Run(found.path / name).exists for name in names):
        (found.path / RECORD).unlink(missing_ok=True)
        for name in names:
            (found.path / "subsets" / f"{name}.json").unlink(missing_ok=True)
        for folder in (found.path / "subsets", found.path):
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
