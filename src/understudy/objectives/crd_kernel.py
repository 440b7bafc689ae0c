"""The contrast of queries with a bank's rows: value, gradient and normaliser in one pass, nothing kept of size B x N.

The gradient with respect to the query is a weighted sum of the very rows that give the value, so it is formed
while they are at hand and (B, D) numbers wait for the backward pass. That reads each row once, and a bank may be
rewritten before the backward pass runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Compute = Literal["auto", "dense", "gathered"]

_SCORES = {"cpu": 2**18}  # scores in flight in a pass over the whole bank: 1 MB, so that they stay in a core's cache
_ROWS = {"cpu": 2**19}  # numbers in flight when rows are gathered: 2 MB
_SCORES_ELSEWHERE, _ROWS_ELSEWHERE = 2**24, 2**26  # an accelerator wants few large kernels
_MOST_SCORES = 2**25  # the dense way holds this many scores at most: 128 MB in float32

_FOLD = 8  # this many factors 1 + e are multiplied before the logarithm is taken

# A gathered row costs as much as this many rows of the dense product. Measured on a CPU at D = 128 and B = 64:
# 133 ns against 5.3 ns. The product reads a row once for the whole batch, gathering once for every query.
_ROWS_PER_GATHERED = 25


@dataclass(frozen=True)
class Negatives:
    """Which rows of a bank are contrasted with each query: those of `ids`, or all of another group.

    Attributes:
        ids: (B, N) int64, or None for all rows whose group is not the query's.
        ragged: whether M among the ids stands for no row, as queries have fewer than N.
        groups: (M,) int64, and
        own: (B,) int64, the queries' groups, and
        counts: (B,), how many rows that leaves, and
        number: N; each row then counts N / (their number) times. All four for `ids` None only.
    """

    ids: Tensor | None = None
    ragged: bool = False
    groups: Tensor | None = None
    own: Tensor | None = None
    counts: Tensor | None = None
    number: int = 0


SumNegatives = Callable[[Tensor, Tensor, Negatives, Tensor, Compute], tuple[Tensor, Tensor, Tensor]]
"""What `negative_sums` is."""


def is_dense(compute: Compute, bank_rows: int, negatives: int) -> bool:
    """Whether one product of the whole bank with the queries is cheaper than gathering each query's rows."""
    if compute != "auto":
        return compute == "dense"
    return bank_rows <= _ROWS_PER_GATHERED * negatives


