"""From the methods of a recipe to the loss that a student is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import understudy
from understudy.config.recipe import DistillRecipe
from understudy.config.yaml import checked
from understudy.errors import UnderstudyError
from understudy.models import read_weights
from understudy.objectives import CRD, DKD, KD, BuildContext, PerTeacher
from understudy.pipeline.loss import Term, compose, methods_of, parse_term
from understudy.signals import Batch, Shapes, Signals


def recipe(**fields: object) -> DistillRecipe:
    return checked(DistillRecipe, {"data": "digits", "teacher": ("runs/t",), "student": "mlp:8", **fields})


def setting(embedding: int = 12, samples: int = 20) -> BuildContext:
    features = {"a": (4, 8, 8), "b": (8, 4, 4)}
    ids = torch.arange(samples)
    return BuildContext(Shapes(5, 8, features), Shapes(5, embedding, features), ids, ids % 5)


def weights(terms: tuple[Term, ...]) -> dict[str, float | None]:
    return {term.name: term.weight for term in terms}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"kd": 0.9, "ce": 0.1}),
        ({"hard_weight": 0.5}, {"kd": 0.5, "ce": 0.5}),
        ({"method": "logits"}, {"logits": 0.9, "ce": 0.1}),
        ({"method": "crd"}, {"crd": 0.8, "ce": 1}),
        ({"method": "crd+kd"}, {"crd": 0.8, "kd": 1, "ce": 1}),
        ({"method": "at+kd", "hard_weight": 0.3}, {"at": 1000, "kd": 1, "ce": 0.3}),
        ({"objective": ("crd:weight=0.5,negatives=64", "kd:temperature=2")}, {"crd": 0.5, "kd": 1, "ce": 1}),
        ({"objective": ("ce:weight=0.2", "dkd")}, {"ce": 0.2, "dkd": 1}),
        ({"objective": ("kd:weight=3",)}, {"kd": 3, "ce": 0.1}),
    ],
)
def test_the_weights_of_a_method(fields: dict[str, Any], expected: dict[str, float]) -> None:
    (terms,) = methods_of(recipe(**fields)).values()
    found = weights(terms)
    assert found == pytest.approx(expected)


def test_several_methods_by_their_labels() -> None:
    several = recipe(method=("kd,crd", "crd+kd"))
    assert several.method == ("kd", "crd", "crd+kd")
    assert list(methods_of(several)) == ["kd", "crd", "crd+kd"]


def test_options_reach_the_objectives() -> None:
    (terms,) = methods_of(recipe(objective=("crd:negatives=7,momentum=0.25", "kd:temperature=2"))).values()
    crd, soft, _ = compose(terms, [setting()], seed=0).terms.values()
    assert isinstance(crd, CRD)
    assert isinstance(soft, KD)
    assert (crd.number, crd.momentum, soft.temperature) == (7, 0.25, 2)
    (terms,) = methods_of(recipe(method="dkd", temperature=3)).values()
    dkd = compose(terms, [setting()], seed=0).terms["dkd"]
    assert isinstance(dkd, DKD)
    assert dkd.temperature == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crt", "there is no method 'crt'; did you mean 'crd'?"),
        ("crd:negative=5", "crd has no option 'negative'; did you mean 'negatives'?"),
        ("crd:negatives", "option 'negatives' of 'crd:negatives' has no value"),
        ("crd:weight=big", "weight must be a finite number"),
        ("kd+kd", "names an objective twice; name it once"),
    ],
)
def test_invalid_terms(text: str, message: str) -> None:
    with pytest.raises(UnderstudyError) as caught:
        methods_of(recipe(method=text)) if "+" in text else parse_term(text)
    assert message in str(caught.value)


def test_a_share_of_the_labels_is_at_most_one() -> None:
    with pytest.raises(UnderstudyError, match="hard_weight is 2"):
        methods_of(recipe(hard_weight=2))


@pytest.mark.parametrize(("key", "value"), [("method", ()), ("method", ("crd",))])
def test_contradicting_fields(key: str, value: tuple[str, ...]) -> None:
    with pytest.raises(UnderstudyError):
        recipe(**{key: value, "objective": ("crd",)})


def test_errors_name_the_objective() -> None:
    with pytest.raises(UnderstudyError, match="crd: "):
        compose((parse_term("crd:momentum=7"),), [setting()], seed=0)
    bare = BuildContext(Shapes(5, 8), Shapes(5, 8), torch.arange(4))
    with pytest.raises(UnderstudyError, match=r"at: .*the student's taps are none"):
        compose((parse_term("at"),), [bare], seed=0)


def test_initial_weights_do_not_depend_on_the_other_terms() -> None:
    alone = compose((parse_term("crd"),), [setting()], seed=3).state_dict()
    torch.manual_seed(99)
    beside = compose((parse_term("fitnet"), parse_term("crd")), [setting()], seed=3).state_dict()
    other = compose((parse_term("crd"),), [setting()], seed=4).state_dict()
    assert all(torch.equal(value, beside[name]) for name, value in alone.items() if "log_z" not in name)
    assert not torch.equal(alone["terms.crd.project_student.weight"], other["terms.crd.project_student.weight"])


def test_each_teacher_has_its_own_critic() -> None:
    """CRD-EN: the sum of one CRD per teacher; objectives of logits handle ensembles themselves."""
    both = compose((parse_term("crd:normalizer=paper"), parse_term("kd")), [setting(12), setting(7)], seed=0).eval()
    critics = both.terms["crd"]
    assert isinstance(critics, PerTeacher)
    assert isinstance(both.terms["kd"], KD)
    draw = torch.Generator().manual_seed(0)

    def signals(width: int) -> Signals:
        return Signals(torch.randn(4, 5, generator=draw), torch.randn(4, width, generator=draw))

    student, members = signals(8), (signals(12), signals(7))
    ensemble = Signals(members[0].logits, members=members)
    batch = Batch(torch.arange(4), torch.arange(4), torch.zeros(4, 1), torch.arange(4) % 5)
    each = [critic(student, member, batch) for critic, member in zip(critics.each, members, strict=True)]
    torch.testing.assert_close(critics(student, ensemble, batch), sum(each, start=torch.zeros(())))
    with pytest.raises(ValueError, match="built for 2 teachers, but got 1"):
        critics(student, Signals(members[0].logits, members=members[:1]), batch)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("teachers")
    for name, model in (("a", "cnn:8-16"), ("b", "mlp:24x2")):
        understudy.train("digits", model, epochs=2, lr=0.01, run=folder / name)
    return str(folder / "a"), str(folder / "b")


def test_compared_methods_are_trained_side_by_side(teachers: tuple[str, str], tmp_path: Path) -> None:
    run = understudy.compare(
        "digits", teachers[0], "cnn:8-8", method=("kd", "crd+kd", "at", "fitnet"), seeds=2, epochs=1, run=tmp_path / "r"
    )
    kinds = ("alone", "distilled-at", "distilled-crd+kd", "distilled-fitnet", "distilled-kd")
    assert sorted(run.models) == sorted(f"{kind}-{seed}" for kind in kinds for seed in (0, 1))
    rows = {row.name: row for row in run.facts.rows if row.role == "distilled"}
    assert set(rows) == {"kd", "crd+kd", "at", "fitnet"}
    assert all(len(row.seeds) == 2 for row in rows.values())
    curves = json.loads((run.path / "evaluation.json").read_text())["curves"]
    assert {curve["role"] for curve in curves} == {"alone", "distilled"}
    html = run.report.read_text()
    assert all(name in html for name in rows)


def test_a_method_does_not_change_by_what_it_is_compared_with(teachers: tuple[str, str], tmp_path: Path) -> None:
    same: dict[str, Any] = {"epochs": 1, "seeds": 1}
    alone = understudy.distill("digits", teachers[0], "mlp:16", method="crd", run=tmp_path / "a", **same)
    beside = understudy.distill("digits", teachers[0], "mlp:16", method=("kd", "crd"), run=tmp_path / "b", **same)
    one, two = (read_weights(path).tensors for path in (alone.models["distilled-0"], beside.models["distilled-crd-0"]))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_an_ensemble_of_other_shapes(teachers: tuple[str, str], tmp_path: Path) -> None:
    run = understudy.distill("digits", teachers, "mlp:16", method="crd+kd", epochs=1, run=tmp_path / "run")
    assert isinstance(run.facts.of("distilled")[0].mean("accuracy"), float)


def test_taps_by_name(teachers: tuple[str, str], tmp_path: Path) -> None:
    fields: dict[str, Any] = {"method": "at", "epochs": 1, "baseline": False}
    understudy.distill(
        "digits", teachers[0], "cnn:8-8", student_taps=("8",), teacher_taps=("8",), run=tmp_path / "a", **fields
    )
    with pytest.raises(UnderstudyError, match="has no layer '88'"):
        understudy.distill("digits", teachers[0], "cnn:8-8", student_taps=("88",), run=tmp_path / "b", **fields)
    with pytest.raises(UnderstudyError, match=r"at: .*compares feature maps"):
        understudy.distill("digits", teachers[0], "mlp:8", run=tmp_path / "c", **fields)


def test_objectives_that_compare_samples_refuse_micro_batches(teachers: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="leave out --micro-batch"):
        understudy.distill("digits", teachers[0], "mlp:8", method="rkd", micro_batch=16, run=tmp_path / "run")


def test_a_batch_without_labels_learns_from_the_teacher_alone() -> None:
    (terms,) = methods_of(recipe(method="crd+kd")).values()
    unlabeled = BuildContext(setting().student, setting().teacher, torch.arange(20))
    objective = compose(terms, [unlabeled], seed=0)
    student = Signals(torch.randn(4, 5, requires_grad=True), torch.randn(4, 8, requires_grad=True))
    teacher = Signals(torch.randn(4, 5), torch.randn(4, 12))
    loss: Tensor = objective(student, teacher, Batch(torch.arange(4), torch.arange(4), torch.zeros(4, 1)))
    loss.backward()
    assert student.embedding is not None
    assert student.embedding.grad is not None
    assert student.embedding.grad.any()
