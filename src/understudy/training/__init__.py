"""Training of a cohort of students on one stream of batches; a resumed run ends with the same bytes."""

from understudy.training.launch import launch, run_jobs
from understudy.training.logging import Callback
from understudy.training.loop import Loop
from understudy.training.member import Learner, Member

__all__ = ["Callback", "Learner", "Loop", "Member", "launch", "run_jobs"]
