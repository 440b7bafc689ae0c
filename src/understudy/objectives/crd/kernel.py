"""Contrast of queries with a bank's rows: loss, gradient and normalizer in one pass, without saving (B, N) tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Compute = Literal["auto", "dense", "gathered"]

_SCORES = {"cpu": 2**18}  # scores per chunk of the bank: 1 MB, to stay in a core's cache
_ROWS = {"cpu": 2**19}  # numbers per chunk of gathered rows: 2 MB
_ACCELERATOR_SCORES, _ACCELERATOR_ROWS = 2**24, 2**26  # accelerators prefer few large kernels
_MAX_SCORES = 2**25  # scores held by the dense computation: 128 MB in float32

_FOLD = 8  # factors 1 + e multiplied per logarithm

# A gathered row costs as much as this many rows of the dense product, which reads each row once for the whole batch
# rather than once per query. Measured on a CPU at D = 128 and B = 64: 133 ns against 5.3 ns.
_ROWS_PER_GATHERED = 25

# Up to this many rows per sampled negative, contrasting with all rows costs about as much as sampling, as the products
# with the whole bank dominate both. Beyond it, sampling is cheaper. Measured at D from 32 to 512 and B from 16 to 256.
_ROWS_PER_NEGATIVE = 4


@dataclass(frozen=True)
class Negatives:
    """The rows of a bank that each query is contrasted with: those of `ids`, or all of other groups.

    Attributes:
        ids: (B, N) int64, or None for all rows whose group is not the query's.
        ragged: whether ids of M are padding, for queries with fewer than N negatives.
        groups: (M,) int64, the rows' groups; `query_groups` (B,) the queries'; both unused with `ids`.
        counts: (B,), the number of rows of other groups; each is weighted `number` (N) / count.
    """

    ids: Tensor | None = None
    ragged: bool = False
    groups: Tensor | None = None
    query_groups: Tensor | None = None
    counts: Tensor | None = None
    number: int = 0


SumNegatives = Callable[[Tensor, Tensor, Negatives, Tensor, Compute], tuple[Tensor, Tensor, Tensor]]
"""The signature of `negative_sums`."""


def is_dense(compute: Compute, bank_rows: int, negatives: int) -> bool:
    """Whether a product of the whole bank with the queries is cheaper than gathering each query's rows.

    >>> is_dense("auto", bank_rows=50_000, negatives=16_384), is_dense("auto", bank_rows=50_000, negatives=64)
    (True, False)
    """
    return bank_rows <= _ROWS_PER_GATHERED * negatives if compute == "auto" else compute == "dense"


def takes_all(bank_rows: int, negatives: int) -> bool:
    """Whether to contrast with all rows of a bank rather than draw this many negatives for each query.

    A rule of sizes alone, so that results do not depend on the machine.

    >>> takes_all(bank_rows=50_000, negatives=16_384), takes_all(bank_rows=1_281_167, negatives=16_384)
    (True, False)
    """
    return bank_rows <= _ROWS_PER_NEGATIVE * negatives


def negative_sums(
    scaled: Tensor, bank: Tensor, negatives: Negatives, shift: Tensor, compute: Compute
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the negatives of each query, each of weight 1, of `scaled` (B, D), queries divided by the temperature.

    Returns the losses (B,), the log-sum-exp of `l` (B,), and the sum of the rows weighted by `sigmoid(l)` (B, D).
    """
    sums = _Sums(scaled, shift)
    if negatives.ids is None:
        _all_rows(sums, bank, negatives)
    elif is_dense(compute, len(bank), negatives.ids.shape[1]):
        _dense(sums, bank, negatives.ids, negatives.ragged)
    else:
        _gathered(sums, bank, negatives.ids, negatives.ragged)
    return sums.loss, sums.log_sum, sums.gradient


