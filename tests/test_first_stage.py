"""Methods of two stages: what trains first, what is left of it, and exact resume in either stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import understudy
from resumable import QUICK, stop_at, weights
from understudy.cli import main
from understudy.errors import Interrupted
from understudy.models import read_weights
from understudy.objectives import BuildContext, FactorTransfer, FlowOfSolution, WeightedSum
from understudy.pipeline.loss import compose, parse_term
from understudy.signals import Shapes
from understudy.training.loop import Loop
from understudy.training.member import Member

CONTEXT = BuildContext(
    student=Shapes(5, 8, {"a": (4, 8, 8), "b": (6, 4, 4), "c": (8, 2, 2)}, {"stem": (4, 8, 8)}),
    teacher=Shapes(5, 12, {"a": (6, 8, 8), "b": (10, 4, 4), "c": (12, 2, 2)}, {"stem": (6, 8, 8)}),
    ids=torch.arange(20),
)


def sum_of(*terms: str) -> WeightedSum:
    return compose([parse_term(term) for term in terms], [CONTEXT], seed=0)


@pytest.mark.parametrize("method", ["ab", "fsp"])
def test_the_student_is_initialized_and_then_trained_on_labels(method: str) -> None:
    total = sum_of(method, "ce")
    stage = total.first_stage()
    assert stage is not None
    assert isinstance(stage.objective, WeightedSum)
    assert isinstance(stage.then, WeightedSum)
    assert stage.objective.weights == {method: 1.0}
    assert stage.objective.terms[method] is total.terms[method]
    assert stage.then.weights == {"ce": 1.0}
    assert not stage.then.needs.teacher


def test_the_paraphraser_is_trained_first_and_then_frozen() -> None:
    total = sum_of("ft", "ce")
    stage = total.first_stage()
    assert stage is not None
    assert isinstance(stage.then, WeightedSum)
    assert not stage.objective.needs.student, "the student is left as it is"
    assert stage.then.weights == {"ft": 200.0, "ce": 1.0}
    transfer = total.terms["ft"]
    assert isinstance(transfer, FactorTransfer)
    own = {id(weight) for weight in transfer.paraphrasers.parameters()}
    assert {id(weight) for weight in stage.objective.parameters()} == own
    stage.objective.requires_grad_(False)
    assert {id(w) for w in stage.then.parameters() if w.requires_grad} == {
        id(w) for w in transfer.translators.parameters()
    }
    assert transfer.first_stage() is None, "what is trained has no first stage"


@pytest.mark.parametrize("terms", [("kd", "ce"), ("crd", "kd")])
def test_other_methods_have_one_stage(terms: tuple[str, ...]) -> None:
    assert sum_of(*terms).first_stage() is None


def test_a_sum_keeps_its_other_terms_for_the_second_stage() -> None:
    stage = sum_of("ab", "kd:warmup=3,weight=0.5", "ce").first_stage()
    assert stage is not None
    assert isinstance(stage.then, WeightedSum)
    assert stage.then.weights == {"kd": 0.5, "ce": 1.0}
    stage.then.set_epoch(1, 100)
    torch.testing.assert_close(stage.then.factors, torch.tensor([1 / 3]))


def test_fsp_has_a_matrix_for_each_stage() -> None:
    objective = sum_of("fsp").terms["fsp"]
    assert isinstance(objective, FlowOfSolution)
    pairs = objective.pairs
    assert [(pair.student, pair.teacher) for pair in pairs] == [("stem", "stem"), ("a", "a"), ("b", "b"), ("c", "c")]


# --- in a run ---------------------------------------------------------------------------------------------

METHODS = ("ab", "fsp", "ft", "kd")
FIELDS: dict[str, Any] = {"seeds": 1, "epochs": 2, "optimizer": "sgd", "lr": 0.02, "momentum": 0.9, "baseline": False}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return understudy.train("digits", "cifar:resnet8", run=tmp_path_factory.mktemp("t") / "t", epochs=1,
                            fraction=0.2, **QUICK).path  # fmt: skip


def distill(teacher: Path, at: Path, **changes: Any) -> understudy.Run:
    fields = FIELDS | {"method": METHODS, "fraction": 0.2} | changes
    return understudy.distill("digits", teacher, "cifar:resnet8", run=at, **fields, **QUICK)


@pytest.fixture(scope="module")
def whole(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> understudy.Run:
    return distill(teacher, tmp_path_factory.mktemp("whole") / "r")


def test_the_other_methods_do_not_notice(whole: understudy.Run, teacher: Path, tmp_path: Path) -> None:
    """Whoever has one stage trains on the same views as without the first stage of the others."""
    alone = distill(teacher, tmp_path / "r", method=("kd", "dkd"))
    one, other = (read_weights(run.models["distilled-kd-0"]).tensors for run in (whole, alone))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_first_stage_makes_a_difference(whole: understudy.Run, teacher: Path, tmp_path: Path) -> None:
    throughout = distill(teacher, tmp_path / "r", initial_epochs=0)
    assert not (throughout.path / "first-stage.jsonl").exists()
    assert (whole.path / "first-stage.jsonl").exists()
    for method in ("ab", "fsp"):
        one, other = (read_weights(run.models[f"distilled-{method}-0"]).tensors for run in (whole, throughout))
        assert any(not torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_stopped_in_either_stage_it_ends_with_the_same_bytes(
    step: int, whole: understudy.Run, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, step)
    with pytest.raises(Interrupted):
        distill(teacher, tmp_path / "r")
    monkeypatch.undo()
    understudy.resume(tmp_path / "r")
    assert weights(tmp_path / "r") == weights(whole.path)


def test_what_trains_in_the_first_stage(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers below the last tap, at the peak rate; of ft the paraphraser alone, at a fifth of it."""
    changed: dict[str, set[str]] = {}
    rates: dict[str, set[float]] = {}
    run = Loop.run

    def spied(loop: Loop) -> int:
        first = loop.label and (loop.folder or Path()).name == "first"
        before = [{k: v.clone() for k, v in member.learner.state_dict().items()} for member in loop.members]
        done = run(loop)
        for member, state in zip(loop.members, before, strict=True) if first else ():
            now: dict[str, Tensor] = member.learner.state_dict()
            changed[member.name] = {k.split(".")[2] for k, v in state.items() if not torch.equal(now[k], v)}
        return done

    step = Member.step

    def noted(member: Member, *args: Any) -> Tensor:
        loss = step(member, *args)
        if len(changed) == 0:
            rates.setdefault(member.name, set()).update(group["lr"] for group in member.optimizer.param_groups)
        return loss

    monkeypatch.setattr(Loop, "run", spied)
    monkeypatch.setattr(Member, "step", noted)
    distill(teacher, tmp_path / "r", initial_epochs=1)
    layers = {"stem", "layer1", "layer2", "layer3"}
    assert changed["distilled-ab-0"] == layers | {"ab"}
    assert changed["distilled-fsp-0"] == layers
    assert changed["distilled-ft-0"] == {"ft"}
    assert "distilled-kd-0" not in changed
    assert rates["distilled-ab-0"] == {0.02}
    assert sorted(rates["distilled-ft-0"]) == pytest.approx([0.004])


def test_on_the_command_line(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"distill digits --teacher {teacher} --student cifar:resnet8 --method ab --epochs 1 --fraction 0.1"
    assert main([*words.split(), "--run", str(tmp_path / "r"), "--accelerator", "cpu"]) == 0
    assert "first stage" in capsys.readouterr().out
