"""NYU-Depth's experiment on a small file of the real format, run to the end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from understudy.cli.app import main
from understudy.data import open_source
from understudy.errors import UnderstudyError
from understudy.models import InputContract, build
from understudy.papers import crd_nyu
from understudy.papers.crd_nyu import _labels, _positions
from understudy.runs.run import Run

ROOMS, FRAMES, WIDTH, HEIGHT = 16, 6, 40, 32


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two types of rooms. The left and the right half of a frame differ in color, depth and label."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed; pip install 'understudy[nyu]'")
    rng, count = np.random.default_rng(0), ROOMS * FRAMES
    path = tmp_path_factory.mktemp("nyu") / "nyu_depth_v2_labeled.mat"
    kinds = np.arange(count) // FRAMES % 2
    right = np.arange(WIDTH)[None, :, None] >= rng.integers(14, 27, count)[:, None, None]  # where the halves meet
    right = np.broadcast_to(right, (count, WIDTH, HEIGHT))
    depths = 2 + 4 * right + 2 * kinds[:, None, None] + rng.normal(0, 0.3, right.shape)
    colors = np.stack([60 + 120 * right, 60 + 100 * kinds[:, None, None] + 0 * right, 200 - 100 * right], 1)
    labels = np.where(right, 7, 300)
    labels[:, :, :2] = 0
    with h5py.File(path, "w") as store:
        store["images"] = (colors + rng.integers(0, 40, colors.shape)).clip(0, 255).astype(np.uint8)
        store["depths"], store["labels"] = depths.astype(np.float32), labels.astype(np.uint16)
        for key in ("sceneTypes", "scenes"):
            cells = store.create_dataset(key, (1, count), h5py.ref_dtype)
            for i in range(count):
                word = ("kitchen", "office")[kinds[i]] + (f"_{i // FRAMES}" if key == "scenes" else "")
                store[f"{key}-{i}"] = np.array([[ord(c)] for c in word], np.uint16)
                cells[0, i] = store[f"{key}-{i}"].ref
    return path


def test_the_labels_are_those_of_the_positions(file: Path) -> None:
    labels, train = _labels(file), open_source(file, size=16).train
    assert labels.shape == (ROOMS * FRAMES, HEIGHT, HEIGHT)
    contract = InputContract((1, 16, 16), (4.0,), (3.0,), train.classes, modality="depth")
    found = _positions(build("cifar:resnet8", contract), train, labels, {7: 0, 300: 1})
    assert found.by_network["maps"].shape == (len(found.targets), 64)
    cells = labels[train.ids.numpy()][:, 4::8, 4::8]  # maps of 4x4
    assert torch.equal(found.targets, torch.from_numpy((cells == 300).astype(np.int64)).flatten())
    assert set(found.targets.tolist()) == {0, 1}


def test_positions_without_a_label_are_left_out_and_many_are_thinned(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, train = _labels(file), open_source(file, size=16).train
    network = build("cifar:resnet8", InputContract((1, 16, 16), (4.0,), (3.0,), train.classes, modality="depth"))
    only = _positions(network, train, labels, {7: 0})
    assert len(only.targets) == (labels[train.ids.numpy()][:, 4::8, 4::8] == 7).sum()
    monkeypatch.setattr(crd_nyu, "_POSITIONS", 100)
    assert 50 < len(_positions(network, train, labels, {7: 0}).targets) <= 100


def test_color_teaches_depth(file: Path, tmp_path: Path) -> None:
    words = ["--quick", "--epochs", "2", "--seeds", "1", "--pair", "resnet8:resnet8", "--size", "16"]
    assert main(["reproduce", "crd-nyu", "--data", str(file), "--run", str(tmp_path), *words]) == 0
    results = json.loads((tmp_path / "results-quick.json").read_text())
    here = {line["net"]: line["positions classified correctly"]["mean"] for line in results["lines"]}
    assert list(here) == [
        "teacher", "student, trained on scenes", "student, kd", "student, at", "student, fitnet", "student, crd",
        "student, random weights",
    ]  # fmt: skip
    assert all(60 < value <= 100 for value in here.values()), "the halves can be told apart by their depth"
    assert results["notes"][2] == "1 seed, 2 epochs of the paper's 240."
    run = Run(tmp_path / "resnet8-resnet8-unlabeled-quick")
    assert run.network("distilled-at-0").contract.modality == "depth"
    assert run.network("distilled-at-0").contract.shape == (1, 16, 16)


def test_a_file_without_labels(tmp_path: Path, file: Path) -> None:
    import h5py

    with h5py.File(file) as store, h5py.File(tmp_path / "nyu.mat", "w") as other:
        for key in ("images", "depths"):
            store.copy(key, other)
    with pytest.raises(UnderstudyError, match="has no labels of pixels"):
        _labels(tmp_path / "nyu.mat")
