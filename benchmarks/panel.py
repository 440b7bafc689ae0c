"""Samples a second at which a panel's answers are joined, from their logits.

    python benchmarks/panel.py

1,000 classes, 20 specialists of 50 classes each, batches of 500. What is timed is the solver alone: softmaxes,
the joint distribution, its logarithm; the networks' passes are not, the logits are given. Three cases: groups that
share no class and one specialist asked, as with top_n = 1; groups drawn at random, which overlap, and those asked that
meet five classes; the same with all twenty asked of every sample. Beside each, the same minimum by torch's L-BFGS on
the logits of the whole batch, stopped when it is as close as the solver's answer to 1e-6 nats a sample, or after 100
evaluations.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from understudy.panels.fusion import Groups

CLASSES, SPECIALISTS, SIZE, BATCH = 1000, 20, 50, 500


def case(overlapping: bool, seed: int = 0) -> tuple[Groups, Tensor, list[Tensor]]:
    """Groups, and logits like those of trained nets: peaked, and the specialists' much like the generalist's."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(CLASSES, generator=draw)
    if overlapping:
        groups = [torch.randperm(CLASSES, generator=draw)[:SIZE].sort().values.tolist() for _ in range(SPECIALISTS)]
    else:
        groups = [order[i * SIZE : (i + 1) * SIZE].sort().values.tolist() for i in range(SPECIALISTS)]
    general = 3 * torch.randn(BATCH, CLASSES, generator=draw)
    special = []
    for group in groups:
        rest = torch.ones(CLASSES, dtype=torch.bool)
        rest[group] = False
        seen = torch.cat([general[:, group], general[:, rest].logsumexp(1, keepdim=True)], 1)
        special.append(seen + torch.randn(seen.shape, generator=draw))
    return Groups(groups, CLASSES), general, special


def total(groups: Groups, general: Tensor, special: list[Tensor], active: Tensor, log_q: Tensor) -> Tensor:
    """(B,) the sum of KL divergences, as it reads."""
    p = general.double().softmax(1)
    found = (p * (p.log() - log_q)).sum(1)
    for number, logits in enumerate(special):
        own = logits.double().log_softmax(1)
        members = groups.members[number]
        outside = ~groups.inside[:, number]
        other = torch.cat([log_q[:, members], log_q[:, outside].logsumexp(1, keepdim=True)], 1)
        found = found + active[:, number] * (own.exp() * (own - other)).sum(1)
    return found


def by_gradient(groups: Groups, general: Tensor, special: list[Tensor], active: Tensor, least: Tensor) -> float:
    """Seconds that L-BFGS takes on the same batch."""
    z = general.double().clone().requires_grad_()
    start = time.perf_counter()
    solver = torch.optim.LBFGS([z], max_iter=1, line_search_fn="strong_wolfe", tolerance_grad=0, tolerance_change=0)

    def loss() -> Tensor:
        solver.zero_grad()
        value = total(groups, general, special, active, z.log_softmax(1)).sum()
        value.backward()
        return value

    evaluations = 0
    while evaluations < 100:
        found = solver.step(loss).detach()  # type: ignore[arg-type]
        evaluations = solver.state[z]["func_evals"]
        if float(found) <= float(least.sum()) + 1e-6 * len(least):
            break
    return time.perf_counter() - start


def timed(run: Callable[[], object], rounds: int) -> float:
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--plain", action="store_true", help="time L-BFGS too")
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, medians of {args.rounds} rounds, {CLASSES} classes, batches of {BATCH}")
    for name, overlapping, top_n in (
        ("apart, top 1", False, 1),
        ("overlapping, top 5", True, 5),
        ("all asked", True, 0),
    ):
        groups, general, special = case(overlapping)
        active = groups.active(general, top_n) if top_n else torch.ones(BATCH, SPECIALISTS, dtype=torch.bool)
        fused = groups.fuse(general, special, active)
        seconds = timed(lambda: groups.fuse(general, special, active), args.rounds)  # noqa: B023
        asked = float(active.sum(1).double().mean())
        print(
            f"  {name:20} {asked:5.1f} asked a sample  {BATCH / seconds:9,.0f} samples/s  {fused.steps:4} steps at most"
            f"  {fused.unfinished} unfinished, {float(fused.gap.max()):.0e} nats above the least at most"
        )
        if args.plain:
            least = total(groups, general, special, active, fused.log_probs)
            plain = by_gradient(groups, general, special, active, least)
            print(f"  {'':20} L-BFGS: {BATCH / plain:9,.0f} samples/s")


if __name__ == "__main__":
    main()
