"""Training: a cohort of students on one stream, resumable to the byte."""

from understudy.training.cohort import Learner, Member
from understudy.training.loop import Loop, Watcher
from understudy.training.processes import launch

__all__ = ["Learner", "Loop", "Member", "Watcher", "launch"]
