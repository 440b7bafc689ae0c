"""SimKD as published: a student with a projector of three convolutions and the teacher's own classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import understudy
from resumable import QUICK, stop_at, weights
from understudy.config.recipe import DistillRecipe
from understudy.errors import Interrupted, UnderstudyError
from understudy.models import InputContract, Network, build, load_network
from understudy.models.reuse import reuse_classifier
from understudy.objectives import BuildContext, SimKD
from understudy.objectives.simkd import Projector
from understudy.pipeline.loss import methods_of
from understudy.signals import Batch

CONTRACT = InputContract((3, 16, 16), (0.5,) * 3, (0.3,) * 3, tuple("abcde"))


def nets(student: str = "cifar:resnet8", teacher: str = "cifar:wrn_16_2") -> tuple[Network, Network]:
    small, large = build(student, CONTRACT, seed=1), build(teacher, CONTRACT, seed=2).eval()
    reuse_classifier(small, large, factor=2, seed=0)
    return small, large


def batch_of(rows: int = 6) -> Batch:
    images = torch.rand(rows, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Batch(torch.arange(rows), torch.arange(rows), images)


def layer(x: Tensor, conv: Any, norm: Any) -> Tensor:
    """A convolution, BatchNorm and ReLU."""
    x = F.conv2d(x, conv.weight, padding=conv.weight.shape[-1] // 2)
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    x = (x - mean) / (var + 1e-5).sqrt() * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    return x.clamp_min(0)


def test_value_and_gradient_are_the_released_ones() -> None:
    """MSE of the projected maps before pooling, and logits of the teacher's classifier on their mean."""
    student, teacher = nets()
    objective = SimKD.from_shapes(BuildContext(student.shapes(), teacher.shapes(), torch.arange(6)))
    assert not list(objective.parameters()), "the projector is the student's"
    student.watch(objective.needs.student | {"layer3"}).train()
    teacher.watch(objective.needs.teacher)
    found = student(batch_of())
    with torch.no_grad():
        target = teacher(batch_of())
    (projector,) = (part for part in student.modules() if isinstance(part, Projector))
    kinds = [type(part).__name__ for part in projector.layers]
    assert kinds == ["Conv2d", "ChannelNorm", "ReLU"] * 3
    x = found.features["layer3"].detach().requires_grad_(True)
    projected = x
    for index in (0, 3, 6):
        projected = layer(projected, projector.layers[index], projector.layers[index + 1])
    assert projected.shape == target.features["maps"].shape == (6, 128, 4, 4)
    expected = (projected - target.features["maps"]).square().mean()
    loss = objective(found, target, batch_of())
    torch.testing.assert_close(loss, expected)
    weights_of = list(projector.parameters())
    ours = torch.autograd.grad(loss, weights_of, retain_graph=True)
    for one, other in zip(ours, torch.autograd.grad(expected, weights_of, retain_graph=True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    (head,) = teacher.heads.values()
    logits = F.linear(projected.mean((2, 3)), head.weight.flatten(1), head.bias)
    torch.testing.assert_close(found.logits, logits)


def test_a_teacher_that_projects_perfectly_is_predicted_exactly() -> None:
    student, teacher = nets()
    maps = torch.rand(2, 128, 4, 4)
    (own,), (other,) = student.heads.values(), teacher.heads.values()
    assert not any(weight.requires_grad for weight in own.parameters())
    torch.testing.assert_close(own(maps.mean((2, 3))), other(maps.mean((2, 3))))


def test_the_paper_has_no_labels_in_its_loss() -> None:
    (terms,) = methods_of(DistillRecipe(data="x", teacher=("t",), student="s", method=("simkd",))).values()
    assert {term.name: term.weight for term in terms} == {"simkd": 1, "ce": 0}


@pytest.mark.parametrize(
    ("student", "teacher", "option"),
    [
        ("cifar:resnet8", "cifar:wrn_16_2", "128x64x4x4"),
        ("cifar:shufflenetv1", "cifar:vgg8", "512x256x2x2"),
        ("torchvision:resnet18", "cifar:resnet8", "64x32x4x4"),
        ("timm:resnet10t", "cifar:resnet8", "64x32x4x4"),
        ("mlp:8x1", "cifar:resnet8", "64x32"),
        ("cnn:4-8", "mlp:16x1", "16x8"),
    ],
)
def test_a_student_is_saved_and_loaded(student: str, teacher: str, option: str, tmp_path: Path) -> None:
    small, _ = nets(student, teacher)
    assert small.spec == f"{student}?projector={option}"
    small.eval().save(tmp_path / "s.safetensors")
    loaded = load_network(tmp_path / "s.safetensors").eval()
    torch.testing.assert_close(loaded(batch_of()).logits, small(batch_of()).logits)
    assert not small.spec.startswith("cifar") or loaded.shapes().maps[0] == small.shapes().embedding


def test_what_cannot_be_done_is_said() -> None:
    _, teacher = nets()
    module = Network(nn.Sequential(nn.Flatten(), nn.Linear(768, 5)), CONTRACT)
    with pytest.raises(UnderstudyError, match="name a model in place of a module"):
        reuse_classifier(module, teacher, 2, 0)
    for text in ("many", "3", "0x2", "99999x99999", "8x4x2"):
        with pytest.raises(UnderstudyError, match="projector="):
            build(f"cifar:resnet8?projector={text}", CONTRACT)


FIELDS: dict[str, Any] = {"method": "simkd", "epochs": 2, "fraction": 0.2, "baseline": False, "seeds": 2}


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is scored, keeps the teacher's classifier, exports, and ends with the same bytes when resumed."""
    teacher = understudy.train("digits", "cifar:resnet8", run=tmp_path / "t", epochs=1, fraction=0.2, **QUICK)
    whole = understudy.distill("digits", teacher.path, "cnn:4-6", run=tmp_path / "a", **FIELDS, **QUICK)
    assert whole.facts.of("distilled")[0].mean("accuracy") is not None
    for name in ("distilled-0", "distilled-1"):
        (head,) = load_network(whole.models[name]).heads.values()
        (own,) = load_network(teacher.models["model-0"]).heads.values()
        for one, other in zip(head.parameters(), own.parameters(), strict=True):
            assert torch.equal(one, other)
    understudy.export(whole.path, format=("torch",), out=tmp_path / "e")
    stop_at(monkeypatch, 3)
    with pytest.raises(Interrupted):
        understudy.distill("digits", teacher.path, "cnn:4-6", run=tmp_path / "b", **FIELDS, **QUICK)
    monkeypatch.undo()
    understudy.resume(tmp_path / "b")
    assert weights(tmp_path / "b") == weights(whole.path)
