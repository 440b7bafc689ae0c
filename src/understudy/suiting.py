"""`suite`: one backbone transferred to many tasks, each in a folder of its own, and one table.

suite.json    what was asked, and what came of each task
TASK/         a run folder, or with shots a folder of draws as `transfer --shots` makes it
subsets/      with vtab: manifests of each task's examples
errors/       tracebacks of tasks that failed otherwise than by a mistake in what was asked
report.html   the table
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from understudy.data import NAMED, group_of, open_source, vtab_subsets
from understudy.errors import Interrupted, UnderstudyError, nearest
from understudy.few_shots import few_shots
from understudy.files import write_whole
from understudy.performing import perform
from understudy.reporting.draws import Drawn
from understudy.reporting.suite import TaskRow, render_suite
from understudy.runs import Run, fresh_folder
from understudy.transferring import Task, pretrained

RECORD = "suite.json"


@dataclass(frozen=True)
class Asked:
    """What a suite is asked; all of it is in its record.

    Attributes:
        tasks: name -> a set's name or path; None where Python handed over an object.
        backbone: as for `transfer`, by name.
        shots: examples of each class; empty for all there are.
        draws: how often each.
        vtab: whether each task is learnt from VTAB-1k's thousand examples.
        options: as for `transfer`.
    """

    tasks: dict[str, str | None]
    backbone: str
    shots: tuple[int, ...] = ()
    draws: int = 5
    vtab: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """A folder of transfers of one backbone."""

    path: Path

    @property
    def record(self) -> dict[str, Any]:
        """`suite.json`.

        Raises:
            UnderstudyError: it cannot be read.
        """
        try:
            return json.loads((self.path / RECORD).read_text())
        except (OSError, ValueError) as fault:
            raise UnderstudyError(
                f"{self.path / RECORD} cannot be read ({fault}); put it back, or choose another --run folder"
            ) from None

    @property
    def asked(self) -> Asked:
        values = self.record["asked"]
        return Asked(**values | {"shots": tuple(values["shots"])})

    @property
    def rows(self) -> list[TaskRow]:
        """One for each task, in the order in which they were named."""
        done = self.record["results"]
        return [TaskRow.from_json(name, done.get(name, {})) for name in self.asked.tasks]

    @property
    def failed(self) -> dict[str, str]:
        """Task -> why it has no result, for those that were tried."""
        return {row.name: row.reason for row in self.rows if row.reason}

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def write(self, asked: Asked, results: Mapping[str, TaskRow], command: Sequence[str]) -> None:
        """Write the record and the page of what is known."""
        done = {name: row.to_json() for name, row in results.items()}
        record = {"asked": asdict(asked), "command": list(command), "results": done}
        write_whole(self.path / RECORD, json.dumps(record, indent=1) + "\n")
        write_whole(self.report, render_suite(self.path.name, asked.backbone, self.rows, asked.vtab, command))


def suite(
    data: Sequence[str | Path] | Mapping[str, object],
    backbone: str | Path,
    *,
    shots: Sequence[int] = (),
    draws: int = 5,
    vtab: bool = False,
    run: str | Path | None = None,
    overwrite: bool = False,
    command: Sequence[str] = (),
    **options: Any,
) -> Suite:
    """Transfer one backbone to many tasks, one after the other.

    A task that cannot be done does not stop the others: why is in `Suite.failed`. Called again with the same folder it
    goes on where it was stopped; finished tasks stay, and those that failed are tried again.

    Args:
        data: names and paths; or a dict of them, or of whatever `open_source` opens, by the tasks' names.
        backbone: as for `transfer`, by name.
        shots: examples of each class, for several draws each; all examples once where empty.
        draws: how often.
        vtab: learn from a thousand examples of each task, 800 and 200, as VTAB-1k does; see `vtab_subsets`.
        run: the folder; a new one under runs/ where unset.
        **options: as for `transfer`.

    Raises:
        UnderstudyError: no task, one named twice or unknown, a backbone without weights, options that contradict each
            other, or a folder of another suite.
    """
    given = dict(data) if isinstance(data, Mapping) else _by_name(data)
    if not given:
        raise UnderstudyError("a suite needs at least one task; name some, as in digits photos/")
    if vtab and shots:
        raise UnderstudyError("--vtab and --shots both choose the examples to learn from; choose one")
    if shots and (min(shots) < 1 or draws < 1):
        raise UnderstudyError(f"shots and draws count from 1: shots {' '.join(map(str, shots))}, draws {draws}")
    if clash := [name for name in ("subset", "fraction") if options.get(name) not in (None, 1.0)]:
        raise UnderstudyError(f"a {clash[0]} is of one task and cannot be given to a suite; leave it out")
    for one in given.values():
        _check_known(one)
    pretrained(str(backbone), bool(options.get("from_scratch")))
    asked = Asked(
        {name: str(one) if isinstance(one, (str, Path)) else None for name, one in given.items()},
        str(backbone), tuple(sorted(set(shots))), draws, vtab, options,
    )  # fmt: skip
    name = Path(asked.backbone).stem.partition("?")[0]
    found = Suite(Path(run) if run is not None else fresh_folder("suite", name, "backbone"))
    known: dict[str, TaskRow] = {}
    if (found.path / RECORD).exists() and not overwrite:
        if _plain(found.asked) != _plain(asked):
            raise UnderstudyError(
                f"{found.path} holds a suite of other tasks or options; choose another --run folder or pass --overwrite"
            )
        known = _finished(found)
    elif Run(found.path).exists:
        raise UnderstudyError(f"{found.path} holds a run; choose another --run folder")
    return _carry_out(found, asked, given, known, command, overwrite=overwrite)


def go_on(found: Suite, *, trust_code: bool = False) -> Suite:
    """Do the tasks that are not finished, those that failed among them.

    Args:
        trust_code: whether the function that the record names as its backbone (pkg.mod:fn) may be imported.

    Raises:
        UnderstudyError: there are none.
    """
    asked, known = found.asked, _finished(found)
    if len(known) == len(asked.tasks):
        raise UnderstudyError(f"{found.path} is finished; its report is {found.report}")
    return _carry_out(found, asked, asked.tasks, known, found.record["command"], trust_code=trust_code)


def _carry_out(
    found: Suite, asked: Asked, given: Mapping[str, object], known: dict[str, TaskRow], command: Sequence[str],
    *, overwrite: bool = False, trust_code: bool = True,
) -> Suite:  # fmt: skip
    place: dict[str, Any] = {"command": command, "overwrite": overwrite, "trust_code": trust_code}
    results = dict(known)
    found.write(asked, results, command)
    for name in asked.tasks:
        if name in known:
            continue
        try:
            results[name] = _task(found, asked, name, given[name], place)
        except Interrupted as stop:
            raise Interrupted(str(found.path), stop.step, stop.signal_number) from stop
        except UnderstudyError as fault:
            results[name] = TaskRow(name, group_of(name), reason=str(fault))
        except Exception as fault:  # one task's fault is not to cost the others
            write_whole(kept := found.path / "errors" / f"{name}.txt", traceback.format_exc())
            first = (str(fault).strip().splitlines() or ["no reason was given"])[0][:200]
            results[name] = TaskRow(name, group_of(name), reason=f"{type(fault).__name__}: {first} (see {kept})")
        found.write(asked, results, command)
    return found


def _task(found: Suite, asked: Asked, name: str, data: object, place: dict[str, Any]) -> TaskRow:
    if data is None:
        raise UnderstudyError(f"the data of {name} came from Python; call understudy.suite again with this folder")
    if asked.shots:
        options = asked.options | place | {"draws": asked.draws, "run": found.path / name}
        drawn = few_shots(data, asked.backbone, asked.shots, **options)
        results = tuple(one.drawn for one in drawn.each)
        first = drawn.each[0].runs[0]
    else:
        first = _one_run(found, asked, name, data, **place)
        of = first.facts.of("model")
        examples = (first.facts.data.train_examples if first.facts.data else None) or 0
        results = (Drawn(0, examples, tuple(of[0].values("accuracy")) if of else ()),)
    if not all(one.accuracies for one in results):
        raise UnderstudyError(f"{name} has no test part with labels, so nothing was scored; give one that has")
    facts = first.facts.data
    assert facts is not None
    return TaskRow(name, group_of(name), len(facts.classes), facts.examples, results)


def _one_run(
    found: Suite, asked: Asked, name: str, data: object, *, command: Sequence[str], overwrite: bool, trust_code: bool
) -> Run:
    """The task's run, finished: from all its examples, or from VTAB-1k's."""
    options = asked.options | ({"with_validation": True} if asked.vtab else {})
    task = Task.of(data, asked.backbone, trust_code=trust_code, **options)
    fields: dict[str, Any] = {}
    if asked.vtab:
        first = task.base_recipe
        root = Path(first.data_root) if first.data_root else None
        splits = open_source(
            data if task.given.data is None else task.given.data, root=root, download=first.download, size=first.size
        )
        for part, subset in vtab_subsets(splits, first.seed).items():
            subset.write(manifest := found.path / "subsets" / f"{name}-{part}.json")
            fields["subset"] = str(manifest)  # the last of them: all thousand
    plan = task.plan(**fields)
    run = Run(found.path / name)
    if overwrite or not run.exists or run.recipe != plan.recipe:
        run.open(plan.recipe, overwrite=overwrite)
        run.note(told=list(plan.told))
    try:
        return run if run.finished else perform(plan.recipe, run, plan.given, command)
    except UnderstudyError:
        run.leave()
        raise


def _by_name(data: Sequence[str | Path]) -> dict[str, object]:
    """Each task by the name of its set, or of its folder or file."""
    if isinstance(data, (str, Path)):
        raise UnderstudyError(f"a suite takes a list of tasks, not {str(data)!r} alone; write [{str(data)!r}]")
    found: dict[str, object] = {}
    for one in data:
        text = str(one)
        named = isinstance(one, str) and text.lower() in NAMED
        path = Path(text).expanduser()
        name = text.lower() if named else (path.resolve().name if path.is_dir() else path.stem) or "data"
        if name in found:
            same = str(found[name]) == text
            raise UnderstudyError(
                f"the task {name} is named twice; name it once"
                if same
                else f"{found[name]} and {text} would both be the task {name}; rename one"
            )
        found[name] = text
    return found


def _check_known(data: object) -> None:
    """Say which of the data is neither a known set nor there."""
    if not isinstance(data, (str, Path)):
        return
    text = str(data)
    if text.startswith("hf:") or text.lower() in NAMED or Path(text).expanduser().exists():
        return
    hint = "; check the path" if "/" in text else nearest(text, NAMED)
    raise UnderstudyError(f"there is no folder, file or named data set {text!r}{hint}")


def _finished(found: Suite) -> dict[str, TaskRow]:
    return {row.name: row for row in found.rows if row.results}


def _plain(asked: Asked) -> Any:
    return json.loads(json.dumps(asdict(asked)))
