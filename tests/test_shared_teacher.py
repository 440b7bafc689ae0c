"""What a step computes once: everything that several students derive from the same signals of one teacher."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from understudy.config.options import OptimizerConfig
from understudy.models import InputContract, build
from understudy.objectives import DKD, KD, LogitStandardization, Objective, kd, kd_loss
from understudy.signals import Batch, Signals
from understudy.training import Learner, Member
from understudy.training.optimizer import make_optimizer

B, C = 7, 5


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 4


def one_teacher() -> Signals:
    with torch.inference_mode():
        return Signals(randn(B, C, seed=1))


def an_ensemble() -> Signals:
    with torch.inference_mode():
        return Signals(randn(B, C, seed=1), members=tuple(Signals(randn(B, C, seed=seed)) for seed in (2, 3)))


OBJECTIVES: list[Objective] = [
    KD(4.0),
    KD(1.0),
    KD(4.0, "geometric"),
    DKD(),
    DKD(temperature=2.0),
    LogitStandardization(),
]
BATCH = Batch(torch.arange(B), torch.arange(B), torch.zeros(B, 1), torch.arange(B) % C)


def loss_and_gradient(objective: Objective, teacher: Signals, seed: int) -> tuple[Tensor, Tensor]:
    logits = randn(B, C, seed=seed).requires_grad_()
    loss = objective(Signals(logits), teacher, BATCH)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("signals", [one_teacher, an_ensemble])
def test_students_that_share_a_teacher_s_signals_lose_what_they_would_alone(signals: Callable[[], Signals]) -> None:
    shared = signals()
    for objective in OBJECTIVES:
        for seed in (10, 11):
            found, expected = (loss_and_gradient(objective, teacher, seed) for teacher in (shared, signals()))
            assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_a_teacher_is_softened_once_for_each_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    temperatures: list[float] = []
    soften = kd.teacher_log_probs

    def counted(logits: Tensor, temperature: float, mean: kd.Mean = "arithmetic") -> Tensor:
        temperatures.append(temperature)
        return soften(logits, temperature, mean)

    monkeypatch.setattr(kd, "teacher_log_probs", counted)
    teacher = one_teacher()
    for objective in (KD(4.0), KD(4.0), DKD(temperature=4.0), KD(1.0), KD(4.0)):
        loss_and_gradient(objective, teacher, 10)
    assert temperatures == [4.0, 1.0]
    loss_and_gradient(KD(4.0), one_teacher(), 10)  # those of the next step
    assert temperatures == [4.0, 1.0, 4.0]


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_kd_has_the_bits_of_torch_s_kl_divergence(classes: int, temperature: float) -> None:
    teacher = randn(B, classes, seed=1)
    ours, theirs = (randn(B, classes, seed=2).requires_grad_() for _ in range(2))
    loss = kd_loss(ours, teacher, temperature)
    log_q, log_p = (F.log_softmax(x / temperature, 1) for x in (theirs, teacher))
    expected = temperature**2 * F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    assert torch.equal(loss, expected)
    assert torch.equal(*(torch.autograd.grad(x, y)[0] for x, y in ((loss, ours), (expected, theirs))))


def test_agreement_of_several_students_takes_one_look_at_the_teacher() -> None:
    contract = InputContract((3,), (0.0,) * 3, (1.0,) * 3, tuple("abcde"))
    fabric = Fabric(accelerator="cpu", devices=1)
    teacher, batch = one_teacher(), Batch(torch.arange(B), torch.arange(B), randn(B, 3, seed=5), torch.arange(B) % C)
    agreements = []
    for seed in range(2):
        member = Member(f"distilled-{seed}", "distilled", seed, Learner(build("mlp:4", contract, seed=seed), KD()),
                        OptimizerConfig(), uses_teacher=True)  # fmt: skip
        member.setup(fabric)
        with torch.no_grad():
            agree = member.network(batch).logits.argmax(1) == teacher.logits.argmax(1)
        member.step(fabric, batch, teacher, 0.1, B, None)
        agreements.append((member.metrics.compute(uses_teacher=True)["agreement"], float(agree.float().mean())))
    assert all(found == pytest.approx(expected) for found, expected in agreements)
    looked = teacher.once("predictions", lambda: pytest.fail("the teacher's predictions were not kept"))
    assert torch.equal(looked, teacher.logits.argmax(1))


def test_a_step_on_a_cpu_does_not_look_for_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch looks at each step of an optimizer, which loads a library each time where there is none."""
    model = nn.Linear(3, 2)
    optimizers = [make_optimizer(model, OptimizerConfig(name=name)) for name in ("sgd", "adamw")]
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: pytest.fail("looked"))
    for optimizer in optimizers:
        model(randn(4, 3, seed=0)).sum().backward()
        optimizer.step()
