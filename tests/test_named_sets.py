"""The table of named sets, on small stand-ins and, where $UNDERSTUDY_DATA has them, on the real ones."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from understudy.data import NAMED, ArraySource, RecordSource, open_source
from understudy.data.named import read_idx
from understudy.errors import UnderstudyError

DATA = os.environ.get("UNDERSTUDY_DATA", "")


def real(relative: str) -> pytest.MarkDecorator:
    there = bool(DATA) and (Path(DATA) / relative).exists()
    return pytest.mark.skipif(not there, reason=f"$UNDERSTUDY_DATA has no {relative}")


def write_idx(path: Path, values: np.ndarray, *, packed: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = struct.pack(f">BBBB{values.ndim}i", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


def family(raw: Path, stem: str = "", test: str = "t10k", *, first: int = 0, packed: bool = False) -> np.ndarray:
    images = np.random.default_rng(1).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    for part in ("train", test):
        write_idx(raw / f"{stem}{part}-images-idx3-ubyte", images, packed=packed)
        labels = np.arange(first, first + 6, dtype=np.uint8)
        write_idx(raw / f"{stem}{part}-labels-idx1-ubyte", labels, packed=packed)
    return images


def test_the_table_agrees_with_torchvision() -> None:
    assert sum(named.classes > 1 for named in NAMED.values()) >= 20
    for name, named in NAMED.items():
        assert named.about
        assert name == "digits" or hasattr(datasets, named.kind)
        assert len(named.names) in (0, named.classes)
        assert len(set(named.names)) == len(named.names)


def test_where_a_set_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnderstudyError) as caught:
        open_source("mnist", root=tmp_path)
    text = str(caught.value)
    assert all(word in text for word in (str(tmp_path), "MNIST/raw", "--download", "--data-root"))
    for name in NAMED.keys() - {"digits"}:
        with pytest.raises(UnderstudyError, match="--download"):
            open_source(name, root=tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("UNDERSTUDY_DATA", str(tmp_path))
    family(tmp_path / "mnist/MNIST/raw", packed=True)
    assert len(open_source("MNIST").train) == 6


@pytest.mark.parametrize("packed", [False, True])
def test_the_mnist_family(tmp_path: Path, packed: bool) -> None:
    images = family(tmp_path / "FashionMNIST/raw", packed=packed)
    splits = open_source("fashion-mnist", root=tmp_path)
    assert isinstance(splits.train, ArraySource)
    assert splits.train.classes[0] == "T-shirt/top"
    assert np.array_equal(splits.train.inputs[:, 0].numpy(), images)
    assert splits.test is not None
    assert not set(splits.test.ids.tolist()) & set(splits.train.ids.tolist())
    (tmp_path / "FashionMNIST/raw" / ("t10k-labels-idx1-ubyte" + ".gz" * packed)).unlink()
    with pytest.raises(UnderstudyError, match=r"lacks t10k-labels-idx1-ubyte .*--download"):
        open_source("fashion-mnist", root=tmp_path)


def test_emnist_stands_upright_and_its_letters_begin_at_zero(tmp_path: Path) -> None:
    images = family(tmp_path / "EMNIST/raw", "emnist-letters-", "test", first=1)
    train = open_source("emnist-letters", root=tmp_path).train
    assert isinstance(train, ArraySource)
    assert np.array_equal(train.inputs[:, 0].numpy(), images.transpose(0, 2, 1))
    assert train.targets is not None
    assert train.targets.tolist() == list(range(6))


def test_idx_files_that_are_broken(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_idx(path, np.zeros((3, 2), np.uint8))
    assert read_idx(path).shape == (3, 2)
    for data in (b"", b"\0\0\x08", path.read_bytes()[:-1], b"words, words"):
        path.write_bytes(data)
        with pytest.raises(UnderstudyError, match="not a whole idx file"):
            read_idx(path)
    path.unlink()
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"x" * 999)[:-9])
    with pytest.raises(UnderstudyError, match="cannot be read"):
        read_idx(path)


def test_a_set_without_parts_is_divided(tmp_path: Path) -> None:
    for c in ("Forest", "River"):
        (tmp_path / "eurosat/2750" / c).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (64, 64), (i, i, i)).save(tmp_path / "eurosat/2750" / c / f"{i}.jpg")
    splits = open_source("eurosat", root=tmp_path)
    assert splits.train.classes == ("Forest", "River")
    assert isinstance(splits.train, ArraySource)
    assert (len(splits.train), len(splits.test or ())) == (16, 4)


def test_images_one_by_one_and_three_parts(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        for c in ("AD", "CH"):
            (tmp_path / "country211" / part / c).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (30 + i, 20)).save(tmp_path / "country211" / part / c / f"{i}.jpg")
    splits = open_source("country211", root=tmp_path, size=64)
    assert isinstance(splits.train, RecordSource)
    assert splits.train.shape == (3, 64, 64)
    assert splits.train.records[1].read().size == (31, 20)
    assert splits.validation is not None
    assert splits.test is not None


def test_arrays_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cifar:
        classes = ("cat", "dog")

        def __init__(self, root: Path, train: bool, download: bool) -> None:
            if not download:
                raise RuntimeError("Dataset not found or corrupted.")
            self.data = np.full((4 + train, 32, 32, 3), 7, np.uint8)
            self.targets = [0, 1, 0, 1, 0][: 4 + train]

        def __len__(self) -> int:
            return len(self.data)

    monkeypatch.setattr(datasets, "CIFAR10", Cifar)
    splits = open_source("cifar10", root=tmp_path, download=True)
    assert splits.train.shape == (3, 32, 32)
    assert (len(splits.train), len(splits.test or ())) == (5, 4)
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UnderstudyError, match=r"cifar10 cannot be opened .*corrupted\); pass --download"):
        open_source("cifar10", root=tmp_path)


@real("mnist/MNIST/raw")
def test_real_mnist() -> None:
    splits = open_source("mnist")
    assert isinstance(splits.train, ArraySource)
    assert splits.train.inputs.shape == (60_000, 1, 28, 28)
    assert splits.train.targets is not None
    assert splits.train.targets[:5].tolist() == [5, 0, 4, 1, 9]
    assert torch.bincount(splits.train.targets).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert len(splits.test or ()) == 10_000


@real("tinyimagenet20/tinyimagenet20.zip")
def test_real_tiny_imagenet() -> None:
    splits = open_source(Path(DATA) / "tinyimagenet20/tinyimagenet20.zip")
    assert isinstance(splits.train, ArraySource)
    assert splits.train.inputs.shape == (10_000, 3, 64, 64)
    assert len(splits.train.classes) == 20
    assert len(splits.test or ()) == 1_000
    assert splits.train.set_aside == ()
