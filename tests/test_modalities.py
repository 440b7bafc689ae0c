"""Modalities: image aspects, pairs matched by name, and networks that keep the modality they were trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import understudy
from understudy.cli.app import main
from understudy.data import ArraySource, RecordSource, open_source
from understudy.data.augment import Augmentation
from understudy.data.loader import BatchLoader, in_order
from understudy.data.views import Views
from understudy.errors import UnderstudyError
from understudy.evaluation import flops, latency
from understudy.models import InputContract, build, fold, load_network, select_modality
from understudy.models.contract import to_aspect, to_lab
from understudy.pipeline.modality import contract_of, modalities_of
from understudy.runs.run import Run

CPU = torch.device("cpu")


def color(*rgb: float) -> Tensor:
    return torch.tensor(rgb).view(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # published values of sRGB under D65
        ((1, 1, 1), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_of_known_colors(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    assert to_lab(color(*rgb)).flatten().tolist() == pytest.approx(lab, abs=0.03)
    light, chroma = (to_aspect(color(*rgb), name) for name in ("luminance", "chrominance"))
    assert light.item() == pytest.approx(lab[0] / 100, abs=1e-3)
    assert chroma.flatten().tolist() == pytest.approx([(v + 128) / 256 for v in lab[1:]], abs=1e-3)


def test_aspects_stay_in_range_and_gray_has_no_color() -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for name, channels in (("rgb", 3), ("gray", 1), ("luminance", 1), ("chrominance", 2)):
        found = to_aspect(images, name)
        assert found.shape == (4, channels, 8, 8)
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
    gray = torch.rand(2, 1, 4, 4)
    assert torch.allclose(to_aspect(gray.expand(-1, 3, -1, -1), "chrominance"), torch.tensor(0.5), atol=1e-5)
    with pytest.raises(UnderstudyError, match="no chrominance"):
        to_aspect(gray, "chrominance")
    with pytest.raises(UnderstudyError, match="only image, depth"):
        select_modality({"image": images, "depth": gray}, "sound")


@pytest.mark.parametrize("spec", ["mlp:8x1", "cnn:4-8", "cifar:resnet8", "timm:resnet18", "torchvision:resnet18"])
@pytest.mark.parametrize("modality", ["luminance", "chrominance"])
def test_any_net_reads_a_modality(spec: str, modality: str, tmp_path: Path) -> None:
    channels = 1 if modality == "luminance" else 2
    contract = InputContract((channels, 16, 16), (0.5,) * channels, (0.2,) * channels, ("a", "b"), modality=modality)
    network = build(spec, contract).eval()
    images = torch.rand(2, 3, 16, 16)
    network.save(tmp_path / "net.safetensors")
    again = load_network(tmp_path / "net.safetensors").eval()
    assert again.contract == network.contract
    assert torch.equal(again(images).logits, network(images).logits)
    assert torch.allclose(fold(network)(images).logits, network(images).logits, atol=1e-4)
    assert flops(network) > 0
    if spec == "cnn:4-8":
        assert latency(network, 3)[0] > 0
        assert network.shapes().classes == 2


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/ and maps/ of the same samples, two classes; unlabeled/ ones; tables of the pairs."""
    rng = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    rows = ["path,depth,label"]
    for index in range(40):
        kind = ("dim", "bright")[index % 2]
        photo, depth = Path("photos", kind, f"{index}.png"), Path("maps", kind, f"{index}.jpg")
        for file in (photo, depth, Path("unlabeled", f"{index}.png")):
            file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (12, 12, 3)) + 120 * (index % 2)
        for file in (photo, Path("unlabeled", f"{index}.png")):
            Image.fromarray(pixels.astype(np.uint8)).save(file)
        Image.fromarray(pixels[..., 0].astype(np.uint8)).save(depth, quality=95)
        rows.append(f"{photo},{depth},{kind}")
    Path("pairs.csv").write_text("\n".join(rows))
    return tmp_path


