"""What a backbone is worth frozen: its own head, a linear probe, nearest neighbors; and training from there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import understudy
from understudy.data import ArraySource, open_source
from understudy.errors import UnderstudyError
from understudy.evaluation import predict_logits
from understudy.evaluation.frozen import cross_validated, fit_head, linear_map
from understudy.evaluation.probe import extract_embeddings, fit_logistic
from understudy.models import InputContract, Network, build

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> ArraySource:
    train = open_source("digits").train.subset(torch.arange(0, 1_400, 3))
    assert isinstance(train, ArraySource)
    return train


def network(digits: ArraySource, spec: str = "cnn:8-16") -> Network:
    """Untrained, with BatchNorm's statistics of the digits, so that its features vary as trained ones do."""
    net = build(spec, InputContract(digits.shape, (0.5,), (0.25,), digits.classes), seed=3)
    net.train()
    for _ in range(20):
        net(digits.inputs[:200].float() / 255)
    return net.eval()


def test_the_head_says_what_the_logistic_regression_says(digits: ArraySource) -> None:
    net = network(digits)
    scores = fit_head(net, digits)
    embedded = extract_embeddings({"net": net}, digits)
    x, y = embedded.by_network["net"].double().numpy(), embedded.targets.numpy()
    model = fit_logistic(x, y, scores.decay, floor=0.1)
    logits = predict_logits(net, digits, device=CPU).logits
    assert torch.allclose(logits.softmax(1), torch.from_numpy(model.predict_proba(x)).float(), atol=1e-4)


def test_what_is_predicted_of_new_images_is_what_cross_validation_says(digits: ArraySource) -> None:
    net, others = network(digits), open_source("digits").train.subset(torch.arange(1, 1_400, 3))
    scores = fit_head(net, digits)
    assert scores.probe is not None
    found = predict_logits(net, others, device=CPU)
    assert found.targets is not None
    assert abs(float((found.logits.argmax(1) == found.targets).float().mean()) - scores.probe) < 0.06
    assert sum(scores.right.values()) / len(scores.right) == scores.probe
    assert set(scores.right) == set(digits.ids.tolist())


def test_its_own_head_stays_where_it_is_as_good(digits: ArraySource) -> None:
    net = network(digits)
    fit_head(net, digits)
    before = {name: x.clone() for name, x in net.state_dict().items()}
    scores = fit_head(net, digits, own=True)  # it was fitted to these very images
    assert scores.keeps_own
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    assert "as given" in str(scores)
    assert fit_head(net, digits).given is None


def test_with_one_sample_a_class_there_is_a_head_but_no_score(digits: ArraySource) -> None:
    assert digits.targets is not None
    rows = torch.stack([(digits.targets == label).nonzero()[0, 0] for label in range(10)])
    net = network(digits)
    scores = fit_head(net, digits.subset(rows))
    assert (scores.probe, scores.neighbors) == (None, None)
    assert "too few to tell" in str(scores)
    found = predict_logits(net, digits.subset(rows), device=CPU)
    assert found.logits.argmax(1).equal(digits.targets[rows])


@settings(deadline=None)
@given(st.integers(2, 5), st.integers(0, 2**31))
def test_the_linear_map_of_a_fit_is_the_fit(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.arange(40) % classes
    x = rng.normal(size=(40, 6)) + y[:, None] * rng.normal(size=6)
    model = fit_logistic(x, y, 0.1)
    weight, bias = linear_map(model, classes + 1)  # of a class without samples too
    logits = torch.from_numpy(x).float() @ weight.T + bias
    assert torch.allclose(logits[:, :classes].softmax(1), torch.from_numpy(model.predict_proba(x)).float(), atol=1e-3)
    assert (logits.softmax(1)[:, classes] < 0.1).all()


def test_folds_are_of_each_class_and_do_not_depend_on_the_order_of_ids() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 10)
    x = rng.normal(size=(30, 4)) + 3 * np.eye(4)[y]
    scores = cross_validated(x, y, list(range(30)), seed=0)
    assert scores.probe is not None
    assert scores.probe > 0.8
    assert cross_validated(x, y, list(range(30)), seed=0) == scores


def test_a_network_whose_logits_come_from_elsewhere_is_refused(digits: ArraySource) -> None:
    class Wide(nn.Module):
        """A 1x1 convolution whose outputs are averaged."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(1, 10, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x).mean((2, 3))

    net = Network(Wide(), InputContract(digits.shape, (0.5,), (0.25,), digits.classes))
    with pytest.raises(UnderstudyError, match="pass --head zero"):
        fit_head(net, digits)


def test_training_starts_from_the_probe_and_no_steps_keep_it(tmp_path: Path) -> None:
    start = understudy.train("digits", "cnn:8-16", epochs=2, run=tmp_path / "start", threads=1)
    frozen = understudy.train("digits", str(start.path), head="probe", steps=0, run=tmp_path / "frozen", threads=1)
    scores = frozen.record["frozen"]["model-0"]
    accuracy = frozen.facts.rows[0].mean("accuracy")
    assert accuracy is not None
    assert abs(accuracy - scores["probe"]) < 0.05
    assert scores["sentence"] in frozen.report.read_text()
    kept = understudy.train("digits", str(start.path), steps=0, run=tmp_path / "kept", threads=1)
    assert kept.facts.rows[0].mean("accuracy") == start.facts.rows[0].mean("accuracy")
    best = understudy.train("digits", str(start.path), head="best", steps=0, run=tmp_path / "best", threads=1)
    assert best.record["frozen"]["model-0"]["given"] is not None
