"""A term's weight as a function of the epoch: `warmup` of any term, in the loop, resumed and replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import test_methods
from test_methods import batch_of, declared, loop, on_cpu, states, stop_at, teacher_for
from understudy.config.recipe import DistillRecipe
from understudy.errors import UnderstudyError
from understudy.objectives import DKD, KD, CrossEntropy, WeightedSum
from understudy.pipeline.loss import methods_of, parse_term
from understudy.training import Loop


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_methods, "METHODS", ("ce", "kd:warmup=2"))


def test_the_weight_is_the_released_one() -> None:
    """`min(epoch / 20, 1)` of DKD in 240 epochs, counted from 1; the other terms' weights are constant."""
    dkd, ce = DKD(), CrossEntropy()
    total = WeightedSum({"dkd": (1.0, dkd), "ce": (1.0, ce)})
    student, teacher, batch = declared(dkd, "student", 1), teacher_for(dkd), batch_of()
    soft, hard = dkd(student, teacher, batch), ce(student, None, batch)
    torch.testing.assert_close(total(student, teacher, batch), soft + hard)
    for epoch in (1, 7, 19, 20, 21, 240):
        total.set_epoch(epoch, 240)
        found, expected = total(student, teacher, batch), min(epoch / 20, 1) * soft + hard
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(x, student.logits, retain_graph=True)[0] for x in (found, expected)]
        torch.testing.assert_close(*gradients)


def test_any_term_takes_a_warmup_in_epochs() -> None:
    assert parse_term("crd:warmup=20,weight=0.5").warmup == 20
    assert parse_term("standardized:inner=dkd,warmup=5,beta=2").options == {"inner": "dkd", "beta": 2}
    total = WeightedSum({"kd": (0.9, KD()), "ce": (0.1, CrossEntropy())}, {"kd": 4})
    total.set_epoch(3, 1000)
    assert total.factors.tolist() == [0.75]
    assert not total.state_dict(), "a function of the epoch is no state"
    recipe = DistillRecipe(data="x", teacher=("t",), student="s", method=("dkd:beta=2,warmup=7", "kd"))
    assert [terms[0].warmup for terms in methods_of(recipe).values()] == [7, None]
    with pytest.raises(UnderstudyError, match="kd: warmup must be at least 0"):
        parse_term("kd:warmup=-1")


def factors(made: Loop, seen: dict[int, float]) -> Loop:
    """Note the factor of each step of the member whose soft targets warm up."""
    (member,) = (m for m in made.members if m.name == "kd:warmup=2-0")
    objective = member.learner.objective
    assert isinstance(objective, WeightedSum)
    member.learner.register_forward_pre_hook(lambda *_: seen.update({made._step: objective.factors.item()}))
    return made


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"epochs": 3}, [0.5] * 3 + [1.0] * 6),  # 36 samples are three batches of 12
        ({"steps": 5}, [0.5] * 3 + [1.0] * 2),
    ],
)
def test_the_loop_sets_it_in_each_step(fields: dict[str, Any], expected: list[float]) -> None:
    seen: dict[int, float] = {}
    made = factors(loop(on_cpu(), None, **fields), seen)
    made.batches.total_steps = fields.get("steps")
    made.run()
    assert [seen[step] for step in sorted(seen)] == expected


def test_a_resumed_run_goes_on_with_the_weight_of_its_step(tmp_path: Path) -> None:
    whole: dict[int, float] = {}
    made = factors(loop(on_cpu(), None), whole)
    made.run()
    expected = states(made)["kd:warmup=2"]
    stop_at(loop(on_cpu(), tmp_path), 0)
    seen = dict[int, float]()
    made = factors(loop(on_cpu(), tmp_path), seen)
    made.run()
    assert seen == {step: factor for step, factor in whole.items() if step in seen}
    assert 0.5 in seen.values()
    found: dict[str, Tensor] = states(made)["kd:warmup=2"]
    assert all(torch.equal(found[name], value) for name, value in expected.items())
