"""One `resume` for every kind of folder, in Python and on the command line: it ends with the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

import understudy
from resumable import VERBS, make_home, stop_at, weights, written
from understudy.cli import main
from understudy.errors import Interrupted, UnderstudyError
from understudy.runs import Run, RunCollection
from understudy.runs.targets import TargetsFolder
from understudy.verbs.resume import COLLECTIONS


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("verb", VERBS)
def test_what_was_stopped_is_resumed_by_its_folder(
    verb: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole" / "r", tmp_path / "stopped" / "r"
    VERBS[verb](home, whole)
    stop_at(monkeypatch, 3)
    with pytest.raises(Interrupted, match=f"continue with: understudy resume {stopped}"):
        VERBS[verb](home, stopped)
    monkeypatch.undo()
    if verb == "train":
        assert main(["resume", str(stopped)]) == 0
    else:
        done = understudy.resume(stopped)
        kinds = {"collection.json": RunCollection, "targets.json": TargetsFolder, "recipe.yaml": Run}
        assert type(done) is next(kind for name, kind in kinds.items() if (stopped / name).exists())
        assert done.finished
    assert weights(stopped) == weights(whole)
    assert written(stopped) == written(whole)
    with pytest.raises(UnderstudyError, match="is finished" if verb == "label" else "is finished; its page is"):
        understudy.resume(stopped)


def test_every_collection_has_its_resume() -> None:
    from understudy.evaluation.facts import COLLECTION_FACTS

    assert COLLECTIONS.keys() == COLLECTION_FACTS.keys()


def test_what_is_no_folder_of_runs(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=r"is not a run folder: it has no recipe\.yaml"):
        understudy.resume(tmp_path)
    (tmp_path / "collection.json").write_text("{")
    with pytest.raises(UnderstudyError, match="is damaged"):
        understudy.resume(tmp_path)
