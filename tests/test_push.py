"""Networks in timm's layout: timm loads what is pushed, and Understudy what timm has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data.config import resolve_model_data_config

import understudy
from understudy.cli.app import main
from understudy.errors import UnderstudyError
from understudy.models import build, load_network
from understudy.models.contract import InputContract
from understudy.runs.run import Run

SPEC = "timm:test_resnet?drop_rate=0.1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "net"
    return understudy.train(
        "digits", SPEC, run=folder, steps=3, precision="32", threads=1, class_bias=["3=+1.5"], batch_size=16
    )


def test_timm_loads_the_folder(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net"
    assert main(["push", str(run.path), "me/digits", "--out", str(out), "--license", "mit"]) == 0
    assert f"local-dir:{out}" in capsys.readouterr().out
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    model: Any = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    network = run.network("model-0").eval()
    x = torch.rand(4, *network.contract.shape)
    with torch.inference_mode():
        found = model((x - network.mean) / network.std)
        wanted = network(x).logits
    assert torch.allclose(found, wanted, atol=1e-4)
    cfg = resolve_model_data_config(model)
    assert cfg["mean"] == pytest.approx(network.contract.mean)
    assert tuple(cfg["input_size"]) == network.contract.shape
    assert list(model.pretrained_cfg["label_names"]) == list("0123456789")
    card = (out / "README.md").read_text()
    assert "hf-hub:me/digits" in card
    assert "license: mit" in card
    assert "Test accuracy" in card or "test accuracy" in card


def test_only_models_of_timm_have_its_layout(tmp_path: Path) -> None:
    network = build("cnn:4", InputContract((1, 8, 8), (0.5,), (0.25,), ("a", "b")))
    network.save(tmp_path / "net.safetensors")
    with pytest.raises(UnderstudyError, match="cnn:4 is not a model of timm"):
        understudy.push(tmp_path / "net.safetensors", "me/net", out=tmp_path / "out")
    with pytest.raises(UnderstudyError, match="write USER/NAME"):
        understudy.push(tmp_path / "net.safetensors", "net")


def test_uploading_without_a_token_says_what_to_do(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    uploaded = []

    def refuse(*words: Any, **options: Any) -> None:
        raise OSError("401")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(UnderstudyError, match="hf auth login"):
        understudy.push(run.path, "me/net")
    monkeypatch.setattr(HfApi, "create_repo", lambda *words, **options: "https://hub/me/net")
    monkeypatch.setattr(
        HfApi, "upload_folder",
        lambda *words, folder_path, **options: uploaded.extend(sorted(file.name for file in folder_path.iterdir())),
    )  # fmt: skip
    assert understudy.push(run.path, "me/net").url == "https://hub/me/net"
    assert uploaded == ["README.md", "config.json", "model.safetensors"]


def test_a_model_of_the_hub_is_a_backbone(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "hub"
    understudy.push(run.path, "me/digits", out=out)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, name, revision=None: str(out / name))
    ours = run.network("model-0").eval()
    network = build("hf-hub:me/digits", ours.contract).eval()
    x = torch.rand(4, *ours.contract.shape)
    with torch.inference_mode():
        assert torch.allclose(network(x).logits, ours(x).logits, atol=1e-4)
    other = build("hf-hub:me/digits", InputContract((1, 8, 8), (0.5,), (0.25,), ("a", "b")))
    assert other.contract.mean == pytest.approx(ours.contract.mean)
    other.save(tmp_path / "again.safetensors")
    assert load_network(tmp_path / "again.safetensors").spec.startswith("timm:test_resnet")
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "architecture"}))
    with pytest.raises(UnderstudyError, match="not in timm's layout"):
        build("hf-hub:me/digits", ours.contract)


def test_names_as_the_hub_has_them() -> None:
    contract = InputContract((3, 32, 32), (0.5,) * 3, (0.25,) * 3, ("a", "b"))
    assert type(build("timm/test_resnet", contract).module) is type(build("timm:test_resnet", contract).module)
