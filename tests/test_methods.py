"""All objectives by name, from one table: what holds for each, by itself and in the loop.

What holds on two ranks is in faults/test_ranks.py.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from understudy.config.options import OptimizerConfig
from understudy.config.recipe import TrainRecipe
from understudy.data import ArraySource
from understudy.data.loader import BatchLoader
from understudy.data.views import Views
from understudy.errors import Interrupted
from understudy.models import InputContract, Network
from understudy.objectives import OBJECTIVES, BuildContext, Objective
from understudy.objectives.features import shape_of
from understudy.pipeline.loss import compose, parse_term
from understudy.signals import Batch, Shapes, Signals
from understudy.teachers import Teacher
from understudy.training import Learner, Loop, Member

METHODS = (*OBJECTIVES, "crd:sharded=true", "crd:negatives=9", "crd+kd", "crd+kd+at", "kd:warmup=2")
every = pytest.mark.parametrize("method", METHODS)

ROWS, CLASSES, SAMPLES = 6, 5, 20
CONTEXT = BuildContext(
    student=Shapes(CLASSES, 8, {"layer1": (4, 8, 8), "layer2": (6, 4, 4), "layer3": (8, 2, 2)}, maps=(8, 2, 2)),
    teacher=Shapes(CLASSES, 12, {"stage1": (6, 8, 8), "stage2": (10, 4, 4), "stage3": (12, 2, 2)}, maps=(12, 2, 2)),
    ids=torch.arange(SAMPLES),
    targets=torch.arange(SAMPLES) % CLASSES,
    classifier=(torch.eye(CLASSES, 12), torch.zeros(CLASSES)),
)


def fitted(method: str, *settings: BuildContext) -> Objective:
    terms = [parse_term(word) for word in method.split("+")]
    total = compose(terms, settings or (CONTEXT,), seed=0)
    return total if len(terms) > 1 else next(iter(total.terms.children()))  # type: ignore[return-value]


def randn(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def batch_of(labeled: bool = True) -> Batch:
    targets = torch.arange(ROWS) % CLASSES if labeled else None
    return Batch(torch.arange(ROWS), torch.arange(ROWS), torch.full((ROWS, 1), math.nan), targets)


def declared(
    objective: Objective, side: Literal["student", "teacher"], seed: int, dtype: torch.dtype = torch.float32
) -> Signals:
    """The signals that an objective declares in `needs`; others are absent, except for logits, which are NaN."""
    shapes: Shapes = getattr(CONTEXT, side)
    names = getattr(objective.needs, side)

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return randn(ROWS, *shape, seed=seed, scale=scale).to(dtype).requires_grad_(side == "student")

    logits = random(CLASSES, scale=3.0) if "logits" in names else torch.full((ROWS, CLASSES), math.nan, dtype=dtype)
    embedding = random(shapes.embedding) if "embedding" in names else None
    features = {tap: random(*shape_of(shapes, tap, side)) for tap in names - {"logits", "embedding"}}
    return Signals(logits, embedding, features)


def read_by(objective: Objective, student: Signals) -> list[Tensor]:
    """The student's tensors that an objective declares in `needs`."""
    named = {"logits": student.logits, "embedding": student.embedding} | dict(student.features)
    return [x for name in sorted(objective.needs.student) if (x := named[name]) is not None]


def teacher_for(objective: Objective, dtype: torch.dtype = torch.float32, members: int = 0) -> Signals | None:
    """Inference tensors, as from a teacher, which cannot be saved for the backward pass."""
    if not objective.needs.teacher:
        return None
    with torch.inference_mode():
        each = [declared(objective, "teacher", 20 + i, dtype) for i in range(max(members, 1))]
        if not members:
            return each[0]
        logits = torch.stack([m.logits for m in each]).mean(0)
        return Signals(logits, each[0].embedding, each[0].features, tuple(each))


# --- one step, on bare signals --------------------------------------------------------------------------


@every
@pytest.mark.parametrize("precision", ["float32", "bf16 autocast"])
@pytest.mark.parametrize("members", [0, 1, 3])
@pytest.mark.parametrize("labeled", [True, False])
def test_loss_and_gradients(method: str, precision: str, members: int, labeled: bool) -> None:
    """The loss is a finite float32 scalar, and gradients reach everything it reads and its own parameters."""
    half = precision != "float32"
    dtype = torch.bfloat16 if half else torch.float32
    objective = fitted(method, *[CONTEXT] * max(members, 1))
    student, teacher = declared(objective, "student", 1, dtype), teacher_for(objective, dtype, members)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = objective(student, teacher, batch_of(labeled))
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    loss.backward()
    read, own = read_by(objective, student), list(objective.parameters())
    assert all(x.grad is not None and x.grad.dtype == x.dtype and x.grad.isfinite().all() for x in read)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in own)
    if labeled or method not in ("ce", "bce"):
        assert all(x.grad is not None and x.grad.any() for x in read)
        assert not own or any(p.grad is not None and p.grad.any() for p in own)
    if half:
        plain = fitted(method, *[CONTEXT] * max(members, 1))
        torch.manual_seed(1)
        torch.testing.assert_close(
            loss.detach(), plain(student, teacher, batch_of(labeled)).detach(), rtol=1e-6, atol=0
        )


