"""Class biases: fitted ones match the priors, given ones are parsed or rejected."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from understudy import evaluation as ev
from understudy.errors import UnderstudyError

DIGITS = tuple("0123456789")
CATS = ("cat", "dog", "eel")


def draw(n: int, classes: int, seed: int, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (n,), generator=generator)
    return torch.randn(n, classes, generator=generator) * scale, targets


@given(st.integers(0, 10**6), st.integers(2, 7), st.sampled_from([0.1, 3.0, 30.0]), st.floats(-50, 50))
@settings(max_examples=40, deadline=None)
def test_fitted_biases_reach_the_priors(seed: int, classes: int, scale: float, shift: float) -> None:
    logits, _ = draw(200, classes, seed, scale)
    priors = torch.rand(classes, generator=torch.Generator().manual_seed(seed)) + 0.05
    priors /= priors.sum()
    bias = ev.fit_class_bias(logits, priors)
    mean = (logits + bias).double().softmax(1).mean(0)
    torch.testing.assert_close(mean.float(), priors, atol=1e-4, rtol=0)
    assert bias.mean().abs() < 1e-5
    shifted = ev.fit_class_bias(logits + shift, priors)
    mean = (logits + shifted).double().softmax(1).mean(0)
    torch.testing.assert_close(mean.float(), priors, atol=2e-4, rtol=0)
    torch.testing.assert_close(shifted, bias, atol=1e-2, rtol=1e-2)


def test_a_known_bias_is_found_again() -> None:
    logits, _ = draw(2000, 5, 3)
    known = torch.tensor([1.0, -2.0, 0.5, 3.0, -2.5])
    priors = logits.double().softmax(1).mean(0)
    found = ev.fit_class_bias(logits - known, priors, tolerance=1e-7)
    torch.testing.assert_close(found, known, atol=1e-4, rtol=0)


def test_a_class_that_is_never_predicted_comes_back() -> None:
    logits, targets = draw(1000, 10, 4, scale=1.0)
    logits[torch.arange(1000), targets] += 12.0
    logits[:, 3] -= 60.0
    bias = ev.fit_class_bias(logits, torch.full((10,), 0.1))
    torch.testing.assert_close((logits + bias).softmax(1).mean(0), torch.full((10,), 0.1), atol=2e-4, rtol=0)
    assert bias.argmax() == 3


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_near_degenerate_priors(classes: int, scale: float) -> None:
    logits, _ = draw(200, classes, 5, scale)
    priors = torch.full((classes,), 1e-4 / classes)
    priors[0] += 1 - 1e-4
    bias = ev.fit_class_bias(logits, priors, tolerance=1e-6)
    torch.testing.assert_close((logits + bias).double().softmax(1).mean(0).float(), priors, atol=1e-6, rtol=0)


@pytest.mark.parametrize("priors", [[0.5, 0.4], [1.0, 0.0], [1.5, -0.5], [float("nan"), 0.5]])
def test_priors_must_be_a_distribution(priors: list[float]) -> None:
    with pytest.raises(UnderstudyError, match="positive and sum to 1"):
        ev.fit_class_bias(torch.zeros(4, 2), torch.tensor(priors))


def test_parsing() -> None:
    assert ev.parse_priors(("uniform",), DIGITS).tolist() == pytest.approx([0.1] * 10)
    assert ev.parse_priors(("dog=0.5",), CATS).tolist() == pytest.approx([0.25, 0.5, 0.25])
    assert ev.parse_priors(("0=0.2", "1=0.3", "2=0.5"), CATS).tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert ev.parse_bias(("3=+3.5", "9=-1"), DIGITS).tolist() == [0, 0, 0, 3.5, 0, 0, 0, 0, 0, -1]
    assert ev.parse_bias(("1=2",), ("1", "0")).tolist() == [2, 0]  # names take precedence over indices


@pytest.mark.parametrize(
    ("parse", "texts", "message"),
    [
        (ev.parse_bias, ("dgo=1",), "did you mean 'dog'"),
        (ev.parse_bias, ("3=1",), "no class '3'"),
        (ev.parse_bias, ("dog=1", "1=2"), "appears twice"),
        (ev.parse_bias, ("dog=nan",), "finite"),
        (ev.parse_bias, ("dog",), "CLASS=NUMBER"),
        (ev.parse_priors, ("uniform", "dog=0.1"), "use one of these"),
        (ev.parse_priors, ("dog=0",), "positive"),
        (ev.parse_priors, ("dog=1",), "less than 1"),
        (ev.parse_priors, ("cat=0.2", "dog=0.2", "eel=0.2"), "must sum to 1"),
    ],
)
def test_mistakes_in_class_texts(parse, texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(UnderstudyError, match=message):
        parse(texts, CATS)
