"""Fusing a generalist's distribution with its specialists' (Hinton, Vinyals and Dean 2015, section 5.3, equation 5).

Specialist m has a distribution p_m over the classes of its group S_m and one dustbin class for all others, D_m. The
fused distribution q minimizes

    KL(p_g || q) + sum over active m of [ sum_{c in S_m} p_m(c) log p_m(c)/q(c) + p_m(D_m) log p_m(D_m)/q(D_m) ]

where q(D_m) is the sum of q over the dustbin's classes. With `a = p_g + sum_m p_m` (group classes only),
`d_m = p_m(D_m)` and K the number of distributions, this is the negative log-likelihood of a mixture,
`-sum_c a_c log q_c - sum_m d_m log q(D_m)`: convex in q, and minimized by expectation-maximization (EM), which
splits each dustbin's mass among its classes in proportion to q:

    q_c <- (a_c + sum_{m: c in D_m} d_m q_c / q(D_m)) / K

Classes that belong to the same groups keep the proportions of their a, so only the masses of such blocks are
optimized. With at most one active specialist, a single step from q = a/K is exact: q = p_g for none; for one, the
mean of p_g and p_m with the dustbin's mass split as p_g does. Otherwise, pairs of steps are extrapolated (SQUAREM,
Varadhan and Roland 2008) wherever that lowers the objective. EM stalls where masses differ by many orders of
magnitude, as with saturated softmaxes; those samples are finished by a primal-dual interior-point method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
"""A sample has converged when its optimality gap is at most this, in nats per distribution."""

_FLOOR = {torch.float64: -600.0, torch.float32: -75.0}  # of log-probabilities, so that no mass is zero
_MAX_EXTRAPOLATION = 1024.0  # in EM steps
_EM_STEPS = 600  # before the interior-point method takes over
_MIN_SLACK = 1e-13  # of the interior-point method


@dataclass(frozen=True)
class Fused:
    """The fused distributions of a batch."""

    log_probs: Tensor  # (B, C), in the precision of the computation
    steps: int  # iterations that the slowest sample took
    gap: Tensor  # (B,) upper bound on the distance from the minimum, in nats per distribution

    @property
    def unfinished(self) -> int:
        """Number of samples that have not converged."""
        return int((self.gap > TOLERANCE[self.gap.dtype]).sum())


class Groups:
    """The class groups of a panel's specialists, distinct indices below C each, which may overlap.

    Example:
        Both distributions count equally, and the dustbin's 0.2 is split between classes 2 and 3 as the generalist does.

        >>> generalist, specialist = torch.tensor([[0.4, 0.2, 0.3, 0.1]]), torch.tensor([[0.2, 0.6, 0.2]])
        >>> fused = Groups([[0, 1]], classes=4).fuse(generalist.log(), [specialist.log()])
        >>> [round(p, 3) for p in fused.log_probs.exp()[0].tolist()]
        [0.3, 0.4, 0.225, 0.075]
    """

    def __init__(self, groups: Sequence[Sequence[int]], classes: int, device: torch.device | str = "cpu") -> None:
        for group in groups:
            assert 0 < len(group) == len(set(group)) < classes, group
        inside = torch.zeros(classes, len(groups), dtype=torch.bool)
        for number, group in enumerate(groups):
            inside[list(group), number] = True
        memberships = [tuple(row) for row in inside.tolist()]  # () for each class if there are no groups
        blocks = list(dict.fromkeys(memberships))
        index = {membership: number for number, membership in enumerate(blocks)}
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64  # MPS has no float64
        self.classes, self.count = classes, len(groups)
        self.inside = inside.to(device)  # (C, M)
        self.members = [torch.tensor(list(group), device=device) for group in groups]
        pairs = [(c, number) for number, group in enumerate(groups) for c in group]
        self._own, self._owner = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).to(device).unbind(1)
        self._block_of = torch.tensor([index[membership] for membership in memberships], device=device)  # (C,)
        self._outside = (~torch.tensor(blocks).bool().reshape(len(blocks), -1)).to(device, dtype)  # (blocks, M)

    def active(self, logits: Tensor, top_n: int = 1) -> Tensor:
        """(B, M) mask: whether a specialist's group contains any of the `top_n` most probable classes."""
        top = logits.topk(min(top_n, self.classes), dim=1).indices
        return self.inside[top].any(1)

    def fuse(
        self, general: Tensor, special: Sequence[Tensor], active: Tensor | None = None, *, limit: int = 800
    ) -> Fused:
        """Minimize equation 5 for each sample, in at most `limit` iterations.

        Args:
            general: (B, C) logits of the generalist.
            special: (B, n + 1) logits of each specialist, for its group's classes in order and its dustbin; ignored
                where it is not active.
            active: (B, M) bool; all if None.
        """
        dtype = self._outside.dtype
        p = general.to(dtype).log_softmax(1).clamp_min(_FLOOR[dtype]).exp()
        weight = torch.ones(len(p), self.count, dtype=dtype, device=p.device) if active is None else active.to(dtype)
        probs = [logits.to(dtype).log_softmax(1).clamp_min(_FLOOR[dtype]).exp() for logits in special]
        if probs:
            dustbins = weight * torch.stack([q[:, -1] for q in probs], 1)
            own = torch.cat([q[:, :-1] for q in probs], 1)
            own = torch.where(weight[:, self._owner] > 0, own, 0.0)  # inactive logits may be NaN
            p = p.index_add(1, self._own, own)
        else:
            dustbins = weight
        dustbins = torch.where(weight > 0, dustbins, 0.0)
        mass = p.new_zeros(len(p), len(self._outside)).index_add_(1, self._block_of, p)
        problem = _Problem(mass, dustbins, weight.sum(1, keepdim=True) + 1, self._outside)
        shares, steps, gap = problem.solve(limit)
        log_q = p.log() + (shares.log() - mass.log())[:, self._block_of]
        return Fused(log_q, steps, gap)


