"""Built-in datasets, on small stand-ins and on the real ones if $UNDERSTUDY_DATA has them."""

from __future__ import annotations

import gzip
import inspect
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from understudy.data import GROUPS, NAMED, ArraySource, RecordSource, group_of, open_source
from understudy.data.formats.torchvision import read_idx
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


MISSING = (RuntimeError, FileNotFoundError)
"""What torchvision raises if files are missing."""


def test_catalog_matches_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constructors accept our arguments, and check the split before the files."""
    monkeypatch.setattr(datasets.Places365, "load_categories", lambda self, download: ([], {}))
    assert sum(named.classes > 1 for named in NAMED.values()) >= 30
    for name, named in NAMED.items():
        assert named.about
        assert len(named.names) in (0, named.classes)
        assert len(set(named.names)) == len(named.names)
        assert len(named.examples) == max(len(named.splits), 1) if name != "digits" else named.examples == (1_797,)
        if name == "digits":
            continue
        kind = getattr(datasets, named.kind)
        for options in named.splits.values():
            words = {**options, **({"download": False} if named.downloadable else {})}
            inspect.signature(kind).bind(tmp_path, **words)
            with pytest.raises(MISSING):
                kind(tmp_path, **words)
            for word in {"split", "version"} & options.keys():
                with pytest.raises(ValueError, match="nonsense"):
                    kind(tmp_path, **{**words, word: "nonsense"})


def test_class_counts_match_torchvision() -> None:
    for name in ("mnist", "fashion-mnist", "kmnist", "qmnist", "usps", "flowers102", "emnist", "imagenette"):
        kind = getattr(datasets, NAMED[name].kind)
        listed = {
            "emnist": lambda: datasets.EMNIST.classes_split_dict["balanced"],
            "flowers102": lambda: datasets.Flowers102.classes,
            "imagenette": lambda: datasets.Imagenette._WNID_TO_CLASS,
            "usps": lambda: range(10),
        }.get(name, lambda: kind.classes)()  # noqa: B023
        assert len(listed) == NAMED[name].classes, name
    assert len(datasets.EMNIST.classes_split_dict["letters"]) == NAMED["emnist-letters"].classes + 1, "one is N/A"
    for name in ("country211", "cars", "sun397", "food101"):
        assert str(NAMED[name].classes) in getattr(datasets, NAMED[name].kind).__doc__, name


def test_vtab_tasks() -> None:
    """Nineteen tasks, ten of them in torchvision."""
    assert {group: len(tasks) for group, tasks in GROUPS.items()} == {
        "natural": 7, "specialized": 4, "structured": 8,
    }  # fmt: skip
    assert len({task for task in NAMED if group_of(task)}) == 10
    assert (group_of("svhn"), group_of("resisc45"), group_of("mnist")) == ("natural", "specialized", "")


def test_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnderstudyError) as caught:
        open_source("mnist", root=tmp_path)
    text = str(caught.value)
    assert all(word in text for word in (str(tmp_path), "MNIST/raw", "--download", "--data-root"))
    for name in NAMED.keys() - {"digits"}:
        with pytest.raises(UnderstudyError, match="--download" if NAMED[name].downloadable else "cannot be downloaded"):
            open_source(name, root=tmp_path)
    with pytest.raises(UnderstudyError, match="cannot be downloaded: put it there as torchvision's StanfordCars"):
        open_source("cars", root=tmp_path, download=True)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("UNDERSTUDY_DATA", str(tmp_path))
    family(tmp_path / "mnist/MNIST/raw", packed=True)
    assert len(open_source("MNIST").train) == 6


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_family(tmp_path: Path, packed: bool) -> None:
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


def test_emnist_is_transposed_and_its_letters_start_at_zero(tmp_path: Path) -> None:
    images = family(tmp_path / "EMNIST/raw", "emnist-letters-", "test", first=1)
    train = open_source("emnist-letters", root=tmp_path).train
    assert isinstance(train, ArraySource)
    assert np.array_equal(train.inputs[:, 0].numpy(), images.transpose(0, 2, 1))
    assert train.targets is not None
    assert train.targets.tolist() == list(range(6))


def test_broken_idx_files(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_idx(path, np.zeros((3, 2), np.uint8))
    assert read_idx(path).shape == (3, 2)
    for data in (b"", b"\0\0\x08", path.read_bytes()[:-1], b"words, words"):
        path.write_bytes(data)
        with pytest.raises(UnderstudyError, match="not a complete IDX file"):
            read_idx(path)
    path.unlink()
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"x" * 999)[:-9])
    with pytest.raises(UnderstudyError, match="cannot be read"):
        read_idx(path)


def test_a_dataset_without_splits_is_divided(tmp_path: Path) -> None:
    for c in ("Forest", "River"):
        (tmp_path / "eurosat/2750" / c).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (64, 64), (i, i, i)).save(tmp_path / "eurosat/2750" / c / f"{i}.jpg")
    splits = open_source("eurosat", root=tmp_path)
    assert splits.train.classes == ("Forest", "River")
    assert isinstance(splits.train, ArraySource)
    assert (len(splits.train), len(splits.test or ())) == (16, 4)


def test_flowers102(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for i in range(1, 9):
        Image.new("RGB", (20 + i, 30)).save(folder / "jpg" / f"image_{i:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": [[1, 102, 3, 1, 102, 3, 1, 2]]})
    savemat(folder / "setid.mat", {"trnid": [[1, 2, 3]], "valid": [[4, 5]], "tstid": [[6, 7, 8]]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.Flowers102, "_check_integrity", lambda self: True)  # it asks for the real files' hashes
        splits = open_source("flowers102", root=tmp_path)
    parts = [part for part in (splits.train, splits.validation, splits.test) if part and part.targets is not None]
    assert [part.targets.tolist() for part in parts] == [[0, 101, 2], [0, 101], [2, 0, 1]]  # type: ignore[union-attr]
    assert len(splits.train.classes) == 102
    assert splits.train.classes[0] == "pink primrose"


def test_dtd(tmp_path: Path) -> None:
    folder = tmp_path / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    for part in ("train", "val", "test"):
        lines = []
        for c in ("banded", "woven"):
            (folder / "images" / c).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30)).save(folder / "images" / c / f"{c}_{part}.jpg")
            lines.append(f"{c}/{c}_{part}.jpg\n")
        (folder / "labels" / f"{part}1.txt").write_text("".join(lines))
    splits = open_source("dtd", root=tmp_path)
    assert splits.train.classes == ("banded", "woven")
    assert (len(splits.train), len(splits.validation or ()), len(splits.test or ())) == (2, 2, 2)


def test_clevr_counts_from_three(tmp_path: Path) -> None:
    folder = tmp_path / "clevr" / "CLEVR_v1.0"
    (folder / "scenes").mkdir(parents=True)
    for part in ("train", "val"):
        scenes = []
        (folder / "images" / part).mkdir(parents=True)
        for n in (3, 10, 5):
            Image.new("RGB", (48, 32)).save(folder / "images" / part / f"{n:02d}.png")
            scenes.append({"image_filename": f"{n:02d}.png", "objects": [{}] * n})
        (folder / "scenes" / f"CLEVR_{part}_scenes.json").write_text(json.dumps({"scenes": scenes}))
    train = open_source("clevr-count", root=tmp_path).train
    assert train.targets is not None
    assert [train.classes[y] for y in train.targets.tolist()] == ["3", "5", "10"]


def test_qmnist_labels_have_further_columns(tmp_path: Path) -> None:
    raw = tmp_path / "QMNIST" / "raw"
    for part, count in (("train", 4), ("test", 3)):
        write_idx(raw / f"qmnist-{part}-images-idx3-ubyte", np.zeros((count, 28, 28), np.uint8))
        labels = np.stack([np.arange(count), np.arange(count) + 70], 1).astype(">i4")
        data = struct.pack(">BBBB2i", 0, 0, 12, 2, *labels.shape) + labels.tobytes()
        (raw / f"qmnist-{part}-labels-idx2-int").write_bytes(data)
    splits = open_source("qmnist", root=tmp_path)
    assert splits.train.targets is not None
    assert (splits.train.targets.tolist(), len(splits.test or ())) == ([0, 1, 2, 3], 3)


def test_fer2013_without_test_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.fer2013.check_integrity", lambda *a, **k: True)
    (tmp_path / "fer2013").mkdir()
    face = " ".join(["7"] * 48 * 48)
    (tmp_path / "fer2013/train.csv").write_text(f"emotion,pixels\n0,{face}\n6,{face}\n")
    (tmp_path / "fer2013/test.csv").write_text(f"pixels\n{face}\n")
    with pytest.raises(UnderstudyError, match="has a split without labels"):
        open_source("fer2013", root=tmp_path)
    rows = f"emotion,pixels,Usage\n0,{face},Training\n6,{face},Training\n3,{face},PublicTest\n"
    (tmp_path / "fer2013/fer2013.csv").write_text(rows)
    splits = open_source("fer2013", root=tmp_path)
    assert splits.train.shape == (1, 48, 48)
    assert splits.test is not None
    assert splits.test.targets is not None
    assert [splits.test.classes[y] for y in splits.test.targets.tolist()] == ["happy"]


def test_records_and_three_splits(tmp_path: Path) -> None:
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


def test_torchvision_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert splits.train.skipped == ()
