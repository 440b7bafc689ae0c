"""Evaluation against independent formulas."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score
from torch import Tensor, nn

from understudy import evaluation as ev
from understudy.data import ArraySource, RecordSource, Unreadable
from understudy.errors import UnderstudyError
from understudy.evaluation import Predictions
from understudy.models import InputContract, Network, build

CPU = torch.device("cpu")
DIGITS = tuple("0123456789")
CATS = ("cat", "dog", "eel")


def draw(n: int, classes: int, seed: int, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (n,), generator=generator)
    return torch.randn(n, classes, generator=generator) * scale, targets


def images(n: int = 30, side: int = 8, channels: int = 1) -> ArraySource:
    x = torch.randint(256, (n, channels, side, side), generator=torch.Generator().manual_seed(1)).byte()
    rows = torch.arange(n)
    return ArraySource("some", CATS, rows * 7 + 3, rows % 3, (channels, side, side), inputs=x)


def network(spec: str, shape: tuple[int, ...] = (1, 8, 8), classes: tuple[str, ...] = CATS) -> Network:
    return build(spec, InputContract(shape, (0.5,) * shape[0], (0.25,) * shape[0], classes))


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


def test_logits_come_in_order_and_the_modes_are_restored() -> None:
    source, net = images(), network("cnn:4?dropout=0.5")
    net.train()
    frozen = next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before = {name: x.clone() for name, x in net.state_dict().items()}
    found = ev.logits_of(net, source, device=CPU, batch_size=7)
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


def test_logits_without_targets_and_of_a_plain_function() -> None:
    source = images()
    bare = ArraySource("bare", (), source.ids, None, source.shape, inputs=source.inputs)
    net = network("mlp:5x1").eval()
    found = ev.logits_of(lambda batch: net(batch), bare, device=CPU)
    assert found.targets is None
    assert found.logits.shape == (30, 3)


def test_a_failing_model_gets_its_mode_back() -> None:
    net = network("mlp:5x1", shape=(1, 9, 9))
    net.contract = InputContract((81,), (0.5,), (0.25,), CATS)
    with pytest.raises(UnderstudyError):
        ev.logits_of(net.train(), images(), device=CPU)
    assert net.training


# ---- cost


def test_flops_and_parameters_of_an_mlp() -> None:
    net = network("mlp:20-11?dropout=0.5").train()
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


def test_cost_of_one_and_of_an_ensemble(tmp_path) -> None:
    one, other = network("cnn:4-8"), network("mlp:20x1?batchnorm=true")
    threads = torch.get_num_threads()
    costs = [ev.cost(net, threads=1) for net in (one, other)]
    both = ev.cost_of_all([one, other], threads=1)
    assert torch.get_num_threads() == threads
    for name in ("parameters", "flops", "bytes"):
        assert both[name] == costs[0][name] + costs[1][name]
    assert all(found["latency_ms"] > 0 and found["latency_spread_ms"] >= 0 for found in (*costs, both))
    one.save(tmp_path / "weights.safetensors")
    assert costs[0]["bytes"] == (tmp_path / "weights.safetensors").stat().st_size
    assert set(both) == {"parameters", "flops", "bytes", "latency_ms", "latency_spread_ms"}


# ---- class biases


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


@pytest.mark.parametrize("priors", [[0.5, 0.4], [1.0, 0.0], [1.5, -0.5], [float("nan"), 0.5]])
def test_priors_must_be_a_distribution(priors: list[float]) -> None:
    with pytest.raises(UnderstudyError, match="positive and sum to 1"):
        ev.fit_class_bias(torch.zeros(4, 2), torch.tensor(priors))


def test_parsing() -> None:
    assert ev.parse_priors(("uniform",), DIGITS).tolist() == pytest.approx([0.1] * 10)
    assert ev.parse_priors(("dog=0.5",), CATS).tolist() == pytest.approx([0.25, 0.5, 0.25])
    assert ev.parse_priors(("0=0.2", "1=0.3", "2=0.5"), CATS).tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert ev.parse_bias(("3=+3.5", "9=-1"), DIGITS).tolist() == [0, 0, 0, 3.5, 0, 0, 0, 0, 0, -1]
    assert ev.parse_bias(("1=2",), ("1", "0")).tolist() == [2, 0]  # a name goes before an index


@pytest.mark.parametrize(
    ("parse", "texts", "message"),
    [
        (ev.parse_bias, ("dgo=1",), "did you mean 'dog'"),
        (ev.parse_bias, ("3=1",), "no class '3'"),
        (ev.parse_bias, ("dog=1", "1=2"), "given twice"),
        (ev.parse_bias, ("dog=nan",), "finite"),
        (ev.parse_bias, ("dog",), "CLASS=NUMBER"),
        (ev.parse_priors, ("uniform", "dog=0.1"), "one kind"),
        (ev.parse_priors, ("dog=0",), "positive"),
        (ev.parse_priors, ("dog=1",), "less than 1"),
        (ev.parse_priors, ("cat=0.2", "dog=0.2", "eel=0.2"), "must sum to 1"),
    ],
)
def test_mistakes_in_class_texts(parse, texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(UnderstudyError, match=message):
        parse(texts, CATS)


# ---- gallery


@dataclass
class Plain:
    name: str
    shade: int

    def read(self, at_least: int = 0) -> Image.Image:
        if self.shade < 0:
            raise Unreadable("it is broken")
        return Image.new("RGB", (24, 20), (self.shade, 0, 0))


def answers(source, right: Tensor, sharpness: Tensor) -> Predictions:
    """Logits whose largest is the target's where `right`, the next class's elsewhere."""
    chosen = torch.where(right, source.targets, (source.targets + 1) % 3)
    return Predictions(source.ids, nn.functional.one_hot(chosen, 3) * sharpness[:, None], source.targets)


def decode(entry: dict) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(entry["image_png_base64"])))


@pytest.mark.parametrize("channels", [1, 3])
def test_gallery_shows_the_uncertain_and_the_rescued(channels: int) -> None:
    source, n = images(channels=channels), torch.arange(30)
    roles = {
        "teacher": answers(source, n != 0, 1.0 + n),  # sample 0 is the least certain, and wrong
        "alone": answers(source, n < 20, torch.ones(30)),
        "distilled": answers(source, n < 28, torch.ones(30)),
    }
    entries = ev.gallery(source, roles, CATS, 4.0, count=6)
    shown = [np.asarray(decode(entry)) for entry in entries]
    expected = [1, 2, 3, 20, 21, 22]
    for pixels, entry, i in zip(shown, entries, expected, strict=True):
        assert (pixels == source.inputs[i].permute(1, 2, 0).squeeze(2 if channels == 1 else 0).numpy()).all()
        assert entry["label"] == CATS[i % 3]
        assert entry["temperature"] == 4.0
        for role, found in roles.items():
            assert entry[role] == pytest.approx((found.logits[i] / 4).softmax(0).tolist())
    assert ev.gallery(source, roles, CATS, 4.0, count=6) == entries


def test_gallery_of_a_teacher_alone() -> None:
    source = images()
    entries = ev.gallery(source, {"teacher": answers(source, torch.ones(30) > 0, torch.ones(30))}, CATS, 2.0)
    assert len(entries) == 12
    assert entries[0]["alone"] is None
    assert entries[0]["distilled"] is None
    assert decode(entries[0]).size == (8, 8)


def test_gallery_and_logits_of_records_leave_the_unreadable_out() -> None:
    records = [Plain(f"{i}.png", -1 if i in (2, 5, 6, 7) else 20 * i) for i in range(12)]
    source = RecordSource("files", CATS, torch.arange(12), torch.arange(12) % 3, (3, 16, 16), records=records)
    set_aside: dict[str, str] = {}
    run = partial(ev.logits_of, network("mlp:4x1", shape=(3, 16, 16)), source, device=CPU, batch_size=3)
    found = run(set_aside=set_aside)
    assert found.ids.tolist() == [0, 1, 3, 4, 8, 9, 10, 11]
    assert set_aside == {f"{i}.png": "it is broken" for i in (2, 5, 6, 7)}
    teacher = answers(source, torch.ones(12) > 0, torch.ones(12))
    entries = ev.gallery(source, {"teacher": teacher, "alone": found}, CATS, 1)
    assert len(entries) == 8
    assert {decode(entry).size for entry in entries} == {(16, 16)}
    with pytest.raises(UnderstudyError, match="no sample of files"):
        ev.logits_of(network("mlp:4x1"), source.subset(torch.tensor([2, 5])), device=CPU)


def test_gallery_is_empty_for_vectors() -> None:
    source = ArraySource("v", CATS, torch.arange(6), torch.arange(6) % 3, (2,), inputs=torch.rand(6, 2))
    assert ev.gallery(source, {"teacher": answers(source, torch.ones(6) > 0, torch.ones(6))}, CATS, 1.0) == []