class Contrast(torch.autograd.Function):
    """Binary cross-entropy of classifying keys as positive or negative, with logits `l = q'k / tau - shift`.

    `loss_b = softplus(-l_b+) + sum_n w_b softplus(l_bn)`, that is `-log h+ - sum_n w_b log(1 - h_bn)` with
    `h = sigmoid(l)`. Only exponentials that cannot overflow are computed.

    The gradient with respect to a query is a weighted sum of the same rows that give the loss, so it is computed in
    the forward pass, and only (B, D) numbers are saved. The bank may be updated before the backward pass runs.

    The only input with a gradient is `query` (B, D); `positive` (B, D) are its positive keys. The bank (M, D) is of any
    float dtype and on any device; `shift` is the scalar `log Z + log(N / M)`. Returns the losses (B,), and the log of
    `exp(q'k+ / tau) + sum_n w_b exp(q'k_n / tau)` (B,), without a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, positive: Tensor, bank: Tensor, negatives: Negatives,
        temperature: float, shift: Tensor, compute: Compute, sum_negatives: SumNegatives,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        scaled = query / temperature
        positive_logits = (scaled * positive).sum(1) - shift
        loss, log_sum, gradient = sum_negatives(scaled, bank, negatives, shift, compute)
        if negatives.counts is not None:
            weights = negatives.number / negatives.counts.to(query.dtype)
            loss, gradient, log_sum = loss * weights, gradient * weights[:, None], log_sum + weights.log()
        gradient = gradient - torch.sigmoid(-positive_logits)[:, None] * positive
        ctx.save_for_backward(gradient / temperature)
        log_sum = torch.logaddexp(positive_logits, log_sum) + shift
        ctx.mark_non_differentiable(log_sum)
        return loss + _softplus(-positive_logits), log_sum

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the names
        ctx: Any, *upstream: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return upstream[0][:, None] * gradient, *[None] * 7


def _softplus(x: Tensor) -> Tensor:
    # the default threshold of 20 is inexact in float64
    return F.softplus(x, threshold=40)


def _sum_of_log1p(e: Tensor) -> Tensor:
    """`sum_n log(1 + e_n)` (B,) of (B, n) numbers from 0 to exp(80 / _FOLD).

    Logarithms are expensive, so only an eighth are computed: `log1p(a) + log1p(b) = log1p(a + b + a b)`, which loses no
    precision, as it subtracts nothing.
    """
    rest = e.new_zeros(len(e))
    for _ in range(_FOLD.bit_length() - 1):
        half = e.shape[1] // 2
        rest += e[:, 2 * half :].log1p().sum(1)
        a, b = e[:, :half], e[:, half : 2 * half]
        e = torch.addcmul(a + b, a, b)
    return rest + e.log1p_().sum(1)


class _Sums:
    """Accumulates `negative_sums`: the loss, the weighted sum of rows, and the log-sum-exp of each query."""

    def __init__(self, scaled: Tensor, shift: Tensor) -> None:
        self.scaled, self.shift = scaled, shift
        self.loss = scaled.new_zeros(len(scaled))
        self.log_sum = scaled.new_full((len(scaled),), -math.inf)
        self.gradient = torch.zeros_like(scaled)
        self.small = False
        if scaled.device.type == "cpu" and len(scaled):  # accelerators would have to synchronize
            # keys have norm 1, so the largest norm bounds q'k / tau
            norm, offset = float(torch.linalg.vector_norm(scaled, dim=1).max()), float(shift)
            self.small = norm - offset < 80 / _FOLD and norm + offset < 80

    def add(self, logits: Tensor, queries: slice = slice(None)) -> Tensor:
        """Add (b, n) logits to the sums of some queries; overwrites them with `d softplus / d logit`."""
        if self.small:  # all three sums share one exponential
            e = logits.exp_()
            self.log_sum[queries] = torch.logaddexp(self.log_sum[queries], e.sum(1).log())
            self.loss[queries] += _sum_of_log1p(e)
            return e.div_(e + 1)
        self.log_sum[queries] = torch.logaddexp(self.log_sum[queries], torch.logsumexp(logits, 1))
        self.loss[queries] += _softplus(logits).sum(1)
        return logits.sigmoid_()

    def like(self, rows: Tensor) -> Tensor:
        return rows.to(self.scaled.device, self.scaled.dtype)


def _chunks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, max(size, 1)))


def _all_rows(sums: _Sums, bank: Tensor, negatives: Negatives) -> None:
    """Contrast with every row of other groups, one chunk of the bank at a time."""
    scaled, groups, query_groups = sums.scaled, negatives.groups, negatives.query_groups
    assert groups is not None
    assert query_groups is not None
    size = max(256, _SCORES.get(scaled.device.type, _ACCELERATOR_SCORES) // max(len(scaled), 1))
    for chunk in _chunks(len(bank), size):
        rows = sums.like(bank[chunk])
        logits = (scaled @ rows.t()).sub_(sums.shift)
        logits.masked_fill_(groups[chunk] == query_groups[:, None], -math.inf)
        sums.gradient.addmm_(sums.add(logits), rows)


def _dense(sums: _Sums, bank: Tensor, ids: Tensor, ragged: bool) -> None:
    """Score the whole bank by matrix products, gather the sampled scores and scatter back their derivatives."""
    columns = max(256, _ROWS.get(sums.scaled.device.type, _ACCELERATOR_ROWS) // max(bank.shape[1], 1))
    for queries in _chunks(len(ids), max(1, _MAX_SCORES // len(bank))):
        scaled = sums.scaled[queries]
        scores = scaled.new_empty(len(scaled), len(bank) + ragged)
        scores[:, len(bank) :] = -math.inf  # padding
        for chunk in _chunks(len(bank), columns):
            torch.mm(scaled, sums.like(bank[chunk]).t(), out=scores[:, chunk])
        derivatives = sums.add(scores.gather(1, ids[queries]).sub_(sums.shift), queries)
        scores.zero_().scatter_add_(1, ids[queries], derivatives)
        for chunk in _chunks(len(bank), columns):
            sums.gradient[queries].addmm_(scores[:, chunk], sums.like(bank[chunk]))


def _gathered(sums: _Sums, bank: Tensor, ids: Tensor, ragged: bool) -> None:
    """Copy each query's rows, in chunks small enough to stay in the cache for both of their uses."""
    (batch, count), width = ids.shape, bank.shape[1]
    budget = _ROWS.get(sums.scaled.device.type, _ACCELERATOR_ROWS)
    for queries in _chunks(batch, max(1, budget // max(count * width, 1))):
        scaled = sums.scaled[queries]
        for chunk in _chunks(count, max(1, budget // (len(scaled) * width))):
            sampled = ids[queries, chunk]
            indices = (sampled.clamp_max(len(bank) - 1) if ragged else sampled).reshape(-1)
            rows = sums.like(bank.index_select(0, indices.to(bank.device))).view(*sampled.shape, width)
            logits = torch.bmm(rows, scaled[:, :, None]).squeeze(2).sub_(sums.shift)
            if ragged:
                logits.masked_fill_(sampled == len(bank), -math.inf)
            sums.gradient[queries] += torch.bmm(sums.add(logits, queries)[:, None], rows).squeeze(1)