def contrast(
    query: Tensor,
    positive: Tensor,
    bank: Tensor,
    negatives: Negatives,
    *,
    temperature: float,
    shift: Tensor,
    compute: Compute = "auto",
    summed: SumNegatives | None = None,
) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of telling a query's positive from its negatives, each on `l = q'k / tau - shift`.

    `loss_b = softplus(-l_b+) + sum_n w_b softplus(l_bn)`, that is `-log h+ - sum_n w_b log(1 - h_bn)` with
    `h = sigmoid(l)`. No exponential is taken of a positive number, so none overflows.

    Args:
        query: (B, D); the only input with a gradient.
        positive: (B, D), the key that belongs to each query.
        bank: (M, D), of any float type and on any device.
        shift: scalar, `log Z + log(N / M)`.
        compute: how sampled negatives are looked up; "auto" asks `is_dense`.
        summed: in the place of `negative_sums`, where the bank is not all here.

    Returns:
        The losses (B,), and the log of `exp(q'k+ / tau) + sum_n w_b exp(q'k_n / tau)` (B,), without a gradient.
    """
    found = _Contrast.apply(query, positive, bank, negatives, temperature, shift, compute, summed or negative_sums)
    return cast("tuple[Tensor, Tensor]", found)


def negative_sums(
    scaled: Tensor, bank: Tensor, negatives: Negatives, shift: Tensor, compute: Compute
) -> tuple[Tensor, Tensor, Tensor]:
    """Over the negatives of each query, each of weight 1: three sums.

    Args:
        scaled: (B, D), queries over the temperature.

    Returns:
        The losses (B,), the log of the sum of `exp(l)` (B,), and the rows' sum weighted by `sigmoid(l)` (B, D).
    """
    sums = _Sums(scaled, shift)
    if negatives.ids is None:
        _all_rows(sums, bank, negatives)
    elif is_dense(compute, len(bank), negatives.ids.shape[1]):
        _dense(sums, bank, negatives.ids, negatives.ragged)
    else:
        _gathered(sums, bank, negatives.ids, negatives.ragged)
    return sums.loss, sums.log_sum, sums.gradient


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        positive: Tensor,
        bank: Tensor,
        negatives: Negatives,
        temperature: float,
        shift: Tensor,
        compute: Compute,
        summed: SumNegatives,
    ) -> tuple[Tensor, Tensor]:
        scaled = query / temperature
        own = (scaled * positive).sum(1) - shift
        loss, log_sum, gradient = summed(scaled, bank, negatives, shift, compute)
        if negatives.counts is not None:
            weights = negatives.number / negatives.counts.to(query.dtype)
            loss, gradient, log_sum = loss * weights, gradient * weights[:, None], log_sum + weights.log()
        gradient = gradient - torch.sigmoid(-own)[:, None] * positive
        ctx.save_for_backward(gradient / temperature)
        log_sum = torch.logaddexp(own, log_sum) + shift
        ctx.mark_non_differentiable(log_sum)
        return loss + _softplus(-own), log_sum

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the names
        ctx: Any, *upstream: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return upstream[0][:, None] * gradient, *[None] * 7


def _softplus(x: Tensor) -> Tensor:
    # the default threshold of 20 would be seen in float64
    return F.softplus(x, threshold=40)


def _sum_of_log1p(e: Tensor) -> Tensor:
    """`sum_n log(1 + e_n)` (B,) of (B, n) numbers from 0 to exp(80 / _FOLD).

    Logarithms are dear, so an eighth of them are taken: `log1p(a) + log1p(b) = log1p(a + b + a b)`, which keeps all
    digits as nothing in it is subtracted.
    """
    rest = e.new_zeros(len(e))
    for _ in range(_FOLD.bit_length() - 1):
        half = e.shape[1] // 2
        rest += e[:, 2 * half :].log1p().sum(1)
        a, b = e[:, :half], e[:, half : 2 * half]
        e = torch.addcmul(a + b, a, b)
    return rest + e.log1p_().sum(1)


class _Sums:
    """Over the negatives of each query: the loss, the weights' sum of rows, and the log of the exponentials' sum."""

    def __init__(self, scaled: Tensor, shift: Tensor) -> None:
        self.scaled, self.shift = scaled, shift
        self.loss = scaled.new_zeros(len(scaled))
        self.log_sum = scaled.new_full((len(scaled),), -math.inf)
        self.gradient = torch.zeros_like(scaled)
        self.small = False
        if scaled.device.type == "cpu" and len(scaled):  # elsewhere looking at numbers would cost more than it saves
            # keys have norm 1, so this bounds q'k / tau
            longest, offset = float(torch.linalg.vector_norm(scaled, dim=1).max()), float(shift)
            self.small = longest - offset < 80 / _FOLD and longest + offset < 80

    def take(self, logits: Tensor, rows: slice = slice(None)) -> Tensor:
        """Add (b, n) logits to the sums of some queries; their place is taken by `d softplus / d logit`."""
        if self.small:  # one exponential serves all three
            e = logits.exp_()
            self.log_sum[rows] = torch.logaddexp(self.log_sum[rows], e.sum(1).log())
            self.loss[rows] += _sum_of_log1p(e)
            return e.div_(e + 1)
        self.log_sum[rows] = torch.logaddexp(self.log_sum[rows], torch.logsumexp(logits, 1))
        self.loss[rows] += _softplus(logits).sum(1)
        return logits.sigmoid_()

    def like(self, rows: Tensor) -> Tensor:
        return rows.to(self.scaled.device, self.scaled.dtype)


def _pieces(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, max(size, 1)))


def _all_rows(sums: _Sums, bank: Tensor, negatives: Negatives) -> None:
    """Every row of another group than the query's, a block of the bank at a time."""
    scaled, groups, own = sums.scaled, negatives.groups, negatives.own
    assert groups is not None
    assert own is not None
    size = max(256, _SCORES.get(scaled.device.type, _SCORES_ELSEWHERE) // max(len(scaled), 1))
    for piece in _pieces(len(bank), size):
        rows = sums.like(bank[piece])
        logits = (scaled @ rows.t()).sub_(sums.shift)
        logits.masked_fill_(groups[piece] == own[:, None], -math.inf)
        sums.gradient.addmm_(sums.take(logits), rows)


def _dense(sums: _Sums, bank: Tensor, ids: Tensor, ragged: bool) -> None:
    """Scores of the whole bank by matrix products; the sampled ones are picked, their derivatives put back."""
    columns = max(256, _ROWS.get(sums.scaled.device.type, _ROWS_ELSEWHERE) // max(bank.shape[1], 1))
    for some in _pieces(len(ids), max(1, _MOST_SCORES // len(bank))):
        scaled = sums.scaled[some]
        scores = scaled.new_empty(len(scaled), len(bank) + ragged)
        scores[:, len(bank) :] = -math.inf  # the score of no row
        for piece in _pieces(len(bank), columns):
            torch.mm(scaled, sums.like(bank[piece]).t(), out=scores[:, piece])
        slopes = sums.take(scores.gather(1, ids[some]).sub_(sums.shift), some)
        scores.zero_().scatter_add_(1, ids[some], slopes)
        for piece in _pieces(len(bank), columns):
            sums.gradient[some].addmm_(scores[:, piece], sums.like(bank[piece]))


def _gathered(sums: _Sums, bank: Tensor, ids: Tensor, ragged: bool) -> None:
    """Each query's own rows, copied to a place small enough to stay in the cache for both of their uses."""
    batch, count = ids.shape
    width = bank.shape[1]
    room = _ROWS.get(sums.scaled.device.type, _ROWS_ELSEWHERE)
    for some in _pieces(batch, max(1, room // max(count * width, 1))):
        scaled = sums.scaled[some]
        for piece in _pieces(count, max(1, room // (len(scaled) * width))):
            chosen = ids[some, piece]
            places = (chosen.clamp_max(len(bank) - 1) if ragged else chosen).reshape(-1)
            rows = sums.like(bank.index_select(0, places.to(bank.device))).view(*chosen.shape, width)
            logits = torch.bmm(rows, scaled[:, :, None]).squeeze(2).sub_(sums.shift)
            if ragged:
                logits.masked_fill_(chosen == len(bank), -math.inf)
            sums.gradient[some] += torch.bmm(sums.take(logits, some)[:, None], rows).squeeze(1)
