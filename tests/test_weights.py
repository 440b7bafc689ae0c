"""Weights as people have them: checkpoints of other trainers, teachers that were trained elsewhere, downloads."""

from __future__ import annotations

import argparse
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import understudy
from understudy.data import ArraySource
from understudy.errors import UnderstudyError
from understudy.models import InputContract, Network, build, load_network, read_weights
from understudy.models.weights import read_classes, unwrapped

NAMES = ("cat", "dog", "eel")
SMALL = InputContract((1, 8, 8), (0.5,), (0.25,), NAMES)
SPEC = "cnn:4-8"


@pytest.fixture(scope="module")
def trained() -> Network:
    return build(SPEC, SMALL, seed=5).eval()


@pytest.fixture(scope="module")
def state(trained: Network) -> dict[str, Tensor]:
    return trained.module.state_dict()


def doubled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x * 2 for name, x in state.items()}


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: x for name, x in state.items()}


def same_weights(network: Network, state: dict[str, Tensor], factor: int = 1) -> bool:
    return all(torch.equal(x, state[name] * factor) for name, x in network.module.state_dict().items())


# --- checkpoints ------------------------------------------------------------------------------------------

WRAPPED: dict[str, Any] = {
    "plain": lambda s: s,
    "DataParallel": lambda s: prefixed(s, "module."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "both": lambda s: prefixed(s, "module._orig_mod."),
    "PyTorch's ImageNet example": lambda s: {
        "epoch": 3, "arch": "cnn", "state_dict": prefixed(s, "module."), "best_acc1": torch.tensor(80.0),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
    },
    "timm": lambda s: {"epoch": 3, "state_dict": s, "args": argparse.Namespace(lr=0.1), "metric": np.float64(80)},
    "DeiT": lambda s: {"model": s, "scaler": {}, "epoch": 1},
    "Lightning": lambda s: {
        "state_dict": prefixed(s, "model.") | {"loss.weight": torch.ones(3)}, "hyper_parameters": {"path": Path("x")},
        "pytorch-lightning_version": "2.0",
    },
    "half precision": lambda s: {name: x.half() if x.is_floating_point() else x for name, x in s.items()},
    "without counters": lambda s: {name: x for name, x in s.items() if not name.endswith("num_batches_tracked")},
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("file", ["model_best.pth.tar", "last.ckpt"])
def test_checkpoints_of_other_trainers(name: str, file: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(WRAPPED[name](state), tmp_path / file)
    network = build(f"{SPEC}?weights={tmp_path / file}", SMALL)
    exact = {key: x.half().float() if x.is_floating_point() else x for key, x in state.items()}
    assert same_weights(network, exact if name == "half precision" else state)
    assert network.init_from == f"initialized from {tmp_path / file}, head of 3 classes kept"


@pytest.mark.parametrize("entry", ["state_dict_ema", "model_ema"])
def test_averaged_weights_are_preferred_and_said(entry: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    averaged = prefixed(doubled(state), "module.") | {"n_averaged": torch.tensor(7)}
    torch.save({"state_dict": state, entry: averaged}, tmp_path / "w.pth")
    network = build(f"{SPEC}?weights={tmp_path / 'w.pth'}", SMALL)
    assert same_weights(network, state, 2)
    assert f"(its averaged weights, {entry})" in network.init_from


def test_averaged_weights_that_are_missing(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": state, "state_dict_ema": None, "ema": {"decay": 0.99}}, tmp_path / "w.pth")
    weights = read_weights(tmp_path / "w.pth")
    assert weights.tensors.keys() == state.keys()
    assert not weights.averaged


@pytest.mark.parametrize("file", ["w.safetensors", "w.bin", "weights"])
def test_what_a_file_is_is_decided_by_its_content(file: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / file)
    assert read_weights(tmp_path / file).tensors.keys() == state.keys()


def test_models_and_programs_are_refused_in_words(trained: Network, tmp_path: Path) -> None:
    torch.save(trained.module, tmp_path / "whole.pt")
    with pytest.raises(UnderstudyError, match=r"a pickled model, .* torch.save\(model.state_dict\(\), PATH\)"):
        read_weights(tmp_path / "whole.pt")
    program: Any = torch.jit.trace(trained.module, torch.zeros(1, 1, 8, 8), check_trace=False)
    program.save(str(tmp_path / "script.pt"))
    with pytest.raises(UnderstudyError, match="is a TorchScript program"):
        read_weights(tmp_path / "script.pt")


def test_names_are_unwrapped_only_as_far_as_they_are_the_modules() -> None:
    x = torch.zeros(1)
    assert list(unwrapped({"a.b.w": x, "a.b.v": x}, {"b.w": x, "b.v": x})) == ["b.w", "b.v"]
    assert list(unwrapped({"w": x, "a.w": x}, {"w": x, "a.w": x})) == ["w", "a.w"]
    assert list(unwrapped({"z": x}, {"w": x})) == ["z"]


def test_a_head_of_other_classes_is_answered_with_what_to_write(tmp_path: Path) -> None:
    wide = InputContract(SMALL.shape, SMALL.mean, SMALL.std, tuple("abcdefg"))
    torch.save(build(SPEC, wide).module.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UnderstudyError, match="predicts 7 classes instead of 3; with timm, write pretrained=FILE"):
        build(f"{SPEC}?weights={tmp_path / 'w.pth'}", SMALL)


def test_auxiliary_classifiers_are_left_out(tmp_path: Path) -> None:
    from torchvision.models import googlenet

    module = googlenet(num_classes=3, aux_logits=True, init_weights=False)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    contract = InputContract((3, 32, 32), (0.5,) * 3, (0.25,) * 3, NAMES)
    network = build(f"torchvision:googlenet?weights={tmp_path / 'w.pth'}", contract).train()
    assert network(torch.rand(2, 3, 32, 32)).logits.shape == (2, 3), "in training too"


# --- a teacher trained elsewhere --------------------------------------------------------------------------

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 10, "baseline": False, "accelerator": "cpu"}


@pytest.fixture
def weights(state: dict[str, Tensor], tmp_path: Path) -> Path:
    torch.save({"state_dict": state, "state_dict_ema": doubled(state)}, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def test_a_teacher_from_weights(small_images: ArraySource, weights: Path, tmp_path: Path) -> None:
    name = f"{SPEC}?weights={weights}"
    run = understudy.distill(small_images, name, "mlp:4", run=tmp_path / "run", **QUICK)
    assert any(note.startswith(f"teacher {name}: initialized from {weights} (its averaged") for note in run.facts.notes)
    assert run.record["teachers"].keys() == {str(weights)}, "a resumed run finds the same ones"


def test_a_teacher_whose_classes_are_in_another_order(
    small_images: ArraySource, weights: Path, trained: Network, tmp_path: Path
) -> None:
    (tmp_path / "classes.txt").write_text("eel\ncat\ndog\n")
    name = f"{SPEC}?weights={weights}&classes={tmp_path / 'classes.txt'}"
    x = torch.rand(4, 1, 8, 8)
    plain, ordered = build(f"{SPEC}?weights={weights}", SMALL).eval(), build(name, SMALL).eval()
    torch.testing.assert_close(ordered(x).logits, plain(x).logits[:, [1, 2, 0]])
    run = understudy.distill(small_images, name, "mlp:4", run=tmp_path / "run", **QUICK)
    assert any("its classes put into the order of the data" in note for note in run.facts.notes)
    (tmp_path / "classes.txt").write_text("eel\ncat\nfox\n")
    with pytest.raises(UnderstudyError, match="list the classes of the data"):
        build(name, SMALL)


def test_a_trained_run_whose_classes_are_in_another_order(
    small_images: ArraySource, trained: Network, tmp_path: Path
) -> None:
    teacher = build(SPEC, InputContract(SMALL.shape, SMALL.mean, SMALL.std, ("dog", "eel", "cat")))
    teacher.save(tmp_path / "w.safetensors")
    run = understudy.distill(small_images, tmp_path / "w.safetensors", "mlp:4", run=tmp_path / "run", **QUICK)
    assert any("its classes put into the order of the data" in note for note in run.facts.notes)


@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        ("cnn:4", r"write .*\?weights=FILE"),
        (f"{SPEC}?weights=nowhere.pth", "which is no file"),
        ("timm:resnet10t?pretrained=true", "could not be downloaded"),
        ("torchvision:resnet18?weights=DEFAULT", "could not be downloaded"),
    ],
)
def test_a_teacher_without_weights(
    teacher: str, says: str, small_images: ArraySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **named: object) -> None:
        raise OSError

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(UnderstudyError, match=says):
        understudy.distill(small_images, teacher, "mlp:4", run=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_lists_of_classes(tmp_path: Path) -> None:
    for name, text in (
        ("a.txt", "\ufeffcat\n\ndog\r\n"),
        ("b.json", '["cat", "dog"]'),
        ("c.json", '{"dog": 1, "cat": 0}'),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_classes(tmp_path / name) == ("cat", "dog")
    for name, text in (("d.txt", ""), ("e.txt", "cat\ncat"), ("f.json", "[1, 2]"), ("g.json", "{"), ("h.json", "3")):
        (tmp_path / name).write_text(text)
        with pytest.raises(UnderstudyError, match=r"write one a line"):
            read_classes(tmp_path / name)
    with pytest.raises(UnderstudyError, match="no file of classes"):
        read_classes(tmp_path / "none.txt")


# --- networks that cannot be trained as they are ----------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnet10t?num_classes=7", "the number of classes is that of the data"),
        ("timm:resnet10t?in_chans=1", "the number of channels is that of the data"),
        ("timm:resnet10t?features_only=true", "tapped with --student-taps"),
        ("timm:resnet10t?checkpoint_path=w.pth", "write weights=FILE"),
        ("timm:resnet10t?drop_rat=0.1", "did you mean 'drop_rate'"),
        ("torchvision:resnet18?num_classes=7", "the number of classes is that of the data"),
        ("torchvision:googlenet?aux_logits=true", "auxiliary classifiers are not trained"),
        ("cnn:4?classes=names.txt", "add weights=FILE"),
        ("cnn:4?dropout=[", "is not a single value"),
    ],
)
def test_options_that_are_not_the_users_to_set(spec: str, message: str) -> None:
    with pytest.raises(UnderstudyError, match=message):
        build(spec, SMALL)


def test_options_that_reach_the_libraries() -> None:
    network = build("timm:resnet10t?drop_rate=0.25", SMALL)
    assert [layer.p for layer in network.dropouts] == [] or network.dropouts[-1].p == 0.25
    assert network.module.drop_rate == 0.25
    assert build("torchvision:squeezenet1_1?dropout=0.25", SMALL).dropouts[0].p == 0.25


def test_images_too_small_for_a_network(small_images: ArraySource, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=r"cannot take images of 3x8x8 .* choose another size with --input-size"):
        understudy.train(small_images, "torchvision:inception_v3", run=tmp_path / "run", epochs=1, batch_size=10)
    assert build("torchvision:inception_v3", SMALL).accepts_size(75)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.flatten(1)


def test_modules_that_do_not_output_logits() -> None:
    with pytest.raises(UnderstudyError, match="outputs a tuple instead of logits"):
        Network(Pair(), SMALL).check()
    with pytest.raises(UnderstudyError, match="outputs a tensor of 4 dimensions instead of logits"):
        Network(nn.Identity(), SMALL).check()
    with pytest.raises(UnderstudyError, match="64 outputs for 3 classes"):
        Network(nn.Flatten(), SMALL).check()


def test_contrast_of_embeddings_needs_no_layers_to_tap(small_images: ArraySource, tmp_path: Path) -> None:
    build("cnn:4", SMALL).save(tmp_path / "w.safetensors")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    assert not Network(flat, SMALL).shapes().features
    run = understudy.distill(
        small_images, tmp_path / "w.safetensors", flat, method="crd+kd", run=tmp_path / "run", **QUICK
    )
    assert run.finished
    with pytest.raises(UnderstudyError, match="fitnet"):
        understudy.distill(small_images, tmp_path / "w.safetensors", flat, method="fitnet", run=tmp_path / "b", **QUICK)


# --- downloads --------------------------------------------------------------------------------------------


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("answer", ["silence", "refusal"])
def test_a_server_that_cannot_be_reached_is_said_within_seconds(
    answer: str, silent_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    endpoint = silent_server if answer == "silence" else "http://127.0.0.1:9"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("understudy.models.downloads._SECONDS", 1)
    before = time.monotonic()
    with pytest.raises(UnderstudyError, match=r"run hf download timm/resnet10t\.c3_in1k, and load the file as"):
        build("timm:resnet10t?pretrained=true", SMALL)
    assert time.monotonic() - before < 4


def test_a_download_of_before_needs_no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import timm

    state = timm.create_model("resnet10t").state_dict()
    save_file(state, tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **o: str(tmp_path / "model.safetensors"))
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **o: pytest.fail("nothing is asked for"))
    network = build("timm:resnet10t?pretrained=true", SMALL)
    assert torch.equal(network.module.get_parameter("layer1.0.conv1.weight"), state["layer1.0.conv1.weight"])


def test_a_network_that_was_saved_is_loaded_again(trained: Network, tmp_path: Path) -> None:
    trained.save(tmp_path / "w.safetensors")
    assert same_weights(load_network(tmp_path / "w.safetensors"), trained.module.state_dict())


def test_a_run_is_compared_with_a_teacher_from_weights(
    small_images: ArraySource, weights: Path, trained: Network, tmp_path: Path
) -> None:
    trained.save(tmp_path / "w.safetensors")
    facts = understudy.evaluate(
        tmp_path / "w.safetensors", small_images, teacher=[f"{SPEC}?weights={weights}"], split="train"
    )
    assert facts.rows[0].role == "teacher"
    assert facts.rows[-1].mean("accuracy") == pytest.approx(trained_accuracy(trained, small_images))


def trained_accuracy(network: Network, source: ArraySource) -> float:
    assert source.targets is not None
    predicted = network(source.inputs / 255).logits.argmax(1)
    return float((predicted == source.targets).double().mean())