@dataclass(frozen=True)
class _Problem:
    """Minimize `-sum_b mass_b log s_b - sum_m dustbin_m log (s @ outside)_m` over distributions s of the blocks."""

    mass: Tensor  # (B, blocks)
    dustbins: Tensor  # (B, M), 0 for inactive specialists
    total: Tensor  # (B, 1) number of distributions K, `mass.sum + dustbins.sum`
    outside: Tensor  # (blocks, M), 1 where a block is in a specialist's dustbin

    def at(self, rows: Tensor) -> _Problem:
        return _Problem(self.mass[rows], self.dustbins[rows], self.total[rows], self.outside)

    def step(self, shares: Tensor) -> Tensor:
        """One EM step, which never increases the objective."""
        pull = (self.dustbins / (shares @ self.outside)) @ self.outside.T
        return (self.mass + shares * pull) / self.total

    def value(self, shares: Tensor) -> Tensor:
        """(B,) objective."""
        inner = (self.mass * shares.log()).sum(1)
        return -inner - (self.dustbins * (shares @ self.outside).log()).sum(1)

    def gap(self, shares: Tensor, stepped: Tensor) -> Tensor:
        # by convexity, at most the largest component of the negative gradient less their mean under `shares`
        return (stepped / shares).amax(1) - 1

    def solve(self, limit: int) -> tuple[Tensor, int, Tensor]:
        """(B, blocks) shares, iterations of the slowest sample, and (B,) optimality gaps."""
        shares = self.step(self.mass / self.mass.sum(1, keepdim=True))  # exact with at most one active specialist
        gap = shares.new_zeros(len(shares))
        left = (self.dustbins > 0).sum(1).gt(1).nonzero().flatten()
        steps = 1
        while len(left):
            part, now = self.at(left), shares[left]
            one = part.step(now)
            gap[left] = part.gap(now, one)
            remaining = gap[left] > TOLERANCE[gap.dtype]
            shares[left] = one
            left = left[remaining]
            steps += 1
            if not len(left) or steps >= min(limit, _EM_STEPS):
                break
            shares[left] = part.at(remaining).extrapolate(now[remaining], one[remaining])
            steps += 2
        if len(left) and steps < limit:
            # in float64, on the CPU: it is for few samples, and not every device has float64
            part = _Problem(
                *(x.cpu().double() for x in (self.mass[left], self.dustbins[left], self.total[left], self.outside))
            )
            exact, more, bound = part.interior_point(shares[left].to(part.mass), limit - steps, TOLERANCE[gap.dtype])
            shares[left], gap[left] = exact.to(shares), bound.to(gap)
            steps += more
        return shares, steps, gap

    def extrapolate(self, now: Tensor, one: Tensor) -> Tensor:
        """A SQUAREM step from shares and the EM step after them, or the second EM step where that is lower."""
        two = self.step(one)
        first = one.log() - now.log()
        bend = two.log() - one.log() - first
        length = ((two * first.square()).sum(1) / (two * bend.square()).sum(1).clamp_min(1e-300)).sqrt()
        length = length.clamp(1.0, _MAX_EXTRAPOLATION)[:, None]
        far = (now.log() + 2 * length * first + length.square() * bend).softmax(1)
        far = self.step(far.clamp_min(torch.finfo(far.dtype).tiny * 1e8))
        better = self.value(far) <= self.value(two)
        return torch.where(better[:, None] & far.isfinite().all(1, keepdim=True), far, two)

    def interior_point(self, shares: Tensor, limit: int, tolerance: float) -> tuple[Tensor, int, Tensor]:
        """Primal-dual Newton steps from `shares`: the best shares found, the number of steps, and (B,) gaps.

        With multipliers y_m = dustbin_m / (s @ outside)_m and slacks t = K - outside @ y, the minimum satisfies
        s_b t_b = mass_b. Newton's method on these products converges in a few steps whatever the scale of the masses;
        each step solves an (M, M) system. Slacks stay above `_MIN_SLACK`, which keeps the system well conditioned
        and is far below the tolerance.
        """
        dustbins = self.dustbins.clamp_min(1e-290)  # inactive specialists get a negligible weight
        pairs = (self.outside[:, :, None] * self.outside[:, None, :]).flatten(1)
        ridge = 1e-14 * torch.eye(dustbins.shape[1], dtype=shares.dtype)
        best, gap, steps = shares, self.gap(shares, self.step(shares)), 0
        dual = dustbins / (shares @ self.outside) / (1 + gap.clamp_min(0))[:, None]  # so that no slack is negative
        slack = (self.total - dual @ self.outside.T).clamp_min(_MIN_SLACK)
        while steps < limit and bool((gap > tolerance).any()):
            covered, ratio = shares @ self.outside, shares / slack
            normal = (ratio @ pairs).unflatten(1, ridge.shape) + torch.diag_embed(covered / dual)
            scale = normal.diagonal(dim1=1, dim2=2).rsqrt()
            factor, _ = torch.linalg.cholesky_ex(normal * scale[:, :, None] * scale[:, None, :] + ridge)
            centered = self.mass.maximum(_MIN_SLACK * shares) / slack - shares
            residual = (dustbins / dual - covered - centered @ self.outside) * scale
            d_dual = torch.cholesky_solve(residual[:, :, None], factor)[:, :, 0] * scale
            d_slack = -d_dual @ self.outside.T
            d_shares = centered - ratio * d_slack
            shrink = -torch.cat([d_shares / shares, d_slack / slack, d_dual / dual], 1).amin(1, keepdim=True)
            length = 0.99 / shrink.clamp_min(0.99)  # stays in the interior
            shares = (shares + length * d_shares).maximum(self.mass / self.total)  # a lower bound on the solution
            shares = shares / shares.sum(1, keepdim=True)
            slack, dual = slack + length * d_slack, dual + length * d_dual
            reached = self.gap(shares, self.step(shares))
            best = torch.where((reached < gap)[:, None], shares, best)
            gap = torch.where(reached < gap, reached, gap)
            steps += 1
        return best, steps, gap
