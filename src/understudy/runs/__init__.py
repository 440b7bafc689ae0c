"""Run folders, and folders of several runs."""

from understudy.runs.collection import RunCollection
from understudy.runs.run import Run, find_run, new_run_path

__all__ = ["Run", "RunCollection", "find_run", "new_run_path"]
