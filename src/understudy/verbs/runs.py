"""`runs`: all runs below a folder, and a page that leads to theirs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from understudy.config.places import shown
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import Facts, FewShotFacts, IndexEntry, IndexFacts, SuiteFacts
from understudy.files import path_of, write_whole
from understudy.reporting import render
from understudy.reporting.finding import accuracy, finding
from understudy.runs import Run, RunCollection
from understudy.runs.folder import EVALUATION
from understudy.teachers.store import MANIFEST

PAGE = "index.html"
_OURS = '<meta name="generator" content="understudy '
_WITHIN = {"checkpoints", "models", "gallery", "mistakes", "export", "targets", "tensorboard", "subsets", "errors"}
"""Folders of a run that hold no runs."""


@dataclass(frozen=True)
class RunsIndex:
    """What `runs` found.

    Attributes:
        page: index.html in the folder.
    """

    page: Path
    facts: IndexFacts


def runs(folder: str | Path = "runs") -> RunsIndex:
    """List all runs below a folder with what each found, the newest first, and write a page that leads to theirs.

    The runs of a collection (draws, tasks, stages) are on its own page. A damaged run is listed, with the reason.

    Args:
        folder: may hold folders of runs too.

    Raises:
        UnderstudyError: there is no such folder, no run in it, or an index.html that is not ours.

    Example:
        >>> from understudy.runs import Run
        >>> from understudy.config.recipe import TrainRecipe
        >>> Run(tmp / "first").open(TrainRecipe(data="digits", model="mlp:8x1"))
        >>> [(one.path, one.kind, one.verdict) for one in runs(tmp).facts.entries]
        [('first', 'train', 'Not finished')]
    """
    root = path_of(folder, "the folder of runs")
    if not root.is_dir():
        raise UnderstudyError(f"there is no folder {root}; name the one that holds your runs")
    entries = sorted(_entries(root, root), key=lambda one: (one.created is not None, _moment(one), one.path))[::-1]
    if not entries:
        raise UnderstudyError(f"{root} holds no runs; train one with: understudy train DATA --model MODEL")
    page = root / PAGE
    if page.exists() and _OURS not in page.read_text(errors="replace")[:2000]:
        raise UnderstudyError(f"{page} is not a page of Understudy, and stays; move it away")
    collections = [facts for one in entries if (facts := _collected(root / one.path)) is not None]
    facts = IndexFacts(
        name=root.resolve().name, entries=entries,
        few_shots=[one for one in collections if isinstance(one, FewShotFacts)],
        suites=[one for one in collections if isinstance(one, SuiteFacts)],
    )  # fmt: skip
    write_whole(page, render(facts, root))
    return RunsIndex(page, facts)


def _collected(path: Path) -> Facts | None:
    """The facts of a collection that has any; None for a run, and for what is damaged."""
    found = RunCollection(path)
    try:
        return found.facts if found.exists and (path / EVALUATION).exists() else None
    except UnderstudyError:
        return None


def _moment(one: IndexEntry) -> float:
    return one.created.timestamp() if one.created else 0.0


def _entries(folder: Path, root: Path) -> Iterator[IndexEntry]:
    """The runs in the folders below one; of collections, only themselves."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_dir() or path.name.startswith(".") or path.name in _WITHIN:
            continue
        collection = RunCollection(path)
        if collection.exists:
            yield _entry(collection, root)
        elif not (path / MANIFEST).exists():  # answers of teachers are no run
            if Run(path).exists:
                yield _entry(Run(path), root)
            yield from _entries(path, root)


def _entry(found: Run | RunCollection, root: Path) -> IndexEntry:
    where = found.path.relative_to(root).as_posix()
    try:
        about = found.about
        entry = IndexEntry(path=where, kind=about.kind, data=shown(about.data), created=about.created,
                           seconds=about.seconds or None)  # fmt: skip
        return entry.model_copy(update=_found(found, where))
    except UnderstudyError as error:
        return IndexEntry(path=where, verdict="Damaged", tone="bad", sentence=str(error))


def _found(found: Run | RunCollection, where: str) -> dict[str, object]:
    """The headline, the accuracy and the page; or why there are none."""
    if not (found.path / EVALUATION).exists():
        line = found.without_page[0].removeprefix(f"{found.path}: ").capitalize()
        return {"verdict": "Not scored" if found.finished else "Not finished", "tone": "open", "sentence": f"{line}."}
    facts, page = found.facts, f"{where}/{found.report.name}" if found.report.exists() else ""
    said = finding(facts)
    return {"verdict": said.verdict, "tone": said.tone, "sentence": said.sentence, "accuracy": accuracy(facts),
            "page": page}  # fmt: skip