def both(inputs: Tensor | Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    assert isinstance(inputs, Mapping)
    return inputs["image"], inputs["depth"]


@pytest.mark.parametrize(("data", "pair"), [("photos", "maps"), ("pairs.csv", "pairs.csv")])
@pytest.mark.parametrize("size", [None, 8])
def test_pairs_share_their_views(
    folders: Path, data: str, pair: str, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if size is not None:
        monkeypatch.setattr("understudy.data.formats.build.MAX_ARRAY_BYTES", 0)  # too large for arrays
    source = open_source(data, pairs={"depth": pair}, size=size).train
    assert isinstance(source, ArraySource if size is None else RecordSource)
    assert modalities_of(source) == ("rgb", "gray", "luminance", "chrominance", "image", "depth")
    plan = Augmentation(translate=2, flip=True, crop_scale=1.0 if size is None else 0.5)
    for batch in BatchLoader(source, Views(plan), 8, 0, CPU).epoch(0):
        image, depth = both(batch.inputs)
        assert depth.shape[1] == 1
        assert float((image[:, :1] - depth).abs().mean()) < 0.05, "depth is the red channel, in the same view"
    assert len(source.subset(torch.tensor([3, 1])).pairs["depth"]) == 2


def test_unmatched_pairs(folders: Path) -> None:
    Path("maps/bright/7.jpg").unlink()
    with pytest.raises(UnderstudyError, match=r"1 of the 40 samples of photos have no depth .*e.g. 'bright/7'"):
        open_source("photos", pairs={"depth": "maps"})
    with pytest.raises(UnderstudyError, match="cannot be named gray"):
        open_source("photos", pairs={"gray": "maps"})
    with pytest.raises(UnderstudyError, match="no folder or file nowhere"):
        open_source("photos", pairs={"depth": "nowhere"})
    with pytest.raises(UnderstudyError, match="but not 'heat'"):
        open_source("pairs.csv", pairs={"heat": "pairs.csv"})
    with pytest.raises(UnderstudyError, match="needs a folder, zip or table, and digits is not one"):
        open_source("digits", pairs={"depth": "maps"})


def test_a_sample_with_an_unreadable_pair_is_skipped(folders: Path) -> None:
    Path("maps/dim/0.jpg").write_bytes(b"")
    splits = open_source("photos", pairs={"depth": "maps"})
    assert splits.test is not None
    assert len(splits.train) + len(splits.test) == 39
    assert [reason for _, reason in splits.train.skipped + splits.test.skipped] == ["empty file"]


def test_statistics_are_of_the_modality(folders: Path) -> None:
    for size in (None, 12):
        source = open_source("photos", pairs={"depth": "maps"}, size=size).train
        (batch,) = in_order(source, 100, CPU)
        for name in ("luminance", "chrominance", "depth"):
            contract, x = contract_of(source, name), select_modality(batch.inputs, name)
            assert contract.mean == pytest.approx(x.mean((0, 2, 3)).tolist(), abs=1e-5)
            assert contract.std == pytest.approx(x.std((0, 2, 3), correction=0).tolist(), abs=1e-4)
    with pytest.raises(
        UnderstudyError, match=r"has no modality 'sound', only rgb, gray, luminance, chrominance, image, depth"
    ):
        contract_of(source, "sound")


FEW = ("--epochs", "1", "--batch-size", "8", "--workers", "0", "--precision", "32")


def test_luminance_teaches_chrominance(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "photos", "--model", "cnn:4", "--modality", "luminance", "--run", "t", *FEW]) == 0
    line = ["distill", "photos", "--teacher", "t", "--student", "cnn:4", "--student-modality", "chrominance"]
    assert main([*line, "--teacher-modality", "luminance", "--method", "crd", "--run", "s", *FEW]) == 0
    assert Run(Path("s")).network("distilled-0").contract.modality == "chrominance"
    assert main(["evaluate", "s", "photos", "--teacher", "t"]) == 0
    assert main(["predict", "s", "photos/dim/0.png"]) == 0
    capsys.readouterr()
    assert main([*line, "--teacher-modality", "rgb", "--run", "x", *FEW]) == 2
    assert "was trained on luminance and cannot read rgb" in capsys.readouterr().err
    assert main(["train", "photos", "--model", "cnn:4", "--modality", "depth", "--run", "y", *FEW]) == 2
    assert "photos has no modality 'depth'" in capsys.readouterr().err


def test_a_student_without_labels_then_a_head(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "photos", "--model", "cnn:4", "--run", "t", *FEW]) == 0
    line = ["--teacher", "t", "--student", "cnn:4-8", "--student-modality", "luminance", "--method", "crd"]
    assert main(["distill", "unlabeled", *line, "--hard-weight", "0", "--run", "s", *FEW]) == 0
    assert "head of distilled-0 was not trained" in " ".join(capsys.readouterr().out.split())
    facts = json.loads(Path("s/evaluation.json").read_text())
    assert not facts["rows"]
    assert main(["distill", "photos", *line, "--hard-weight", "0", "--run", "s2", *FEW]) == 0
    roles = [row["role"] for row in json.loads(Path("s2/evaluation.json").read_text())["rows"]]
    assert roles == ["teacher", "alone"], "an untrained head claims nothing"
    capsys.readouterr()
    before = Run(Path("s")).network("distilled-0").state_dict()
    assert main(["train", "photos", "--model", "s", "--freeze", "--run", "probe", *FEW]) == 0
    assert "head of 2 classes kept" in " ".join(capsys.readouterr().out.split())
    after = Run(Path("probe")).network("model-0").state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == list(before)[-2:]
    assert main(["train", "digits", "--model", "s", "--run", "other", *FEW[:2]]) == 0
    assert "a new head of 10 classes" in " ".join(capsys.readouterr().out.split())


