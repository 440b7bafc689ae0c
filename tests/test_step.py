"""A recorded step, replayed, updates as the eager one does: operations are repeated on a CPU, a graph on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import understudy
from test_methods import images
from understudy.config.options import OptimizerConfig
from understudy.data.augment import Augmentation
from understudy.data.loader import BatchLoader
from understudy.data.views import Views
from understudy.errors import UnderstudyWarning
from understudy.models import InputContract, build
from understudy.objectives import CRD, KD, BuildContext, CrossEntropy, Objective, WeightedSum
from understudy.objectives.crd.negatives import NegativeSampler
from understudy.pipeline.loss import compose, parse_term
from understudy.randomness import seed_of
from understudy.teachers import Teacher
from understudy.training import Learner, Member
from understudy.training.graph import GraphedStep, cuda_graph, why_not_graphed
from understudy.training.lr_schedule import learning_rate
from understudy.training.step import EagerStep
from understudy.training.timing import StepTimer

SGD = OptimizerConfig(name="sgd", lr=0.02, schedule="cosine", ema=0.9, max_norm=2.0, clip=1.0, weight_decay=1e-3)
ADAM = OptimizerConfig(name="adamw", lr=0.01, schedule="linear", warmup=0.1)
METHODS = ("ce", "kd", "crd:negatives=9+kd", "crd", "at", "crd:bank=queue:16")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="takes a GPU")


class Tape(TorchDispatchMode):
    """Records operations with the tensors that they had, as a graph of kernels does; numbers are constants of it."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple[Any, Any, Any, list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.ops.append((func, args, kwargs or {}, tree_leaves(results)))
        return results

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, results in self.ops:
            given = {id(x) for x in tree_leaves((args, kwargs))}
            for x, again in zip(results, tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(x, Tensor) and id(x) not in given:
                    x.copy_(again)


class Recorder:
    """Stands in for `cuda_graph`; what it has to run to record it is undone."""

    step: GraphedStep

    def __call__(self, body: Callable[[], None]) -> Callable[[], None]:
        state = self.step._state()
        before = [x.clone() for x in state]
        with Tape() as tape:
            body()
        with torch.no_grad():
            for x, value in zip(state, before, strict=True):
                x.copy_(value)
        return tape.replay


def stepper(fabric: Fabric, config: OptimizerConfig, kind: Callable[[EagerStep], Any]) -> tuple[Any, BatchLoader]:
    source, device = images(), fabric.device
    contract = InputContract((3, 8, 8), (0.5,) * 3, (0.3,) * 3, source.classes)
    teacher = Teacher(build("cnn:6-8", contract, seed=9), device)
    members = []
    for method in METHODS:
        network = build("cnn:4-6?dropout=0.3", contract, seed=1)
        context = BuildContext(network.shapes(), teacher.network.shapes(), source.ids, source.targets)
        terms = [parse_term(word) for word in (*method.split("+"), *["ce"] * (method != "ce"))]
        learner = Learner(network, compose(terms, [context], seed=0))
        members.append(Member(method, "distilled", 3, learner, config, method != "ce"))
        members[-1].setup(fabric)
        learner.train()
    teacher.watch({name for m in members for name in m.learner.objective.needs.teacher} - {"logits"})
    eager = EagerStep(fabric, members, StepTimer([], device), teacher)
    eager.rate = torch.zeros((), device=device)
    return kind(eager), BatchLoader(source, Views(Augmentation(translate=1), mixup=0.0), 8, 0, device)


def weights(members: list[Member]) -> dict[str, Tensor]:
    return {f"{m.name}/{k}": v.detach().clone() for m in members for k, v in m.state_dict().items()}


def train(step: Any, loader: BatchLoader, config: OptimizerConfig, begin: int, end: int) -> dict[str, Tensor]:
    for number, batch in zip(range(begin, end), loader.stream(begin, end), strict=True):
        step(batch, len(batch), number, learning_rate(config, number, 205))
    return weights(getattr(step, "eager", step).members)


@pytest.mark.parametrize("config", [SGD, ADAM], ids=lambda config: config.name)
def test_replayed_operations_update_as_eager_ones_do(config: OptimizerConfig) -> None:
    """With the rates, steps and negatives of each step, and with the shorter batch that ends an epoch."""

    fabric, recorder = Fabric(accelerator="cpu", devices=1), Recorder()
    eager, loader = stepper(fabric, config, lambda eager: eager)
    graphed, _ = stepper(fabric, config, lambda eager: GraphedStep(eager, recorder, eager_steps=1))
    recorder.step = graphed
    start = weights(eager.members)
    expected, found = (train(step, loader, config, 0, 24) for step in (eager, graphed))
    assert len(graphed.recorded) == 2
    assert all(recorded.checked for recorded in graphed.recorded.values())
    assert not graphed.given_up
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")
    assert any(not torch.equal(value, expected[name]) for name, value in start.items())


def test_a_replay_that_differs_is_given_up_and_undone() -> None:
    def record(body: Callable[[], None]) -> Callable[[], None]:
        return lambda: None  # as where nothing was captured

    fabric = Fabric(accelerator="cpu", devices=1)
    eager, loader = stepper(fabric, SGD, lambda eager: eager)
    graphed, _ = stepper(fabric, SGD, lambda eager: GraphedStep(eager, record, eager_steps=1))
    expected = train(eager, loader, SGD, 0, 6)
    with pytest.warns(UnderstudyWarning, match=r"goes on without a CUDA graph: its replay changed the weights"):
        found = train(graphed, loader, SGD, 0, 6)
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


def test_branches_derive_nothing_from_the_same_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Branches run at the same time, so none may read what another keeps with `Signals.once`."""
    given: list[Any] = []
    make_update = Member.step

    def noted(member: Member, fabric: Fabric, batch: Any, teacher: Any, *rest: Any) -> Tensor:
        given.append(teacher)
        return make_update(member, fabric, batch, teacher, *rest)

    recorded: list[Any] = []

    def record(body: Callable[[], None]) -> Callable[[], None]:
        given.clear()
        body()
        recorded.extend(given)
        return lambda: None

    monkeypatch.setattr(Member, "step", noted)
    fabric = Fabric(accelerator="cpu", devices=1)
    graphed, loader = stepper(fabric, SGD, lambda eager: GraphedStep(eager, record, eager_steps=0))
    train(graphed, loader, SGD, 0, 1)
    teachers = [teacher for teacher in recorded if teacher is not None]
    assert len(teachers) == len(METHODS) - 1
    assert len(set(map(id, teachers))) == len(teachers)


def test_what_cannot_be_captured_is_not() -> None:
    def record(body: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    fabric = Fabric(accelerator="cpu", devices=1)
    graphed, loader = stepper(fabric, SGD, lambda eager: GraphedStep(eager, record, eager_steps=0))
    with pytest.warns(UnderstudyWarning, match=r"captured \(operation not permitted when stream is capturing\)"):
        train(graphed, loader, SGD, 0, 2)


class Mine(KD):
    """An objective of a user's."""


def member(config: OptimizerConfig, *terms: Objective) -> Member:
    network = build("cnn:4", InputContract((3, 8, 8), (0.5,) * 3, (0.3,) * 3, ("a", "b")))
    objective = WeightedSum({str(number): (1.0, term) for number, term in enumerate(terms)})
    return Member("alone-0", "alone", 0, Learner(network, objective), config, True)


def machine(device: str = "cuda", world_size: int = 1, scaler: object = None) -> Any:
    """As much of a Fabric as is looked at."""
    precision = SimpleNamespace(scaler=scaler)
    return SimpleNamespace(
        device=torch.device(device), world_size=world_size, strategy=SimpleNamespace(precision=precision)
    )


L2_SP = ADAM.model_copy(update={"decay_to": "initial", "weight_decay": 0.1})


@pytest.mark.parametrize(
    ("fabric", "config", "objective", "reason"),
    [
        (machine(), SGD, KD(), ""),
        (machine(), ADAM, CRD(6, 8, bank_size=20), ""),
        (machine(), L2_SP.model_copy(update={"weight_decay": 0.0}), KD(), ""),
        (machine(world_size=2), SGD, KD(), "several devices exchange gradients"),
        (machine(scaler=object()), SGD, KD(), "the scale of fp16 gradients is chosen by the host"),
        (machine(), L2_SP, KD(), "decay to the initial weights reads the learning rate on the host"),
        (machine(), SGD, Mine(), "what Mine does on the host is not known"),
        (machine("cpu", world_size=2), L2_SP, Mine(), ""),
    ],
)
def test_why_there_is_no_graph(fabric: Any, config: OptimizerConfig, objective: Objective, reason: str) -> None:
    assert (
        why_not_graphed(fabric, [member(config, CrossEntropy()), member(config, objective, CrossEntropy())]) == reason
    )


def test_a_start_says_once_why_there_is_no_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def why(fabric: Fabric, members: list[Member]) -> str:
        return why_not_graphed(machine(), members)  # as if it were on a GPU

    monkeypatch.setattr("understudy.pipeline.run.why_not_graphed", why)
    fields: dict[str, Any] = {"epochs": 1, "seeds": 2, "threads": 1}
    understudy.train("digits", "mlp:4", run=tmp_path / "graphed", **fields)
    assert "CUDA graph" not in capfd.readouterr().out
    understudy.train("digits", "mlp:4", run=tmp_path / "eager", decay_to="initial", weight_decay=0.1, **fields)
    said = [line for line in capfd.readouterr().out.splitlines() if "CUDA graph" in line]
    reason = "decay to the initial weights reads the learning rate on the host"
    assert said == [f"training runs without a CUDA graph: {reason}"]


def test_a_seed_takes_the_place_of_a_draw() -> None:
    sampler = NegativeSampler(20, targets=torch.arange(20) % 4)
    rows = torch.tensor([1, 4])
    torch.manual_seed(seed_of(3, 7))
    drawn = sampler.draw(rows, 5)
    torch.manual_seed(seed_of(3, 7))
    sampler.seed = torch.tensor(int(torch.randint(2**62, ())))
    assert torch.equal(sampler.draw(rows, 5), drawn)


# --- on a GPU ---------------------------------------------------------------------------------------------


def on_gpu(config: OptimizerConfig, graphed: bool) -> tuple[Any, BatchLoader]:
    fabric = Fabric(accelerator="cuda", devices=1)
    return stepper(fabric, config, lambda eager: GraphedStep(eager, cuda_graph) if graphed else eager)


@cuda
@pytest.mark.parametrize("config", [SGD, ADAM], ids=lambda config: config.name)
def test_a_graph_updates_as_eager_steps_do(config: OptimizerConfig) -> None:
    """Over 200 steps; to rounding, as some kernels add in any order."""
    eager, loader = on_gpu(config, False)
    expected = train(eager, loader, config, 0, 200)
    step, loader = on_gpu(config, True)
    found = train(step, loader, config, 0, 200)
    assert step.recorded
    assert not step.given_up
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-3, msg=lambda text, n=name: f"{n}: {text}")


@cuda
def test_a_graphed_run_that_was_stopped_ends_as_a_whole_one() -> None:
    step, loader = on_gpu(SGD, True)
    expected = train(step, loader, SGD, 0, 60)
    step, loader = on_gpu(SGD, True)
    train(step, loader, SGD, 0, 30)
    states = [member.state_dict() for member in step.eager.members]
    step, loader = on_gpu(SGD, True)
    for member, state in zip(step.eager.members, states, strict=True):
        member.load_state_dict(state)
    for number, batch in zip(range(30, 60), loader.stream(30, 60), strict=True):
        step(batch, len(batch), number, learning_rate(SGD, number, 205))
    found = weights(step.eager.members)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-3, msg=lambda text, n=name: f"{n}: {text}")
