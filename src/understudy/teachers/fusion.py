"""One distribution from a generalist's and its specialists' (Hinton, Vinyals and Dean 2015, section 5.3, equation 5).

A specialist m tells the classes of its group S_m apart, and has one dustbin for all others, D_m. The answer q minimises

    KL(p_g, q) + sum over active m of [ sum_{c in S_m} p_m(c) log p_m(c)/q(c) + p_m(D_m) log p_m(D_m)/q(D_m) ]

with q(D_m) the sum of q over the dustbin. With `a = p_g + sum_m p_m` (own classes only), `d_m = p_m(D_m)` and K the
number of distributions, this is the likelihood of a mixture, `-sum_c a_c log q_c - sum_m d_m log q(D_m)`: convex in
q, and minimised by expectation-maximisation, which gives each dustbin's mass to its classes as q shares it out:

    q_c <- (a_c + sum_{m: c in D_m} d_m q_c / q(D_m)) / K

Three things make it quick. Classes in the same groups keep the proportions of their a, so only the masses of such
blocks are sought. One step from q = a/K is the answer where at most one specialist is active: p_g for none, and for
one the mean of p_g and p_m, whose dustbin is shared out as p_g would. For more, pairs of steps are extrapolated
(SQUAREM, Varadhan and Roland 2008) where that lowers the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
"""Of the bound on how far the sum is above its least, in nats a distribution, at which a sample is done."""

_FLOOR = {torch.float64: -600.0, torch.float32: -75.0}  # of log-probabilities, so that no mass is zero
_FURTHEST = 1024.0  # extrapolation, in steps


@dataclass(frozen=True)
class Fused:
    """The answer for a batch.

    Attributes:
        log_probs: (B, C), in the precision of the computation.
        steps: of expectation-maximisation that the slowest sample took.
        gap: (B,) by how much the sum may be above its least, in nats a distribution.
    """

    log_probs: Tensor
    steps: int
    gap: Tensor

    @property
    def unfinished(self) -> int:
        """How many samples are not as close to the least sum as was asked for."""
        return int((self.gap > TOLERANCE[self.gap.dtype]).sum())


class Groups:
    """Which classes each specialist tells apart, laid out for whole batches.

    Args:
        groups: each specialist's class indices, distinct, fewer than `classes`; groups may overlap.
        classes: C.
    """

    def __init__(self, groups: Sequence[Sequence[int]], classes: int, device: torch.device | str = "cpu") -> None:
        for group in groups:
            assert 0 < len(group) == len(set(group)) < classes, group
        inside = torch.zeros(classes, len(groups), dtype=torch.bool)
        for number, group in enumerate(groups):
            inside[list(group), number] = True
        covers = [tuple(row) for row in inside.tolist()]  # () of each class where there are no groups
        blocks = list(dict.fromkeys(covers))
        place = {cover: number for number, cover in enumerate(blocks)}
        kind = torch.float32 if torch.device(device).type == "mps" else torch.float64  # which has no float64
        self.classes, self.count = classes, len(groups)
        self.inside = inside.to(device)  # (C, M)
        self.members = [torch.tensor(list(group), device=device) for group in groups]
        listed = [(c, number) for number, group in enumerate(groups) for c in group]
        self._own, self._owner = torch.tensor(listed, dtype=torch.int64).reshape(-1, 2).to(device).unbind(1)
        self._block_of = torch.tensor([place[cover] for cover in covers], device=device)  # (C,)
        self._outside = (~torch.tensor(blocks).bool().reshape(len(blocks), -1)).to(device, kind)  # (blocks, M)

    def active(self, logits: Tensor, top_n: int = 1) -> Tensor:
        """(B, M) whether a specialist's group meets the `top_n` most probable classes of (B, C) logits."""
        top = logits.topk(min(top_n, self.classes), dim=1).indices
        return self.inside[top].any(1)

    def fuse(
        self, general: Tensor, special: Sequence[Tensor], active: Tensor | None = None, *, limit: int = 600
    ) -> Fused:
        """The q of each sample.

        Args:
            general: (B, C) logits of the generalist.
            special: for each specialist (B, n + 1) logits of its classes, in the order of its group, and its dustbin;
                what it says where it is not active does not matter.
            active: (B, M) bool; all where None.
            limit: most steps; what is not done by then is counted in `Fused.unfinished`.
        """
        kind = self._outside.dtype
        p = general.to(kind).log_softmax(1).clamp_min(_FLOOR[kind]).exp()
        weight = torch.ones(len(p), self.count, dtype=kind, device=p.device) if active is None else active.to(kind)
        each = [logits.to(kind).log_softmax(1).clamp_min(_FLOOR[kind]).exp() for logits in special]
        if each:
            dustbins = weight * torch.stack([one[:, -1] for one in each], 1)
            own = torch.cat([one[:, :-1] for one in each], 1)
            own = torch.where(weight[:, self._owner] > 0, own, 0.0)  # what is not active may be anything
            p = p.index_add(1, self._own, own)
        else:
            dustbins = weight
        dustbins = torch.where(weight > 0, dustbins, 0.0)
        mass = p.new_zeros(len(p), len(self._outside)).index_add_(1, self._block_of, p)
        several = weight.sum(1) + 1
        problem = _Problem(mass, dustbins, several[:, None], self._outside)
        shares, steps, gap = problem.solve(limit)
        log_q = p.log() + (shares.log() - mass.log())[:, self._block_of]
        return Fused(log_q, steps, gap)