def test_audio_and_image_through_the_same_contract(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(32) % 2
    audio = torch.randn(32, 1, 10, 20, generator=generator) + targets.view(-1, 1, 1, 1)
    image = torch.rand(32, 3, 8, 8, generator=generator)
    data = {"audio": audio, "image": image, "targets": targets}
    few = {"epochs": 1, "batch_size": 8, "precision": "32"}
    teacher = understudy.train(data, "cnn:4", modality="image", run=tmp_path / "t", **few)
    run = understudy.distill(
        data,
        teacher.path,
        "cnn:4",
        teacher_modality="image",
        student_modality="audio",
        method="crd",
        run=tmp_path / "s",
        **few,
    )
    assert run.network("distilled-0").contract.shape == (1, 10, 20)
    with pytest.raises(UnderstudyError, match="32 samples of audio but 31 of image"):
        open_source({"audio": audio, "image": image[1:]})
    with pytest.raises(UnderstudyError, match="cannot share an augmentation"):
        understudy.train(data, "cnn:4", modality="audio", flip=True, run=tmp_path / "x", **few)


def test_nyu_depth(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed; pip install 'understudy[nyu]'")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (20, 3, 16, 12), np.uint8)  # width before height, as MATLAB writes
    depths = rng.random((20, 16, 12), np.float32) * 10
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w") as file:
        file["images"], file["depths"] = images, depths
        for key in ("sceneTypes", "scenes"):
            cells = file.create_dataset(key, (1, 20), h5py.ref_dtype)
            for i in range(20):
                word = ("kitchen", "office")[i % 2] + (f"_{i // 4}" if key == "scenes" else "")
                file[f"{key}-{i}"] = np.array([[ord(c)] for c in word], np.uint16)
                cells[0, i] = file[f"{key}-{i}"].ref
    splits = open_source(path, size=12)
    assert splits.train.classes == ("kitchen", "office")
    assert isinstance(splits.train, ArraySource)
    depth = splits.train.pairs["depth"]
    assert isinstance(depth, ArraySource)
    row, i = 0, int(splits.train.ids[0])
    assert np.array_equal(splits.train.inputs[row].numpy(), images[i].transpose(0, 2, 1)[:, :, 2:14])
    assert np.allclose(depth.inputs[row, 0].numpy(), depths[i].T[:, 2:14], atol=1e-5)
    if splits.test is not None:
        scenes = [{(j % 2, j // 4) for j in part.ids.tolist()} for part in (splits.train, splits.test)]
        assert not scenes[0] & scenes[1], "a room is in one split only"
    path.write_bytes(b"no HDF5")
    with pytest.raises(UnderstudyError, match="not a complete HDF5 file"):
        open_source(path)
