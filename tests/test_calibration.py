"""Temperature scaling on held-out samples, no further than they give reason to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

import understudy
from understudy import Run
from understudy.config.recipe import TrainRecipe
from understudy.errors import UnderstudyError
from understudy.evaluation import fit_scale, predict_logits
from understudy.pipeline.kinds import pipeline_of

CPU: dict[str, Any] = {"precision": "32", "accelerator": "cpu", "workers": 0}


def held_out(count: int, *, right: float, scale: float, seed: int) -> tuple[Tensor, Tensor]:
    """Random logits of five classes, and targets of which a share is the most probable class."""
    drawn = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, 5, generator=drawn)
    lucky = torch.rand(count, generator=drawn) < right
    return logits, torch.where(lucky, logits.argmax(1), torch.randint(5, (count,), generator=drawn))


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 200), right=st.floats(0, 1), scale=st.sampled_from([0.05, 1.0, 5.0, 40.0]),
    seed=st.integers(0, 2**30),
)  # fmt: skip
def test_it_is_sharpened_only_as_far_as_held_out_samples_become_more_probable(
    count: int, right: float, scale: float, seed: int
) -> None:
    logits, targets = held_out(count, right=right, scale=scale, seed=seed)
    factor = fit_scale(logits, targets)
    assert 0 < factor < 2**10
    before, after = (float(cross_entropy(s * logits.double(), targets)) for s in (1.0, factor))
    if factor > 1:  # one sample of a random class is counted besides
        assert after < before
        assert float(cross_entropy(1.01 * factor * logits.double(), targets)) < after  # it stops short of the best


def test_samples_that_are_all_right_do_not_make_it_certain() -> None:
    logits = torch.tensor([[0.5, 0.0]]).repeat(100, 1)
    scaled = fit_scale(logits, torch.zeros(100, dtype=torch.int64)) * logits
    wrong = 100 * float(1 - scaled[:1].softmax(1)[0, 0])
    assert 1 < wrong < 10  # expected of 100, for none seen, where it was 38


def test_few_samples_change_nothing() -> None:
    assert fit_scale(torch.tensor([[3.0, 0.0]]).repeat(10, 1), torch.zeros(10, dtype=torch.int64)) == 1


def nll(run: Run, part: str) -> float:
    data = pipeline_of(run.recipe).data
    source = {"train": data.train, "test": data.test}[part]
    assert source is not None
    predictions = predict_logits(run.network("model-0"), source, device=torch.device("cpu"))
    assert predictions.targets is not None
    return float(cross_entropy(predictions.logits, predictions.targets))


def test_a_net_that_knows_its_samples_by_heart_is_no_worse_on_others(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"epochs": 16, "lr": 1e-2, "translate": 0, **CPU}
    run = understudy.train("digits", "mlp:128x2", run=tmp_path / "calibrated", calibrate=True, **fields)
    data = pipeline_of(run.recipe).data
    assert data.calibration is not None
    plain = understudy.train("digits", "mlp:128x2", run=tmp_path / "plain", validation=0.1, **fields)
    held = pipeline_of(plain.recipe).data.validation
    assert held is not None
    assert held.ids.equal(data.calibration.ids)  # so both are trained on the same samples
    assert nll(plain, "train") < 0.01
    assert nll(run, "test") <= nll(plain, "test")


def test_it_is_calibrated_on_samples_that_are_not_trained_on() -> None:
    def parts(**fields: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        data = pipeline_of(TrainRecipe(data="digits", model="mlp:8x1", calibrate=True, **fields)).data
        return data.train.ids, None if data.calibration is None else data.calibration.ids, data.labeled.ids

    trained, held, labeled = parts()
    assert held is not None
    assert torch.cat([trained, held]).sort().values.equal(labeled.sort().values)
    assert len(held) == pytest.approx(0.1 * len(labeled), abs=10)
    trained, held, _ = parts(validation=0.3)
    assert held is not None
    assert len(held) == pytest.approx(0.3 * len(labeled), abs=10)
    trained, held, _ = parts(fraction=0.1)
    assert held is not None
    assert len(trained) + len(held) == pytest.approx(0.1 * len(labeled), abs=10)


def test_where_too_few_would_be_held_out_it_is_not_calibrated_and_the_page_says_so(tmp_path: Path) -> None:
    x, y = torch.rand(24, 6), torch.arange(24) % 3
    run = understudy.train((x, y), "mlp:8x1", run=tmp_path, calibrate=True, epochs=1, batch_size=4, **CPU)
    data = pipeline_of(run.recipe, understudy.pipeline.run_data.Overrides(data=(x, y))).data
    assert data.train.ids.equal(data.labeled.ids)
    said = "model-0: not calibrated, as 24 training samples are too few to hold out a tenth of them"
    assert said in run.facts.notes
    assert said in run.report.read_text()


def test_the_page_names_the_scale_and_on_how_many_samples(tmp_path: Path) -> None:
    run = understudy.train("digits", "mlp:32x1", run=tmp_path, epochs=2, lr=1e-3, validation=0.3, calibrate=True, **CPU)
    assert any("model-0: logits scaled by" in note and "431 held-out samples" in note for note in run.facts.notes)


def test_a_calibrated_net_is_as_sure_as_it_is_right(tmp_path: Path) -> None:
    """On the part that was kept from it; what it answers is what it would have answered."""
    fields: dict[str, Any] = {"epochs": 2, "lr": 1e-3, "validation": 0.3, "precision": "32", "accelerator": "cpu"}
    plain, calibrated = (
        understudy.train("digits", "mlp:32x1", run=tmp_path / str(calibrate), calibrate=calibrate, **fields)
        for calibrate in (False, True)
    )
    held = pipeline_of(plain.recipe).data.validation
    assert held is not None
    said = [predict_logits(run.network("model-0"), held, device=torch.device("cpu")) for run in (plain, calibrated)]
    assert said[0].logits.argmax(1).equal(said[1].logits.argmax(1))
    accuracy = float((said[1].logits.argmax(1) == held.targets).float().mean())
    sure = [float(one.logits.softmax(1).amax(1).mean()) for one in said]
    assert sure[1] == pytest.approx(accuracy, abs=0.02)
    assert abs(sure[0] - accuracy) > 0.05


def test_calibration_is_of_the_softmax(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="calibrate needs the softmax loss"):
        understudy.train("digits", "mlp:8", run=tmp_path, loss="sigmoid", calibrate=True)