@dataclass(frozen=True)
class _Problem:
    """Least `-sum_b mass_b log s_b - sum_m dustbin_m log (s outside)_m` over distributions s of the blocks.

    Attributes:
        mass: (B, blocks).
        dustbins: (B, M), 0 of those that are not active.
        several: (B, 1), the number of distributions, `mass.sum + dustbins.sum`.
        outside: (blocks, M), 1 where a block is in a specialist's dustbin.
    """

    mass: Tensor
    dustbins: Tensor
    several: Tensor
    outside: Tensor

    def at(self, rows: Tensor) -> _Problem:
        return _Problem(self.mass[rows], self.dustbins[rows], self.several[rows], self.outside)

    def step(self, shares: Tensor) -> Tensor:
        """Expectation-maximisation: never raises the sum."""
        pull = (self.dustbins / (shares @ self.outside)) @ self.outside.T
        return (self.mass + shares * pull) / self.several

    def value(self, shares: Tensor) -> Tensor:
        """(B,) the sum, but for a constant."""
        inner = (self.mass * shares.log()).sum(1)
        return -inner - (self.dustbins * (shares @ self.outside).log()).sum(1)

    def solve(self, limit: int) -> tuple[Tensor, int, Tensor]:
        """(B, blocks) shares, the steps that the slowest took, and (B,) bounds on their distance from the least sum."""
        shares = self.step(self.mass / self.mass.sum(1, keepdim=True))  # the answer where one is active
        gap = shares.new_zeros(len(shares))
        left = (self.dustbins > 0).sum(1).gt(1).nonzero().flatten()
        steps = 1
        while len(left):
            part, now = self.at(left), shares[left]
            one = part.step(now)
            # convexity: the sum is above its least by at most the largest of -gradient, less the mean of it
            gap[left] = (one / now).amax(1) - 1
            open_ = gap[left] > TOLERANCE[gap.dtype]
            steps += 1
            shares[left] = one
            if steps >= limit:
                break
            left = left[open_]
            if not len(left):
                break
            shares[left] = part.at(open_).ahead(now[open_], one[open_])
            steps += 2
        return shares, steps, gap

    def ahead(self, now: Tensor, one: Tensor) -> Tensor:
        """From shares and the step after them to a point farther on, or two steps on where that is better."""
        two = self.step(one)
        first = one.log() - now.log()
        bend = two.log() - one.log() - first
        reach = ((two * first.square()).sum(1) / (two * bend.square()).sum(1).clamp_min(1e-300)).sqrt()
        reach = reach.clamp(1.0, _FURTHEST)[:, None]
        far = (now.log() + 2 * reach * first + reach.square() * bend).softmax(1)
        far = self.step(far.clamp_min(torch.finfo(far.dtype).tiny * 1e8))
        better = self.value(far) <= self.value(two)
        return torch.where(better[:, None] & far.isfinite().all(1, keepdim=True), far, two)
