"""Similarities to a queue of the teacher's embeddings (SEED, Fang et al. 2021)."""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.balance import Kind
from understudy.objectives.base import BuildContext, check_number
from understudy.objectives.embeddings import EmbeddingObjective, widths_of
from understudy.objectives.precision import full_precision, unit
from understudy.objectives.ranks import all_gather

LONGEST = 8192
_NEVER = -1e4  # a logit whose probability is 0 and whose product with it is not NaN


@full_precision
def queue_loss(student: Tensor, teacher: Tensor, keys: Tensor, temperature: float = 0.07) -> Tensor:
    """`mean KL(softmax(t'k / T) || softmax(s'k / T))` over keys k of the teacher: SEED's equation (3).

    The gradient is that of the cross-entropy between the two distributions, from which the teacher's entropy is
    subtracted, so that 0 is reached. `student` and `teacher` are (B, D), `keys` (K, D); all rows are normalized here.

    >>> x = torch.eye(3)
    >>> queue_loss(x, x, x), bool(queue_loss(x.roll(1, 0), x, x) > 1)
    (tensor(0.), True)
    """
    return _divergence(unit(student), unit(teacher), unit(keys), None, temperature)


def _divergence(student: Tensor, teacher: Tensor, keys: Tensor, valid: Tensor | None, temperature: float) -> Tensor:
    scores = [x @ keys.T / temperature for x in (student, teacher)]
    if valid is not None:
        scores = [torch.where(valid, x, _NEVER) for x in scores]
    log_q, log_p = (F.log_softmax(x, 1) for x in scores)
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


class QueueSimilarity(EmbeddingObjective):
    """`queue_loss` over the batch and a queue of the last teacher embeddings; labels are not read.

    The student's embedding goes through a linear projector. In training mode each forward pass puts the batch of all
    ranks into the queue, so micro-batches do not add up to the batch.

    Args:
        student_dim, teacher_dim: widths of the embeddings.
        size: rows of the queue.
        balance: of the teacher's embeddings before they are normalized, see `balancing`.
    """

    summary = "similarities to a queue of the teacher's embeddings (SEED, Fang et al. 2021)"
    per_sample = False
    synced_buffers = frozenset({"queue", "seen"}) | EmbeddingObjective.synced_buffers

    queue: Tensor
    seen: Tensor

    def __init__(
        self, student_dim: int, teacher_dim: int, size: int = LONGEST, *, temperature: float = 0.07,
        balance: Kind = "center",
    ) -> None:  # fmt: skip
        super().__init__(student_dim, teacher_dim, balance)
        check_number("size", size, least=1, whole=True)
        check_number("temperature", temperature, least=1e-3, most=1e3)
        self.temperature = temperature
        self.register_buffer("queue", torch.zeros(size, teacher_dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @classmethod
    def from_shapes(cls, context: BuildContext, *, size: int | None = None, **options: Any) -> Self:
        """`size` is half of the samples by default, at most 8,192: an image should not meet many of its own views."""
        half = max(min(LONGEST, len(context.ids) // 2), 1)
        return cls(*widths_of(context), half if size is None else size, **options)

    @full_precision
    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        own = unit(self.balance(teacher)).detach()
        together = all_gather(own)[0] if self.training else own
        size = len(self.queue)
        filled = torch.arange(size, device=own.device) < self.seen
        valid = torch.cat([torch.ones(len(together), dtype=torch.bool, device=own.device), filled])
        keys = torch.cat([together, self.queue])  # a copy, which the backward pass reads after the queue has moved on
        loss = _divergence(unit(self.project(student)), own, keys, valid, self.temperature)
        if self.training:
            with torch.no_grad():
                last = together[-size:]
                rows = (self.seen + torch.arange(len(last), device=own.device)) % size
                self.queue.index_copy_(0, rows, last)
                self.seen += len(last)
        return loss

    def extra_repr(self) -> str:
        return f"{len(self.queue)} rows, temperature={self.temperature:g}"
