"""A teacher's representation without labels: `cosine` and `queue` together."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from torch import Tensor

from understudy.objectives.base import BuildContext, Objective, check_number
from understudy.objectives.cosine import Cosine
from understudy.objectives.queue import QueueSimilarity
from understudy.signals import Batch, Signals


class Represent(Objective):
    """`cosine + queue_weight * queue`: where an embedding points, and whose neighbor it is; labels are not read.

    Of several teachers each has a `Represent` of its own, hence its own projectors; as their spaces are balanced, and
    both losses do not depend on their scale, they count alike.

    Args:
        cosine: see `Cosine`.
        queue: see `QueueSimilarity`.
        queue_weight: of the second.
    """

    summary = "the teacher's representation without labels: cosine + queue"
    labels_beside: ClassVar[bool] = False

    def __init__(self, cosine: Cosine, queue: QueueSimilarity, queue_weight: float = 1.0) -> None:
        super().__init__()
        check_number("queue_weight", queue_weight)
        self.cosine, self.queue, self.queue_weight = cosine, queue, queue_weight
        self._combine([cosine, queue])

    @classmethod
    def from_shapes(
        cls, context: BuildContext, *, queue_weight: float = 1.0, size: int | None = None, temperature: float = 0.07,
        smooth: float = 0.1, **options: Any,
    ) -> Self:  # fmt: skip
        cosine = Cosine.from_shapes(context, smooth=smooth)
        queue = QueueSimilarity.from_shapes(context, size=size, temperature=temperature)
        return cls(cosine, queue, queue_weight, **options)

    def fit(self, teacher: Signals) -> None:
        self.cosine.fit(teacher)
        self.queue.fit(teacher)

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        return self.cosine(student, teacher, batch) + self.queue_weight * self.queue(student, teacher, batch)