@every
def test_a_batch_may_hold_a_sample_twice(method: str) -> None:
    """As where it spans two epochs."""
    objective, ids = fitted(method), torch.arange(ROWS) % (ROWS - 2)
    student = declared(objective, "student", 1)
    batch = Batch(ids, ids, torch.full((ROWS, 1), math.nan), ids % CLASSES)
    objective(student, teacher_for(objective), batch).backward()
    assert all(x.grad is not None and x.grad.isfinite().all() and x.grad.any() for x in read_by(objective, student))


@every
def test_without_a_teacher(method: str) -> None:
    objective = fitted(method)
    student = declared(objective, "student", 1)
    if objective.needs.teacher:
        with pytest.raises(ValueError, match="teacher"):
            objective(student, None, batch_of())
    else:
        assert objective(student, None, batch_of()).isfinite()


@every
def test_per_sample_losses_are_means_over_rows(method: str) -> None:
    objective = fitted(method).eval()
    if not objective.per_sample:
        pytest.skip("it compares the samples of a batch with one another")
    student, teacher = declared(objective, "student", 1), teacher_for(objective)
    whole = objective(student, teacher, batch_of())
    halves = [
        objective(student[s], None if teacher is None else teacher[s], batch_of()[s])
        for s in (slice(0, 2), slice(2, ROWS))
    ]
    torch.testing.assert_close(halves[0] * (2 / ROWS) + halves[1] * (4 / ROWS), whole, rtol=1e-4, atol=1e-6)


@every
def test_loss_decreases(method: str) -> None:
    """Optimizing the student's signals and the objective's own parameters."""
    objective = fitted(method)
    student, teacher, losses = declared(objective, "student", 1), teacher_for(objective), []
    optimizer = torch.optim.Adam([*read_by(objective, student), *objective.parameters()], lr=0.05)
    for step in range(60):
        torch.manual_seed(step)
        loss = objective(student, teacher, batch_of())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3 * abs(losses[0])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_is_documented(name: str) -> None:
    assert OBJECTIVES[name].summary
    assert OBJECTIVES[name].weight > 0
    assert OBJECTIVES[name].__doc__


# --- in the loop: all methods side by side, as one cohort ------------------------------------------

# the classic methods' default weights suit CIFAR networks; these tests only compare runs
SGD = OptimizerConfig(name="sgd", lr=1e-3, schedule="constant", warmup=0.0)
RECIPE = TrainRecipe(data="x", model="x", epochs=2, batch_size=12, checkpoint_every=0.0, optimizer=SGD)


def images() -> ArraySource:
    targets = torch.arange(36) % CLASSES
    inputs = torch.rand((36, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 2 + targets.view(-1, 1, 1, 1) / 10
    return ArraySource("images", tuple("abcde"), torch.arange(36) * 3, targets, (3, 8, 8), inputs=inputs)


class Small(torch.nn.Sequential):
    """Two stages and a classifier."""

    def __init__(self, width: int, seed: int) -> None:
        torch.manual_seed(seed)
        nn = torch.nn
        first = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.Tanh())
        second = nn.Sequential(nn.Conv2d(width, width + 2, 3, stride=2, padding=1), nn.Tanh())
        super().__init__(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width + 2, CLASSES))


def loop(fabric: Fabric, folder: Path | None, **changes: Any) -> Loop:
    source = images()
    contract = InputContract(source.shape, (0.5,) * 3, (0.3,) * 3, source.classes)
    uses_teacher = Network(Small(6, seed=9), contract)
    members = []
    for method in METHODS:
        network = Network(Small(4, seed=1), contract)
        own, other = network.shapes(), uses_teacher.shapes()
        context = BuildContext(own, other, source.ids, source.targets, uses_teacher.classifier)
        terms = [parse_term(word) for word in (*method.split("+"), *["ce"] * (method != "ce"))]
        learner = Learner(network, compose(terms, [context], seed=0))
        members.append(Member(f"{method}-0", "distilled", 3, learner, SGD, method != "ce"))
    batches = BatchLoader(source, Views(), 12, 0, fabric.device, fabric.global_rank, fabric.world_size)
    teacher = Teacher(uses_teacher)
    teacher.watch({name for m in members for name in m.learner.objective.needs.teacher} - {"logits"})
    return Loop(fabric, members, batches, RECIPE.model_copy(update=changes), teacher, folder=folder)


def states(made: Loop) -> dict[str, dict[str, Tensor]]:
    return {m.name.removesuffix("-0"): {k: v.clone() for k, v in m.learner.state_dict().items()} for m in made.members}


def on_cpu() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, Tensor]]:
    """The final state of each method in an uninterrupted run of one process."""
    made = loop(on_cpu(), None)
    made.run()
    return states(made)


def stop_at(stopped: Loop, step: int) -> None:
    """Run until the process is asked to end after this update."""
    update = stopped._update

    def stopping(batch: Batch, samples: int) -> None:
        update(batch, samples)
        if stopped._step == step:
            os.kill(os.getpid(), 15)

    stopped._update = stopping  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        stopped.run()


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """The same for a run that was interrupted at its fourth step and resumed with new objects."""
    folder = tmp_path_factory.mktemp("checkpoints")
    stop_at(loop(on_cpu(), folder), 3)
    made = loop(on_cpu(), folder)
    made.run()
    return states(made)


@every
def test_a_resumed_run_ends_with_the_same_bytes(
    method: str, whole: dict[str, dict[str, Tensor]], resumed: dict[str, dict[str, Tensor]]
) -> None:
    expected, found = whole[method], resumed[method]
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert any(not torch.equal(value, Small(4, seed=1).state_dict()[name.removeprefix("network.module.")])
               for name, value in expected.items() if name.startswith("network.module."))  # fmt: skip
