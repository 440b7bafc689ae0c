"""Linear probes: the classifier against its formula, and the verb on real and bad data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import understudy
from understudy import evaluation as ev
from understudy.cli.app import main
from understudy.data import ArraySource, Splits, open_source, stratified_split
from understudy.errors import UnderstudyError
from understudy.evaluation.probe import DECAYS, fit_logistic
from understudy.models import InputContract, Network, build
from understudy.runs.run import Run


@pytest.fixture(scope="module")
def digits() -> Splits:
    return open_source("digits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: Splits) -> Path:
    """A run folder as `compare` leaves it; its networks have other classes than the digits."""
    run = Run(tmp_path_factory.mktemp("run"))
    (run.path / "recipe.yaml").write_text("kind: distill\ndata: shapes\n")
    (run.path / "run.json").write_text("{}")
    for seed, name in enumerate(("alone-0", "alone-1", "distilled-crd+kd-0", "distilled-crd+kd-1")):
        contract = InputContract((1, 8, 8), (0.3,), (0.3,), ("circle", "square"))
        build("mlp:24x1", contract, seed=seed).save(run.path / "models" / f"{name}.safetensors")
    return run.path


# ---- the classifier


def test_the_fit_minimizes_what_it_says() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 120)
    x = rng.normal(size=(120, 5)) * [1, 10, 0.1, 5, 1] + np.eye(3, 5)[y] * 3 + 7
    z = torch.tensor((x - x.mean(0)) / x.std(0))
    w, b = torch.zeros(5, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    solver = torch.optim.LBFGS([w.requires_grad_(), b.requires_grad_()], max_iter=500, tolerance_grad=1e-9)

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = nn.functional.cross_entropy(z @ w + b, torch.tensor(y)) + 0.01 / 2 * w.square().sum()
        value.backward()
        return value

    solver.step(loss)  # type: ignore[arg-type]
    expected = (z @ w + b).softmax(1).detach().numpy()
    np.testing.assert_allclose(fit_logistic(x, y, 0.01).predict_proba(x), expected, atol=2e-3)
    warm = fit_logistic(x, y, 0.01, start=fit_logistic(x, y, 1.0))
    np.testing.assert_allclose(warm.predict_proba(x), expected, atol=2e-3)


def test_the_validation_part_chooses_and_the_test_part_does_not(digits: Splits) -> None:
    assert digits.test is not None
    nets = {"net-0": build("mlp:24x1", InputContract((1, 8, 8), (0.3,), (0.3,), ("a", "b")))}
    train, test = ev.extract_embeddings(nets, digits.train), ev.extract_embeddings(nets, digits.test)
    found = ev.linear_probe(train, test, "net-0")
    x, y = train.by_network["net-0"].double().numpy(), train.targets.numpy()
    kept, held = (rows.numpy() for rows in stratified_split(digits.train, 0.2, 0))
    right = [fit_logistic(x[kept], y[kept], decay).score(x[held], y[held]) for decay in DECAYS]
    assert found.validation_accuracy == pytest.approx(max(right), abs=0.01)
    assert right[DECAYS.index(found.weight_decay)] >= max(right) - 0.01
    final = fit_logistic(x, y, found.weight_decay)
    score = final.score(test.by_network["net-0"].double().numpy(), test.targets.numpy())
    assert found.accuracy == pytest.approx(score)
    assert found.errors == round((1 - found.accuracy) * len(digits.test))
    assert found.width == 24
    turned = ev.Embeddings(test.source, {"net-0": test.by_network["net-0"].flip(0)})
    assert ev.linear_probe(train, turned, "net-0").weight_decay == found.weight_decay


def test_embeddings_are_what_the_head_reads_and_leave_no_trace(
    small_network: Callable[..., Network], small_images: ArraySource
) -> None:
    source, nets = small_images, {"a": small_network("cnn:4?dropout=0.5"), "b": small_network("mlp:5x1")}
    nets["a"].train().watch({"0"})
    found = ev.extract_embeddings(nets, source, batch_size=7)
    assert nets["a"].training
    assert nets["a"].signals == {"0"}
    for name, net in nets.items():
        with torch.no_grad():
            expected = net.eval().watch({"embedding"})(source.inputs.float() / 255).embedding
        assert expected is not None
        torch.testing.assert_close(found.by_network[name], expected)
    assert torch.equal(found.source.ids, source.ids)


# ---- the verb


def test_probe_on_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = tmp_path / "teacher.safetensors"
    build("mlp:48x1", InputContract((3, 12, 12), (0.3,) * 3, (0.3,) * 3, ("x", "y", "z"))).save(teacher)
    assert main(["probe", str(folder), "digits", "--teacher", str(teacher)]) == 0
    head, method, row, caption = capsys.readouterr().out.rstrip().splitlines()
    assert head.split() == ["Distilled"]
    assert method.split() == ["data", "classes", "train", "test", "Teacher", "Student", "alone", "crd+kd"]
    assert row.split()[:4] == ["digits", "10", "1,438", "359"]
    assert row.count("±") == 2
    assert "accuracy of a linear probe" in caption


def test_probe_json_and_chosen_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(folder / "models/alone-1.safetensors")
    assert main(["probe", weights, "digits", "--only-classes", "3", "8", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["classes"], list(one["probes"]), one["skipped"]) == (2, ["alone-1"], {})
    assert one["train"] + one["test"] < 400
    assert one["means"]["alone"] == {"accuracy": one["probes"]["alone-1"]["accuracy"], "sd": None}
    assert one["probes"]["alone-1"]["accuracy"] > 0.8


def test_methods_and_seeds_are_told_apart(folder: Path, digits: Splits) -> None:
    again, (found, other) = understudy.probe(folder, digits), understudy.probe(folder, digits, "digits")
    assert again == [found]
    assert found.probes == other.probes
    assert set(found.groups) == {"alone", "distilled-crd+kd"}
    pair = [found.probes[f"alone-{seed}"].accuracy for seed in (0, 1)]
    assert found.mean("alone") == pytest.approx(np.mean(pair))
    assert found.sd("alone") == pytest.approx(np.std(pair, ddof=1))
    assert min(pair) > 0.8


def test_a_network_that_has_no_classes_of_its_own(digits: Splits) -> None:
    blind = Network(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 0)),
                    InputContract((1, 8, 8), (0.3,), (0.3,), ()))  # fmt: skip
    (found,) = understudy.probe({"mine": blind}, digits)
    assert found.mean("mine") > 0.8


def test_a_test_part_is_carved_where_there_is_none(digits: Splits) -> None:
    net = {"a-0": build("mlp:8x1", InputContract((1, 8, 8), (0.3,), (0.3,), ("a", "b")))}
    (found,) = understudy.probe(net, Splits(digits.train))
    kept, held = stratified_split(digits.train, 0.2, 0)
    assert (found.train, found.test) == (len(kept), len(held))


def test_unreadable_images_are_counted(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 200)):
        (tmp_path / name).mkdir()
        for i in range(12):
            pixels = rng.integers(level - 40, level + 40, (20, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    (tmp_path / "dark/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert main(["probe", str(folder), str(tmp_path), "--size", "16"]) == 0
    out = capsys.readouterr().out
    assert "1 skipped" in out
    assert "100.00" in out


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :3]


def test_what_cannot_be_probed(
    folder: Path, digits: Splits, small_network: Callable[..., Network], small_images: ArraySource
) -> None:
    source = small_images
    bare = ArraySource("bare", (), source.ids, None, source.shape, inputs=source.inputs)
    single = source.subset(torch.tensor([0, 1, 2]))
    contract = InputContract((1, 8, 8), (0.5,), (0.25,), ("a", "b", "c"))
    headless = Network(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), contract)
    lost = small_network("mlp:5x1")
    nn.init.constant_(next(lost.parameters()), float("nan"))
    net = {"a-0": small_network("mlp:5x1")}
    for target, data, only, says in (
        (folder, (), (), "no data to probe on"),
        ({}, (source,), (), "no network to probe"),
        (net, (bare,), (), "bare has no labels"),
        (net, (digits,), ("3",), "a single class, 3"),
        (net, (digits,), ("11",), "has no class '11'"),
        (net, (single,), (), "one sample per class"),
        (net, ("no-such-set",), (), "no-such-set"),
        ({"a-0": headless}, (source,), (), "a-0 cannot be probed: .* end it with a linear layer"),
        (
            {"a-0": Network(Unused(), contract)},
            (source,),
            (),
            "a-0 cannot be probed: the module has no linear classifier",
        ),
        ({"a-0": lost}, (source,), (), "not finite"),
        (folder / "nothing", (source,), (), "there is no run folder or weights file"),
    ):
        with pytest.raises(UnderstudyError, match=says):
            understudy.probe(target, *data, only_classes=only)


def test_a_pretrained_model_is_probed_by_its_name(tmp_path: Path) -> None:
    """Its head is not used, so its classes need not be those of the data; a random network is refused."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    file = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), file)
    name, digits = f"timm:test_resnet?weights={file}", open_source("digits").train
    assert isinstance(digits, ArraySource)
    assert digits.targets is not None
    (found,) = understudy.probe(name, (digits.inputs[:150], digits.targets[:150]), teacher=[name])
    assert found.classes == 10
    assert set(found.probes) == {"teacher-0", "model-0"}
    with pytest.raises(UnderstudyError, match="has no pre-trained weights, and a random network is not worth probing"):
        understudy.probe("cnn:4-8", "digits")
