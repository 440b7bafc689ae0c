"""One update of a cohort, replayed as one CUDA graph for each shape of batch."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor

from understudy.errors import UnderstudyWarning
from understudy.objectives import Objective
from understudy.objectives.crd.negatives import NegativeSampler
from understudy.randomness import seed_of
from understudy.signals import Batch, Signals
from understudy.training.member import Member
from understudy.training.optimizer import decays_to_initial
from understudy.training.static import map_batch, map_signals, tensors_of
from understudy.training.step import EagerStep, seed_generators

_EAGER_STEPS = 11  # of each shape before it is captured: the timer counts eight of them
_MOST_GRAPHS = 4  # shapes; the batch that ends an epoch has another one
_TOLERANCE = 0.1  # relative difference of two updates by the same batch, of kernels that add in any order

Record = Callable[[Callable[[], None]], Callable[[], None]]
"""From what is to be recorded to what replays it; what is recorded is not run."""


class GraphedStep:
    """Makes the same updates by replaying a graph of all members, which are parallel branches of it.

    A graph repeats kernels with the tensors they had: the batch, the teacher's signals, the learning rate, the step and
    the seeds of drawn negatives are copied into the same tensors before each replay. The first steps of each shape of
    batch are eager, as the timer measures members there, one by one. The first replay is compared with the eager update
    by the same batch; if they differ, or nothing can be captured, all further steps are eager, with one warning.

    Args:
        eager: makes the updates that are not replayed.
        record: `cuda_graph`, or what stands in for it.
        eager_steps: of each shape before it is recorded.
    """

    def __init__(self, eager: EagerStep, record: Record, eager_steps: int = _EAGER_STEPS) -> None:
        self.eager, self.record, self.eager_steps = eager, record, eager_steps
        self.step = torch.zeros((), dtype=torch.int64, device=eager.fabric.device)
        self.seen: Counter[object] = Counter()
        self.recorded: dict[object, _Recorded] = {}
        self.given_up = ""
        self.draws = [
            (member, sampler, torch.zeros_like(self.step))
            for member in eager.members
            for sampler in member.learner.objective.modules()
            if isinstance(sampler, NegativeSampler)
        ]

    @property
    def first_nonfinite(self) -> Tensor:
        return self.eager.first_nonfinite

    def __call__(self, batch: Batch, samples: int, step: int, lr: float) -> None:
        shape = samples, tuple((tuple(x.shape), x.dtype) for x in tensors_of(batch, None))
        self.seen[shape] += 1
        recorded = self.recorded.get(shape)
        few = len(self.recorded) < _MOST_GRAPHS or recorded is not None
        if self.given_up or self.seen[shape] <= self.eager_steps or not few:
            self.eager(batch, samples, step, lr)
            return
        teacher = self.eager.answer(batch)
        if recorded is None:
            try:
                if self.eager.drew_on_device:  # all members would draw from one sequence
                    raise RuntimeError("a layer draws from the device's generator")
                self.recorded[shape] = self._record(batch, teacher, samples)
            except RuntimeError as fault:
                self._give_up(f"a step cannot be captured ({str(fault).splitlines()[0]})")
            self.eager.update(batch, teacher, samples, step, lr)
        elif recorded.checked:
            self._replay(recorded, batch, teacher, step, lr)
        else:
            recorded.checked = True
            self._replay_checked(recorded, batch, teacher, samples, step, lr)

    def _record(self, batch: Batch, teacher: Signals | None, samples: int) -> _Recorded:
        static_batch = map_batch(torch.clone, batch)
        static_teacher = None if teacher is None else map_signals(torch.clone, teacher)
        losses: list[Tensor] = []

        def update(member: Member) -> Callable[[], None]:
            def run() -> None:
                # signals of its own, as no branch waits for what another derived from them, and replays derive it anew
                teacher = None if static_teacher is None else map_signals(lambda x: x, static_teacher)
                losses.append(self.eager.update_member(member, static_batch, teacher, samples, float("nan")))

            return run

        def body() -> None:
            branches([update(member) for member in self.eager.members], self.step.device)
            self.eager.note_nonfinite(losses, self.step)

        for _, sampler, seed in self.draws:
            sampler.seed = seed
        try:
            replay = self.record(body)
        finally:
            for _, sampler, _ in self.draws:
                sampler.seed = None
        return _Recorded(replay, tensors_of(static_batch, static_teacher))

    def _replay(self, recorded: _Recorded, batch: Batch, teacher: Signals | None, step: int, lr: float) -> None:
        given = tensors_of(batch, teacher)
        torch._foreach_copy_(recorded.inputs, given)  # pyright: ignore[reportPrivateImportUsage]
        self.step.fill_(step)
        assert self.eager.rate is not None
        self.eager.rate.fill_(lr)
        seeded = None
        for member, _, seed in self.draws:
            if member is not seeded:
                seed_generators(seed_of(member.seed, step), self.step.device)
            seeded = member
            seed.fill_(int(torch.randint(2**62, ())))  # as the sampler itself draws it
        recorded.replay()

    def _replay_checked(
        self, recorded: _Recorded, batch: Batch, teacher: Signals | None, samples: int, step: int, lr: float
    ) -> None:
        """Make an update both ways from the same state, and stay with the eager one if they differ."""
        state = self._state()
        before = [x.clone() for x in state]
        self.eager.update(batch, teacher, samples, step, lr)
        after = [x.clone() for x in state]
        _assign(state, before)
        self._replay(recorded, batch, teacher, step, lr)
        if not _same_update(before, after, state):
            _assign(state, after)
            self._give_up("its replay changed the weights in another way than the step itself")

    def _state(self) -> list[Tensor]:
        """All tensors that an update changes."""
        state = [self.first_nonfinite]
        for member in self.eager.members:
            modules = [member.learner] if member.ema is None else [member.learner, member.ema]
            state += [x.detach() for module in modules for x in module.state_dict(keep_vars=True).values()]
            state += [x for slots in member.optimizer.state.values() for x in slots.values() if isinstance(x, Tensor)]
            state += [member.metrics.values]
        return state

    def _give_up(self, why: str) -> None:
        self.given_up = why
        self.recorded.clear()
        warnings.warn(f"training goes on without a CUDA graph: {why}", UnderstudyWarning, stacklevel=2)


@dataclass
class _Recorded:
    replay: Callable[[], None]
    inputs: list[Tensor]  # that it reads
    checked: bool = False


def make_step(eager: EagerStep) -> EagerStep | GraphedStep:
    """Graphed on a CUDA device, if nothing is known to prevent it."""
    if eager.fabric.device.type != "cuda" or why_not_graphed(eager.fabric, eager.members):
        return eager
    return GraphedStep(eager, cuda_graph)


def why_not_graphed(fabric: Fabric, members: Sequence[Member]) -> str:
    """Why steps on a CUDA device cannot be captured; "" if nothing is known, and on other devices."""
    if fabric.device.type != "cuda":
        return ""
    if fabric.world_size > 1:
        return "several devices exchange gradients"
    if getattr(fabric.strategy.precision, "scaler", None) is not None:
        return "the scale of fp16 gradients is chosen by the host"
    if any(decays_to_initial(member.optimizer_config) for member in members):
        return "decay to the initial weights reads the learning rate on the host"
    parts = (part for member in members for part in member.learner.objective.modules())
    foreign = {type(part).__name__ for part in parts if isinstance(part, Objective) and not _is_ours(part)}
    if foreign:  # it may read its tensors, or draw, on the host
        return f"what {', '.join(sorted(foreign))} does on the host is not known"
    return ""


def _is_ours(objective: Objective) -> bool:
    return type(objective).__module__.startswith(Objective.__module__.removesuffix("base"))


def cuda_graph(body: Callable[[], None]) -> Callable[[], None]:
    """Record kernels as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        body()
    return graph.replay


def branches(updates: Sequence[Callable[[], None]], device: torch.device) -> None:
    """Run independent updates on streams of their own, which start from and are joined by the current one."""
    if device.type != "cuda":
        for update in updates:
            update()
        return
    current = torch.cuda.current_stream(device)
    streams = [torch.cuda.Stream(device) for _ in updates]
    for stream, update in zip(streams, updates, strict=True):
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            update()
    for stream in streams:
        current.wait_stream(stream)


@torch.no_grad()
def _assign(state: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for x, value in zip(state, values, strict=True):
        x.copy_(value)


def _same_update(before: Sequence[Tensor], one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two updates of the same tensors are the same, up to rounding."""
    triples = [xs for xs in zip(before, one, other, strict=True) if xs[0].is_floating_point()]
    change = sum((a.double() - b.double()).square().sum() for b, a, _ in triples)
    gap = sum((a.double() - c.double()).square().sum() for _, a, c in triples)
    return bool(gap <= _TOLERANCE**2 * change)
