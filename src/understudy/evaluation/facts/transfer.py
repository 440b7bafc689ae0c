"""Facts of transfers from few examples, and of one backbone on many tasks."""

from __future__ import annotations

from statistics import median

from understudy.evaluation.facts.base import Facts, Share


class ShotResult(Facts):
    """Test accuracies for one number of shots.

    >>> result = ShotResult(shots=5, examples=50, accuracies=(0.5, 0.75, 0.5))
    >>> result.median, result.spread
    (0.5, (0.5, 0.75))
    """

    shots: int  # examples per class; 0 for all
    examples: int  # in total
    accuracies: tuple[Share, ...]  # one per draw or seed; empty without a test split

    @property
    def median(self) -> float | None:
        return median(self.accuracies) if self.accuracies else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """The lowest and the highest accuracy."""
        return (min(self.accuracies), max(self.accuracies)) if self.accuracies else None


class FewShotFacts(Facts):
    """Transfers of one backbone from several draws of few examples."""

    name: str
    data: str
    backbone: str
    command: list[str] = []
    results: list[ShotResult]


class TaskResult(Facts):
    """The outcome of one task."""

    name: str
    group: str = ""  # of VTAB; empty for other tasks
    classes: int = 0
    examples: int = 0  # in the test split
    results: list[ShotResult] = []  # one per number of shots; empty if the task failed or has not run yet
    reason: str = ""  # why it failed


class SuiteFacts(Facts):
    """One backbone on many tasks."""

    subject = "suite"

    name: str
    backbone: str
    vtab: bool = False
    command: list[str] = []
    tasks: list[TaskResult]

    @property
    def failed(self) -> dict[str, str]:
        """Why tasks failed, by name."""
        return {task.name: task.reason for task in self.tasks if task.reason}
