"""Evaluation against independent formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score
from torch import Tensor, nn

from understudy import evaluation as ev
from understudy.data import ArraySource
from understudy.errors import UnderstudyError
from understudy.models import InputContract, Network

CPU = torch.device("cpu")
CATS = ("cat", "dog", "eel")


def draw(n: int, classes: int, seed: int, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (n,), generator=generator)
    return torch.randn(n, classes, generator=generator) * scale, targets


# ---- metrics


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_metrics_match_sklearn(classes: int) -> None:
    logits, targets = draw(400, classes, classes)
    y, z = targets.numpy(), logits.double().numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    found = ev.scores(logits, targets, logits.flip(0))
    assert found["accuracy"] == pytest.approx(accuracy_score(y, p.argmax(1)))
    assert found["errors"] == (p.argmax(1) != y).sum()
    assert found["nll"] == pytest.approx(log_loss(y, p, labels=range(classes)))
    assert found["brier"] == pytest.approx(np.mean(((p - np.eye(classes)[y]) ** 2).sum(1)))
    assert found["agreement"] == pytest.approx(np.mean(p.argmax(1) == p[::-1].argmax(1)))
    expected = confusion_matrix(y, p.argmax(1), labels=range(classes))
    assert (ev.confusion(logits, targets).numpy() == expected).all()
    if classes > 5:
        assert found["top5"] == pytest.approx(top_k_accuracy_score(y, p, k=5))
    else:
        assert found["top5"] is None
    assert ev.scores(logits, targets)["agreement"] is None


def test_ece_is_the_plain_loop_over_bins() -> None:
    logits, targets = draw(700, 10, 5, scale=1.5)
    p = logits.double().softmax(1).numpy()
    confidence, hit = p.max(1), p.argmax(1) == targets.numpy()
    total = 0.0
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    assert ev.ece(logits, targets) == pytest.approx(total)


def test_certain_and_right_is_perfectly_calibrated() -> None:
    sure = torch.eye(4) * 1000, torch.arange(4)
    assert ev.ece(*sure) == ev.brier(*sure) == ev.nll(*sure) == 0


@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 50))
@settings(max_examples=40, deadline=None)
def test_properties_of_metrics(seed: int, classes: int, n: int) -> None:
    one, targets = draw(n, classes, seed)
    other, _ = draw(n, classes, seed + 1)
    assert ev.agreement(one, other) == ev.agreement(other, one)
    assert ev.agreement(one, one) == 1
    assert 0 <= ev.ece(one, targets) <= 1
    assert 0 <= ev.brier(one, targets) <= 2
    assert ev.top_k(one, targets, 1) == ev.accuracy(one, targets)
    counts = ev.confusion(one, targets)
    assert counts.sum() == n
    assert counts.trace() == n - (ev.scores(one, targets)["errors"] or 0)


# ---- logits


def test_logits_come_in_order_and_the_modes_are_restored(
    small_network: Callable[..., Network], small_images: ArraySource
) -> None:
    source, net = small_images, small_network("cnn:4?dropout=0.5")
    net.train()
    frozen = next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before = {name: x.clone() for name, x in net.state_dict().items()}
    found = ev.predict_logits(net, source, device=CPU, batch_size=7)
    assert net.training
    assert net.module.training
    assert not frozen.training
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    net.eval()
    with torch.no_grad():
        expected = net(source.inputs.float() / 255).logits
    torch.testing.assert_close(found.logits, expected)
    assert torch.equal(found.ids, source.ids)
    assert found.targets is not None
    assert torch.equal(found.targets, torch.arange(30) % 3)
    assert not found.logits.is_inference()
    reordered = found.select(source.ids.flip(0)[:5])
    assert torch.equal(reordered.logits, found.logits.flip(0)[:5])


def test_logits_without_targets_and_of_a_plain_function(
    small_network: Callable[..., Network], small_images: ArraySource
) -> None:
    source = small_images
    bare = ArraySource("bare", (), source.ids, None, source.shape, inputs=source.inputs)
    net = small_network("mlp:5x1").eval()
    found = ev.predict_logits(lambda batch: net(batch), bare, device=CPU)
    assert found.targets is None
    assert found.logits.shape == (30, 3)


def test_a_failing_model_gets_its_mode_back(small_network: Callable[..., Network], small_images: ArraySource) -> None:
    net = small_network("mlp:5x1", shape=(1, 9, 9))
    net.contract = InputContract((81,), (0.5,), (0.25,), CATS)
    with pytest.raises(UnderstudyError):
        ev.predict_logits(net.train(), small_images, device=CPU)
    assert net.training


# ---- cost


def test_flops_and_parameters_of_an_mlp(small_network: Callable[..., Network]) -> None:
    net = small_network("mlp:20-11?dropout=0.5").train()
    pairs = [(64, 20), (20, 11), (11, 3)]
    assert ev.flops(net) == 2 * sum(a * b for a, b in pairs)
    assert ev.parameters(net) == sum(a * b + b for a, b in pairs)
    assert net.training


def test_flops_of_convolution_and_attention() -> None:
    conv = Network(nn.Conv2d(1, 3, 8, bias=False), InputContract((1, 8, 8), (0.5,), (0.25,), CATS))
    assert ev.flops(conv) == 2 * 3 * 64

    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    attention = Network(Attention(), InputContract((1, 8, 8), (0.5,), (0.25,), CATS))
    assert ev.flops(attention) == 2 * 2 * 8 * 8 * 8


def test_cost_of_one_and_of_an_ensemble(tmp_path, small_network: Callable[..., Network]) -> None:
    one, other = small_network("cnn:4-8"), small_network("mlp:20x1?batchnorm=true")
    threads = torch.get_num_threads()
    costs = [ev.cost(net) for net in (one, other)]
    both = ev.ensemble_cost([one, other])
    ev.latency(one, 3, threads=1)
    assert torch.get_num_threads() == threads
    for name in ("parameters", "flops", "bytes"):
        assert both[name] == costs[0][name] + costs[1][name]
    assert all(found["latency_ms"] > 0 and found["latency_spread_ms"] >= 0 for found in (*costs, both))
    one.save(tmp_path / "weights.safetensors")
    assert costs[0]["bytes"] == (tmp_path / "weights.safetensors").stat().st_size
    assert set(both) == {"parameters", "flops", "bytes", "latency_ms", "latency_spread_ms"}


# ---- temperature scaling


@pytest.mark.parametrize("biased", [False, True])
def test_a_network_scales_its_logits_by_its_head(biased: bool, small_network: Callable[..., Network]) -> None:
    net = small_network("cnn:4-8").eval()
    if biased:
        net.set_class_bias(torch.tensor([1.0, -2.0, 0.5]))
    x = torch.rand(5, 1, 8, 8)
    before = net(x).logits
    net.scale_logits(2.5)
    torch.testing.assert_close(net(x).logits, 2.5 * before)
