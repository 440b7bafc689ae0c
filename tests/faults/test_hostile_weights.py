"""Weights files that others made to harm, or that were damaged: refused in a sentence, and nothing in them is run."""

from __future__ import annotations

import io
import json
import os
import pathlib
import pickle
import runpy
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

import understudy
from understudy.errors import UnderstudyError
from understudy.models import InputContract, build, load_network, read_weights

CONTRACT = InputContract((1, 4, 4), (0.5,), (0.25,), ("a", "b"))
MARK = "ran"  # what a payload makes, in the working directory

SLOW = pytest.mark.campaign


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "harmful.py").write_text(f"open({MARK!r}, 'w').close()\ndef make(**options): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    assert not Path(MARK).exists()


def refused(attempt: Callable[[], object]) -> str:
    with pytest.raises(UnderstudyError) as caught:
        attempt()
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- pickles ----------------------------------------------------------------------------------------------


class Payload:
    """Unpickled, it calls a function."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


PAYLOADS = {
    "exec": Payload(exec, f"open({MARK!r}, 'w')"),
    "eval": Payload(eval, f"open({MARK!r}, 'w')"),
    "open": Payload(io.open, MARK, "w"),
    "system": Payload(os.system, f"touch {MARK}"),
    "subprocess": Payload(subprocess.check_call, ["touch", MARK]),
    "touch": Payload(pathlib.Path.touch, pathlib.Path(MARK)),
    "copy": Payload(shutil.copy, "harmful.py", MARK),
    "runpy": Payload(runpy.run_path, "harmful.py"),
    "import": Payload(getattr, Payload(__import__, "harmful"), "make"),
    "nested": Payload(exec, Payload(str, f"open({MARK!r}, 'w')")),
}
TENSORS = {"weight": torch.zeros(2)}
PLACES: dict[str, Callable[[Payload], object]] = {
    "all": lambda payload: payload,
    "a tensor": lambda payload: TENSORS | {"bias": payload},
    "state_dict": lambda payload: {"state_dict": payload},
    "deep": lambda payload: {"model": {"module": TENSORS | {"bias": [{"x": payload}]}}},
}


def written(content: object, way: str) -> Path:
    path = Path("w.pth")
    if way == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "zip")
    return path


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_payloads_do_harm_where_they_are_unpickled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "harmful", raising=False)
    result = pickle.loads(pickle.dumps(PAYLOADS[name]))
    getattr(result, "close", lambda: None)()
    monkeypatch.delitem(sys.modules, "harmful", raising=False)
    Path(MARK).unlink()


@pytest.mark.parametrize("way", ["zip", pytest.param("legacy", marks=SLOW), pytest.param("pickle", marks=SLOW)])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", PAYLOADS)
def test_code_in_a_pickle(name: str, place: str, way: str) -> None:
    path = written(PLACES[place](PAYLOADS[name]), way)
    assert "never run" in refused(lambda: read_weights(path))
    assert "never run" in refused(lambda: build(f"mlp:8?weights={path}", CONTRACT))


@pytest.mark.parametrize("name", PAYLOADS)
def test_code_beside_the_weights_is_not_restored(name: str) -> None:
    """Training checkpoints hold objects of all kinds; the tensors are read without them."""
    path = written({"state_dict": TENSORS, "args": PAYLOADS[name], "optimizer": {"state": [PAYLOADS[name]]}}, "zip")
    if name in ("system", "touch"):  # names that PyTorch's reader blocks altogether
        assert "never run" in refused(lambda: read_weights(path))
    else:
        assert read_weights(path).tensors.keys() == {"weight"}


# --- damaged files ----------------------------------------------------------------------------------------


def network_file() -> bytes:
    build("mlp:3", CONTRACT).save(Path("whole.safetensors"))
    return Path("whole.safetensors").read_bytes()


def lying(header: object, data: bytes = bytes(64)) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "one byte": lambda whole: whole[:1],
    "cut in the header": lambda whole: whole[:40],
    "cut in the data": lambda whole: whole[:-1],
    "longer": lambda whole: whole + b"x",
    "zeros": lambda whole: bytes(len(whole)),
    "header of 2**60 bytes": lambda whole: struct.pack("<Q", 2**60) + whole[8:],
    "header that is no JSON": lambda whole: whole[:9] + b"\xff" * 20 + whole[29:],
    "header that is a list": lambda whole: lying([1, 2]),
    "offsets beyond the end": lambda whole: lying({"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 999]}}),
    "shape of 10**12": lambda whole: lying({"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 64]}}),
    "negative shape": lambda whole: lying({"x": {"dtype": "F32", "shape": [-16], "data_offsets": [0, 64]}}),
    "unknown type": lambda whole: lying({"x": {"dtype": "OBJ", "shape": [16], "data_offsets": [0, 64]}}),
    "a web page": lambda whole: b"<!DOCTYPE html><html>404</html>",
    "a cut zip": lambda whole: b"PK\x03\x04" + whole[:50],
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file(name: str, suffix: str) -> None:
    path = Path("w").with_suffix(suffix)
    path.write_bytes(DAMAGED[name](network_file()))
    assert str(path) in refused(lambda: load_network(path))


def test_what_is_no_file() -> None:
    Path("folder.pth").mkdir()
    assert "cannot be read" in refused(lambda: read_weights(Path("folder.pth")))
    assert "no weights file" in refused(lambda: read_weights(Path("none.pth")))


# --- metadata ---------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "shape": [1, 4, 4], "mean": [0.5], "std": [0.25], "classes": ["a", "b"], "interpolation": "bicubic", "modality": "",
    "crop_mode": "center",
}  # fmt: skip
METADATA: dict[str, str] = {
    "empty": "",
    "cut": '{"spec": "mlp:3", "contr',
    "a list": "[]",
    "null": "null",
    "nested deeply": "[" * 50_000,
    "no contract": json.dumps({"spec": "mlp:3"}),
    "no spec": json.dumps({"contract": GOOD}),
    "spec that is a number": json.dumps({"spec": 3, "contract": GOOD}),
    "contract that is a list": json.dumps({"spec": "mlp:3", "contract": [1]}),
    "a field more": json.dumps({"spec": "mlp:3", "contract": GOOD, "load": "harmful.py"}),
} | {
    f"{key}: {value!r}": json.dumps({"spec": "mlp:3", "contract": GOOD | {key: value}})
    for key, value in (
        ("shape", []), ("shape", [1, 4]), ("shape", ["1", 4, 4]), ("shape", [-1, 4, 4]), ("shape", 16),
        ("mean", []), ("mean", [0.5, 0.5]), ("mean", [float("nan")]), ("mean", "half"), ("mean", [None]),
        ("std", [0.0]), ("std", [-1.0]), ("std", [float("inf")]),
        ("classes", "ab"), ("classes", ["a", 2]), ("classes", ["a", "a"]),
        ("interpolation", "os.system"), ("crop_mode", None), ("modality", 3), ("fit", "center"),
    )
}  # fmt: skip


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_is_not_ours(name: str) -> None:
    state = build("mlp:3", CONTRACT).state_dict()
    save_file(state, "w.safetensors", {"understudy": METADATA[name]})
    assert "its metadata is damaged" in refused(lambda: load_network(Path("w.safetensors")))


SPECS = [
    "timm:resnet10t?checkpoint_path=evil.pth",
    "timm:resnet10t?pretrained_cfg=evil.pth",
    "timm:resnet10t?pretrained_cfg_overlay=evil.pth",
    "timm:resnet10t?cache_dir=evil.pth",
    "timm:resnet10t?drop_rate={file: evil.pth}",
    "timm:resnet10t?act_layer=../evil.pth",
    "timm:resnet10t?act_layer=harmful.make",
    "timm:resnet10t?weights =evil.pth",
    "timm:resnet10t?drop_rate=!!python/object/apply:os.system [touch ran]",
    "timm:local-dir:evil",
    "timm:hf-hub:some/evil",
    "timm:../evil",
    "torchvision:resnet18?progress=evil.pth",
    "torchvision:resnet18?weights_backbone=evil.pth",
    "torchvision:../evil",
    "bit:evil.npz",
    "harmful:make",
    "os:system?command=touch",
    "runpy:run_path?path_name=harmful.py",
    "mlp:65536x40",
    "mlp:3?dropout=evil",
    "cnn:99999-99999",
    "cifar:../evil",
    "timm:vit_tiny_patch16_224?img_size=60000",
    "timm:vit_tiny_patch16_224?img_size=1e9",
    "runs/evil",
    "?weights=evil.pth",
    "a\nb:c",
]


@pytest.mark.parametrize("spec", SPECS)
def test_a_model_name_that_smuggles(spec: str) -> None:
    torch.save(PAYLOADS["exec"], "evil.pth")
    np.savez("evil.npz", x=np.array([PAYLOADS["exec"]], dtype=object))
    state = build("mlp:3", CONTRACT).state_dict()
    metadata = {"spec": spec, "contract": GOOD}
    save_file(state, "w.safetensors", {"understudy": json.dumps(metadata)})
    refused(lambda: load_network(Path("w.safetensors")))


@pytest.mark.parametrize("option", ["weights=evil.pth", "pretrained=evil.pth", "classes=evil.pth&weights=evil.pth"])
def test_files_that_a_file_names_are_not_opened(option: str) -> None:
    torch.save(PAYLOADS["exec"], "evil.pth")
    network = build("cnn:2", CONTRACT)
    network.spec = f"cnn:2?{option}"
    network.save(Path("w.safetensors"))
    assert load_network(Path("w.safetensors")).classes == CONTRACT.classes
    refused(lambda: build(f"timm:resnet10t?{option}", CONTRACT))


# --- values -----------------------------------------------------------------------------------------------

VALUES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "nan": (lambda x: x.index_fill(0, torch.tensor([0]), float("nan")), "NaN or infinite"),
    "infinite": (lambda x: x / 0, "NaN or infinite"),
    "integers": (lambda x: x.long(), "is int64 instead of float32"),
    "complex": (lambda x: x.to(torch.complex64), "complex64"),
    "8 bits": (lambda x: x.to(torch.float8_e4m3fn), "float8_e4m3fn"),
    "transposed": (lambda x: x.flatten()[:3], "instead of"),
    "a number": (lambda x: x.sum(), "instead of"),
    "sparse": (lambda x: x.to_sparse(), "sparse"),
    "without values": (lambda x: x.to("meta"), "meta"),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_that_are_no_weights(name: str) -> None:
    change, said = VALUES[name]
    state = build("mlp:3", CONTRACT).module.state_dict()
    state["1.weight"] = change(state["1.weight"])
    torch.save(state, "w.pth")
    assert said in refused(lambda: build("mlp:3?weights=w.pth", CONTRACT))


@pytest.mark.parametrize(
    "bias", [torch.zeros(3), torch.zeros(2, 2), torch.full((2,), float("nan")), torch.ones(2).long()]
)
def test_a_class_bias_that_does_not_fit(bias: torch.Tensor) -> None:
    network = build("mlp:3", CONTRACT)
    metadata = {"understudy": json.dumps({"spec": "mlp:3", "contract": GOOD})}
    Path("w.safetensors").write_bytes(save(network.state_dict() | {"class_bias": bias}, metadata))
    assert "class_bias" in refused(lambda: load_network(Path("w.safetensors")))


def test_nothing_is_predicted_with_weights_that_are_nan() -> None:
    network = build("mlp:3", CONTRACT)
    for x in network.parameters():
        x.data.fill_(float("nan"))
    network.save(Path("w.safetensors"))
    Image.new("L", (4, 4)).save("a.png")
    assert "NaN" in refused(lambda: understudy.predict("w.safetensors", ["a.png"]))
