"""Training: a cohort of students on one stream, resumable to the byte."""

from understudy.training.cohort import Learner, Member
from understudy.training.loop import Loop, Watcher

__all__ = ["Learner", "Loop", "Member", "Watcher"]
