"""BatchNorm's statistics after training: of images as they are at test, where that is better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import understudy
from understudy.data import ArraySource, Source, open_source
from understudy.evaluation.frozen import fit_head
from understudy.models import InputContract, Network, build
from understudy.pipeline import distill
from understudy.pipeline.batch_norm import Reestimated, averaging, images_for, reestimate, summary
from understudy.pipeline.representation import Watch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> ArraySource:
    train = open_source("digits").train.subset(torch.arange(300))
    assert isinstance(train, ArraySource)
    return train


def network(digits: ArraySource, spec: str = "cnn:8-16") -> Network:
    net = build(spec, InputContract(digits.shape, (0.5,), (0.25,), digits.classes), seed=3).train()
    for _ in range(20):
        net(digits.inputs[:200].float() / 255)
    return net.eval()


@given(st.integers(1, 4), st.integers(2, 9), st.integers(0, 100))
def test_the_statistics_are_the_mean_over_batches(count: int, size: int, seed: int) -> None:
    batches = torch.randn(count, size, 3, generator=torch.Generator().manual_seed(seed))
    layer = nn.BatchNorm1d(3, momentum=0.3).eval()
    with averaging([layer]):
        for batch in batches:
            layer(batch)
    assert layer.momentum == 0.3
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert torch.allclose(layer.running_mean, batches.mean((0, 1)), atol=1e-5)
    assert torch.allclose(layer.running_var, batches.var(1).mean(0), atol=1e-5)


def test_statistics_of_other_images_are_replaced_and_the_weights_stay(digits: ArraySource) -> None:
    net = network(digits)
    fit_head(net, digits)  # by the right statistics
    layers = [layer for layer in net.modules() if isinstance(layer, _BatchNorm)]
    before = {name: x.clone() for name, x in net.named_parameters()}
    for layer in layers:
        assert layer.running_mean is not None
        layer.running_mean.fill_(30.0)
    found = reestimate(net, digits, 128, 0, CPU)
    assert found is not None
    assert found.kept
    assert found.accuracy[1] > found.accuracy[0] + 0.1
    assert all(float(layer.running_mean.abs().max()) < 20 for layer in layers if layer.running_mean is not None)
    assert all(torch.equal(x, before[name]) for name, x in net.named_parameters())
    assert not any(layer.training for layer in net.modules())


def test_a_network_that_is_better_as_it_is_stays_as_it_is(digits: ArraySource) -> None:
    net = network(digits)
    net.zero_heads()  # the loss cannot change
    before = {name: x.clone() for name, x in net.state_dict().items()}
    found = reestimate(net, digits, 128, 0, CPU)
    assert found is not None
    assert not found.kept
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    assert "kept" in str(found)


def test_networks_without_running_statistics_are_left_alone(digits: ArraySource) -> None:
    assert reestimate(network(digits, "mlp:8"), digits, 128, 0, CPU) is None
    assert reestimate(network(digits).freeze(), digits, 128, 0, CPU) is None


def test_more_images_after_a_longer_training() -> None:
    assert [images_for(n) for n in (1, 2_560, 5_120, 10**9)] == [128, 128, 256, 2_048]


def test_the_console_says_one_line_of_several_networks() -> None:
    better, worse = Reestimated(9, (0.5, 0.7), (2.0, 1.0)), Reestimated(9, (0.6, 0.1), (1.0, 2.0))
    assert summary([better]) == str(better)
    assert "1 of 2 networks: accuracy on them 55.0% -> 65.0%" in summary([better, worse])


def test_noise_that_is_not_there_at_test_is_made_up_for_and_the_flag_turns_it_off(tmp_path: Path) -> None:
    """Trained on noisy digits, a network has variances that clean ones do not have."""
    made = {
        flag: understudy.train(
            "digits", "cnn:16-32", epochs=4, noise=0.5, precise_bn=flag, run=tmp_path / str(flag), threads=1
        )
        for flag in (True, False)
    }
    assert "batch_norm" not in made[False].record
    said = made[True].record["batch_norm"]["model-0"]
    assert said.startswith("model-0: BatchNorm's statistics taken from")
    assert said in made[True].facts.notes
    accuracy = {flag: run.facts.rows[0].mean("accuracy") or 0.0 for flag, run in made.items()}
    assert accuracy[True] > accuracy[False]
    weights = [dict(run.network("model-0").named_parameters()) for run in made.values()]
    assert all(torch.equal(x, weights[1][name]) for name, x in weights[0].items())


def test_students_without_classes_are_compared_with_their_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Source] = []

    def watch_of(source: Source, *rest: Any) -> Watch:
        asked.append(source)
        return real(source, *rest)

    real = distill.watch_of
    monkeypatch.setattr(distill, "watch_of", watch_of)
    teacher = understudy.train("digits", "cnn:16-32", epochs=4, run=tmp_path / "teacher", threads=1).path
    options: dict[str, Any] = {"method": "cosine", "epochs": 4, "noise": 0.5, "seeds": 2, "threads": 1}
    made = {
        flag: understudy.distill("digits", teacher, "cnn:8-16", precise_bn=flag, run=tmp_path / str(flag), **options)
        for flag in (True, False)
    }
    assert "batch_norm" not in made[False].record
    assert len(asked) == 2 + 1, "once for what is held out, and once for the statistics of all students"
    said = made[True].record["batch_norm"]["distilled-0"]
    assert "images as at test: neighbors in common with the teacher on them" in said
    assert said in made[True].facts.notes
    shared = {flag: found.of("distilled")[0].neighbors or 0.0 for flag, run in made.items()
              if (found := run.facts.representation) is not None}  # fmt: skip
    assert shared[True] > shared[False], "on images that neither saw"
    weights = [dict(run.network("distilled-0").named_parameters()) for run in made.values()]
    assert all(torch.equal(x, weights[1][name]) for name, x in weights[0].items())


def test_of_neighbors_there_is_no_loss() -> None:
    found = Reestimated(9, (0.5, 0.7), None)
    assert found.kept
    assert str(found).endswith("9 images as at test: neighbors in common with the teacher on them 50.0% -> 70.0%")
    assert not Reestimated(9, (0.5, 0.5), None).kept
