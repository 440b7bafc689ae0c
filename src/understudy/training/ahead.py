"""What a teacher says of the batches of several steps at once: few large kernels in place of many small ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from lightning_fabric import Fabric
from torch import Tensor

from understudy.data.loader import BatchLoader
from understudy.signals import Batch, Signals
from understudy.training.timing import StepTimer


class AnswersAhead:
    """Batches and a teacher in one: each batch that `stream` yields was answered together with those around it.

    The steps of a chunk follow from their numbers alone, so that a resumed run asks the teacher the same.

    Args:
        together: the steps of a chunk.
        timer: is told what the teacher takes.
    """

    def __init__(
        self, fabric: Fabric, batches: BatchLoader, teacher: Callable[[Batch], Signals], together: int, timer: StepTimer
    ) -> None:
        self.fabric, self.batches, self.teacher = fabric, batches, teacher
        self.together, self.timer = together, timer
        self._answer: Signals | None = None

    def __call__(self, batch: Batch) -> Signals:
        """What the teacher said of the latest batch."""
        assert self._answer is not None
        return self._answer

    def stream(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of the steps `start` to `stop`."""
        first = start - start % self.together
        stream = self.batches.stream(first, stop)
        while chunk := list(islice(stream, self.together)):
            with self.fabric.autocast(), self.timer.apart("teacher", sum(map(len, chunk))):
                answers = self.teacher(_joined(chunk))
            place = 0
            for batch in chunk:
                end = place + len(batch)
                if first >= start:
                    self._answer = answers[place:end]
                    yield batch
                first, place = first + 1, end


def steps_together(batches: BatchLoader, most: int = 16, values: int = 2**24) -> int:
    """How many steps' batches of at most so many values in all can be answered at once."""
    sample = sum(torch.Size(one.shape).numel() for one in batches.source.modalities.values())
    return max(1, min(most, values // max(sample * batches.batch_size, 1)))


def _joined(chunk: list[Batch]) -> Batch:
    """Some batches as one; a teacher reads neither labels nor partners."""
    if len(chunk) == 1:
        return chunk[0]
    ids, views = torch.cat([batch.ids for batch in chunk]), torch.cat([batch.view for batch in chunk])
    indices = [torch.full_like(batch.ids, x) if isinstance(x := batch.view_index, int) else x for batch in chunk]
    each = [batch.inputs for batch in chunk]
    inputs: Tensor | dict[str, Tensor]
    if isinstance(each[0], dict):
        inputs = {name: torch.cat([x[name] for x in each if isinstance(x, dict)]) for name in each[0]}
    else:
        inputs = torch.cat([x for x in each if isinstance(x, Tensor)])
    return Batch(ids, views, inputs, view_index=torch.cat(indices))
