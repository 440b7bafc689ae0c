"""`open_source`: every format, and the errors for data that cannot be opened."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from understudy.data import ArraySource, RecordSource, Source, Splits, open_source
from understudy.data.formats import build
from understudy.errors import UnderstudyError


def picture(seed: int, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def png(seed: int, size: tuple[int, int] = (6, 5)) -> bytes:
    out = io.BytesIO()
    picture(seed, size).save(out, "PNG")
    return out.getvalue()


def plant(root: Path, *files: str, size: Callable[[int], tuple[int, int]] = lambda i: (6, 5)) -> Path:
    """Write a random PNG at each path."""
    for i, file in enumerate(files):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i, size(i)))
    return root


def classes_of(root: Path, n: int, *classes: str, part: str = "") -> Path:
    return plant(root, *(f"{part}{c}/{i}.png" for c in classes for i in range(n)))


def pack(root: Path, target: Path, top: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as file:
        for path in sorted(root.rglob("*.png")):
            file.write(path, top + path.relative_to(root).as_posix())
    return target


def array(source: Source | None) -> ArraySource:
    assert isinstance(source, ArraySource)
    return source


def targets(source: Source | None) -> torch.Tensor:
    assert source is not None
    assert source.targets is not None
    return source.targets


def refused(data: object, *words: str, **options: Any) -> None:
    """Opening raises one sentence that contains these words."""
    with pytest.raises(UnderstudyError) as caught:
        open_source(data, **options)
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text
    assert not text.endswith(".")


# Folders


def test_splits_of_class_folders(tmp_path: Path) -> None:
    classes_of(tmp_path, 3, "bee", "ant", part="train/")
    classes_of(tmp_path, 2, "bee", "ant", part="val/")
    splits = open_source(tmp_path)
    train, test = array(splits.train), array(splits.test)
    assert train.classes == ("ant", "bee") == test.classes
    assert train.inputs.shape == (6, 3, 5, 6)
    assert train.inputs.dtype == torch.uint8
    assert targets(train).tolist() == [0, 0, 0, 1, 1, 1]
    ant = np.asarray(Image.open(tmp_path / "train/ant/0.png"))
    assert np.array_equal(train.inputs[0].permute(1, 2, 0).numpy(), ant)
    assert not set(train.ids.tolist()) & set(test.ids.tolist())
    assert splits.validation is None


def test_three_splits(tmp_path: Path) -> None:
    for part in ("train/", "valid/", "test/"):
        classes_of(tmp_path, 2, "a", "b", part=part)
    splits = open_source(str(tmp_path))
    assert splits.test is not None
    assert splits.validation is not None
    # an unlabeled test split is ignored
    bare = plant(classes_of(tmp_path / "bare", 2, "a", "b", part="train/"), "test/1.png", "val/a/1.png")
    splits = open_source(bare)
    assert len(splits.test or ()) == 1
    assert splits.validation is None


def test_new_files_change_the_ids_of_none_and_the_split_of_few(tmp_path: Path) -> None:
    classes_of(tmp_path, 40, "a", "b")
    before = open_source(tmp_path)
    assert before.test is not None
    assert targets(before.test).bincount().tolist() == [8, 8]
    assert set(open_source(tmp_path, seed=1).train.ids.tolist()) != set(before.train.ids.tolist())
    plant(tmp_path, *(f"a/new{i}.png" for i in range(5)), "c/x.png")
    after = open_source(tmp_path)
    assert after.test is not None
    kept, held = (set(part.ids.tolist()) for part in (after.train, after.test))
    assert {*before.train.ids.tolist(), *before.test.ids.tolist()} < kept | held
    assert len(kept & set(before.test.ids.tolist())) + len(held & set(before.train.ids.tolist())) <= 5
    assert targets(after.test).bincount().tolist() == [9, 8], "a class of one image is for training"


@pytest.mark.parametrize("n", [2, 3, 8, 13])
def test_every_class_is_in_the_held_out_part_in_proportion(tmp_path: Path, n: int) -> None:
    splits = open_source(classes_of(classes_of(tmp_path, n, "a", "b", "c"), 40, "d"))
    counts = targets(splits.test).bincount().tolist()
    assert all(count >= 1 and abs(count - n / 5) < 1 for count in counts[:3])
    assert counts[3] == 8
    assert sum(counts) == max(round((3 * n + 40) / 5), 3 + 8)


def test_a_training_part_alone_is_divided(tmp_path: Path) -> None:
    """Whatever the format: a folder, a table, or parquet; also beside a test part without labels."""
    classes_of(tmp_path / "folder", 10, "a", "b", part="train/")
    plant(classes_of(tmp_path / "bare", 10, "a", "b", part="train/"), "test/1.png")
    classes_of(tmp_path / "images", 10, "a", "b")
    rows = [[f"images/{c}/{i}.png", c, "train"] for c in "ab" for i in range(10)]
    table = write_csv(tmp_path / "t.csv", ["path", "label", "split"], *rows)
    shard = tmp_path / "parquet" / "train-00000-of-00001.parquet"
    shard.parent.mkdir()
    write_parquet(shard, ["a", "b"] * 10)
    for data in (tmp_path / "folder", tmp_path / "bare", table, shard, shard.parent):
        splits = open_source(data)
        assert targets(splits.train).bincount().tolist() == [8, 8]
        assert targets(splits.test).bincount().tolist() == [2, 2]
    whole = shard.rename(shard.with_name("test-00000-of-00001.parquet"))
    assert open_source(whole).test is None, "a file for testing is scored as a whole"


def test_a_flat_folder_is_unlabeled(tmp_path: Path) -> None:
    splits = open_source(plant(tmp_path, "1.png", "2.png", ".hidden.png"))
    assert splits.train.classes == ()
    assert splits.train.targets is None
    assert splits.test is None
    assert len(splits.train) == 2


def test_ids_are_the_same_in_folder_and_zip(tmp_path: Path) -> None:
    root = classes_of(tmp_path / "set", 4, "a", "b")
    folder = open_source(root)
    for top in ("", "set/"):
        packed = open_source(pack(root, tmp_path / "set.zip", top))
        assert torch.equal(packed.train.ids, folder.train.ids)
        assert torch.equal(array(packed.train).inputs, array(folder.train).inputs)


def test_different_sizes_become_records(tmp_path: Path) -> None:
    plant(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(3)), size=lambda i: (i + 1, 4))
    train = open_source(tmp_path).train
    assert isinstance(train, RecordSource)
    assert train.shape == (3, 224, 224)
    assert train.records[0].read().mode == "RGB"
    assert train.records[0].name.startswith("a/")
    assert open_source(tmp_path, size=32).train.shape == (3, 32, 32)


def test_size_and_limit_decide_between_arrays_and_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(3)), size=lambda i: (8, 8))
    assert open_source(tmp_path, size=8).train.shape == (3, 8, 8)
    assert isinstance(open_source(tmp_path, size=8).train, ArraySource)
    smaller = open_source(tmp_path, size=4).train
    assert isinstance(smaller, ArraySource)
    assert smaller.inputs.shape == (len(smaller), 3, 4, 4)
    monkeypatch.setattr(build, "MAX_ARRAY_BYTES", 6 * 3 * 8 * 8 - 1)
    assert isinstance(open_source(tmp_path).train, RecordSource)
    refused(tmp_path, "from 1 to 4,096 pixels", size=0)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    files = (f"train/{odd}/{odd}.png", f"train/{odd}/2.png", "train/b/1.png")
    plant(tmp_path, *files, size=lambda i: (i + 1, 1))
    (tmp_path / "train" / odd / f"{odd}0.png").write_bytes(b"")
    train = open_source(tmp_path).train
    assert train.classes == ("b", "caf\\xe9")
    assert train.skipped == (("train/caf\\xe9/caf\\xe90.png", "empty file"),)
    assert isinstance(train, RecordSource)
    for record in train.records:
        record.name.encode()
        assert record.read()


def test_circular_symbolic_links(tmp_path: Path) -> None:
    classes_of(tmp_path, 3, "a", "b")
    (tmp_path / "a/up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b/self").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "b/nowhere.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "a/more").symlink_to(classes_of(tmp_path.parent / "more", 1, "x"), target_is_directory=True)
    splits = open_source(tmp_path)
    assert len(splits.train) + len(splits.test or ()) == 7
    skipped = splits.train.skipped + (splits.test.skipped if splits.test else ())
    assert skipped == (("b/nowhere.png", "cannot be opened"),)


def test_folders_that_cannot_be_opened(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no folder, file or built-in dataset", "check the path")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "contains no images", "one folder per class")
    hollow = classes_of(tmp_path / "hollow", 1, "a", "b")
    (hollow / "c").mkdir()
    refused(hollow, "class folder 'c'", "contains no images", "remove the folder")
    refused(classes_of(tmp_path / "one", 2, "cat"), "only one class, 'cat'", "at least two")
    extra = classes_of(tmp_path / "extra", 1, "a", "b", part="train/")
    refused(classes_of(extra, 1, "a", "y", "z", part="val/"), "in val/ that train/ lacks: y, z")
    refused(plant(classes_of(tmp_path / "mixed", 1, "a", "b"), "x.png"), "outside of its class folders", "'x.png'")
    both = classes_of(extra.parent / "both", 1, "a", "b", part="train/")
    refused(classes_of(classes_of(both, 1, "a", part="val/"), 1, "a", part="valid/"), "val/ and valid/")
    refused(plant(tmp_path / "flat", "train/1.png", "test/a/1.png"), "no class folders", "unlabeled")


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", denied)
    refused(tmp_path, str(tmp_path), "Permission denied", "permissions")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert open_source(classes_of(tmp_path, 3, "train", "bus")).train.classes == ("bus", "train")


# Zips


def _read_all(source: RecordSource) -> list[bytes]:
    return [record.read().tobytes() for record in source.records]


def test_zip_records_in_several_processes(tmp_path: Path) -> None:
    plant(tmp_path / "s", *(f"{c}/{i}.png" for c in "ab" for i in range(20)), size=lambda i: (30 + i, 9))
    train = open_source(pack(tmp_path / "s", tmp_path / "s.zip")).train
    assert isinstance(train, RecordSource)
    here = _read_all(train)
    assert _read_all(pickle.loads(pickle.dumps(train))) == here
    # forked workers inherit an open handle and must not share its position
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(_read_all, [train] * 6) == [here] * 6


def test_zips_that_cannot_be_opened(tmp_path: Path) -> None:
    for member in ("../x.png", "/x.png", "a/../../x.png", "C:/x.png", "a\\..\\x.png"):
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
            file.writestr("a/1.png", png(1))
            info = zipfile.ZipInfo("x")
            info.filename = member
            file.writestr(info, png(2))
        refused(tmp_path / "bad.zip", "a path outside of the archive")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 and no more")
    refused(tmp_path / "cut.zip", "not a complete zip")
    flat = pack(plant(tmp_path / "photos", "1.png", "2.png"), tmp_path / "flat.zip", "photos/")
    assert open_source(flat).train.targets is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zip", "cut.zip", "flat.zip", "photos"]


# Tables


def write_csv(path: Path, header: list[str], *rows: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_csv(tmp_path: Path) -> None:
    classes_of(tmp_path, 5, "x")
    rows = [[f"x/{i}.png", str(10 - i % 2), "test" if i == 4 else "train"] for i in range(5)]
    splits = open_source(write_csv(tmp_path / "t.csv", ["Image", "Class", "Split"], *rows))
    assert splits.train.classes == ("9", "10")
    assert targets(splits.train).tolist() == [1, 0, 1, 0]
    assert targets(splits.test).tolist() == [1]
    without = open_source(write_csv(tmp_path / "t.csv", ["path", "label"], *[row[:2] for row in rows]))
    assert len(without.train) + len(without.test or ()) == 5
    assert set(splits.train.ids.tolist()) <= {
        *without.train.ids.tolist(),
        *(without.test.ids.tolist() if without.test else ()),
    }


@pytest.mark.parametrize(
    "write",
    [
        lambda rows: "\ufeff" + "".join(f"{path},{label}\r\n" for path, label in rows),  # as Excel writes it
        lambda rows: "".join(f"{path};{label}\n" for path, label in rows),  # as it does in Europe
        lambda rows: "".join(f"{path}\t{label}\n" for path, label in rows),
        lambda rows: "".join(f"{path}, {label} \n" for path, label in rows),
        lambda rows: "".join(f'"{path}","{label}"\n\n' for path, label in rows),
        lambda rows: "".join(
            f"{i},{path},{label}\n" if i else f",{path},{label}\n" for i, (path, label) in enumerate(rows)
        ),
        lambda rows: "".join(path.replace("/", "\\") + f",{label}\n" for path, label in rows),
        lambda rows: "".join(
            f"{label},./{path}\n" if i else f"{label},{path}\n" for i, (path, label) in enumerate(rows)
        ),
    ],
    ids=["bom", "semicolons", "tabs", "spaces", "quotes", "index", "backslashes", "order"],
)
def test_csvs_as_programs_write_them(write: Callable[[list[tuple[str, str]]], str], tmp_path: Path) -> None:
    classes_of(tmp_path, 10, "red ant", "bee")
    rows = [(f"{c}/{i}.png", c) for c in ("red ant", "bee") for i in range(10)]
    plain = open_source(write_csv(tmp_path / "plain.csv", ["path", "label"], *map(list, rows)))
    (tmp_path / "t.csv").write_bytes(write([("path", "label"), *rows]).encode())
    splits = open_source(tmp_path / "t.csv")
    assert splits.train.classes == ("bee", "red ant")
    assert torch.equal(splits.train.ids, plain.train.ids)
    assert torch.equal(targets(splits.test), targets(plain.test))


def test_a_csv_with_absolute_paths_in_utf_16(tmp_path: Path) -> None:
    classes_of(tmp_path, 5, "a", "b")
    rows = [[f"{c}/{i}.png", c] for c in "ab" for i in range(5)]
    plain = open_source(write_csv(tmp_path / "plain.csv", ["path", "label"], *rows))
    (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{tmp_path}/{p},{c}\n" for p, c in rows), "utf-16")
    assert torch.equal(open_source(tmp_path / "t.csv").train.ids, plain.train.ids), "a copy elsewhere has the same ids"


@pytest.mark.parametrize(
    ("column", "marks"), [("is_valid", ("False", "True")), ("is_test", ("0", "1")), ("Split", ("Train", "dev"))]
)
def test_a_column_marks_the_held_out_rows(column: str, marks: tuple[str, str], tmp_path: Path) -> None:
    classes_of(tmp_path, 4, "a", "b")
    rows = [[f"{c}/{i}.png", c, marks[i == 3]] for c in "ab" for i in range(4)]
    splits = open_source(write_csv(tmp_path / "t.csv", ["path", "label", column], *rows))
    assert targets(splits.train).bincount().tolist() == [3, 3]
    assert targets(splits.test).bincount().tolist() == [1, 1]


def test_csvs_that_cannot_be_opened(tmp_path: Path) -> None:
    plant(tmp_path, "1.png", "2.png")
    table, header = tmp_path / "t.csv", ["path", "label"]
    good = [["1.png", "a"], ["2.png", "b"]]
    lost = [[f"no{i}.png", "a"] for i in range(5)]
    refused(write_csv(table, header, *good, *lost), "5 of 7 listed images", "no0.png, no1.png, no2.png; give")
    refused(write_csv(table, ["path", "color"], ["1.png", "a"]), "path, color but not 'label'")
    refused(write_csv(table, ["a", "label"], ["1.png", "a"]), "but not 'path'")
    refused(write_csv(table, header), "no rows")
    refused(write_csv(table, header, ["1.png", ""]), "no label in row 1")
    refused(write_csv(table, header, *good, good[0]), "'1.png' more than once")
    split = [*header, "split"]
    refused(write_csv(table, split, ["1.png", "a", "what"]), "'what' in its split column")
    refused(write_csv(table, split, ["1.png", "a", "test"]), "train")
    rows = [["1.png", "a", "train"], ["2.png", "b", "val"]]
    refused(write_csv(table, split, *rows), "that its train split lacks: b")
    refused(write_csv(table, header, ["1.png", "a"], ["2.png", "a"]), "only one class")


def write_parquet(path: Path, labels: list[Any], names: list[str] | None = None, **options: Any) -> Path:
    images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({"image": images, "label": labels})
    if names:
        about = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(table, path, **options)
    return path


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "train-0-of-2.parquet", [0, 1, 2, 1], ["x", "y", "z"], row_group_size=3)
    write_parquet(tmp_path / "train-1-of-2.parquet", [2, 0], ["x", "y", "z"])
    write_parquet(tmp_path / "test-0-of-1.parquet", [1, 1], ["x", "y", "z"])
    splits = open_source(tmp_path)
    assert splits.train.classes == ("x", "y", "z")
    assert targets(splits.train).tolist() == [0, 1, 2, 1, 2, 0]
    assert targets(splits.test).tolist() == [1, 1]
    fourth = np.asarray(picture(3)).transpose(2, 0, 1)
    assert np.array_equal(array(splits.train).inputs[3].numpy(), fourth)
    monkeypatch.setattr(build, "MAX_ARRAY_BYTES", 0)
    train = pickle.loads(pickle.dumps(open_source(tmp_path).train))
    assert isinstance(train, RecordSource)
    assert np.array_equal(np.asarray(train.records[3].read()).transpose(2, 0, 1), fourth)
    secret = write_parquet(tmp_path / "test-0-of-1.parquet", [-1, -1], ["x", "y", "z"])
    splits = open_source(secret.parent)
    assert sorted([*splits.train.ids.tolist(), *(splits.test.ids.tolist() if splits.test else ())]) == list(range(6))


@pytest.mark.parametrize(
    "layout",
    ["{split}-00000-of-00001.parquet", "data/{split}-0.parquet", "plain_text/{split}-0.parquet", "{split}/0000.parquet",
     "default/{split}/0000.parquet"],
)  # fmt: skip
def test_parquet_in_the_layouts_of_the_hub(layout: str, tmp_path: Path) -> None:
    for split, labels in (("train", [0, 1, 1]), ("validation", [1, 0])):
        path = tmp_path / layout.format(split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(path, labels, ["a", "b"])
    write_parquet(path.with_name("._" + path.name), [0, 1, 1])  # what a Mac leaves behind
    splits = open_source(tmp_path)
    assert targets(splits.train).tolist() == [0, 1, 1]
    assert targets(splits.test).tolist() == [1, 0]


def test_parquet_labels_without_names_are_the_classes_that_occur(tmp_path: Path) -> None:
    for labels, classes in (([1, 2, 3, 4], "1234"), ([0, 9, 2, 5], "0259"), (["b", "a"] * 2, "ab")):
        values = pa.array(labels * 5)
        path = write_parquet(tmp_path / "t.parquet", values.dictionary_encode() if classes == "ab" else values)
        splits = open_source(path)
        assert splits.train.classes == tuple(classes)
        assert 0 not in targets(splits.train).bincount().tolist()
    named = open_source(write_parquet(tmp_path / "t.parquet", [0, 2] * 5, ["x", "y", "z"]))
    assert named.train.classes == ("x", "y", "z"), "names that the file gives are kept"


def test_a_lone_parquet_file(tmp_path: Path) -> None:
    splits = open_source(write_parquet(tmp_path / "all.parquet", ["b", "a"] * 20))
    assert splits.train.classes == ("a", "b")
    assert len(splits.train) + len(splits.test or ()) == 40
    assert splits.test is not None
    wrong = write_parquet(tmp_path / "train-x.parquet", [0, 1, 5], ["a", "b"])
    refused(wrong, "label 5 at sample 2", "outside 0 to 1")
    refused(write_parquet(wrong, [0, None, 1]), "no label in row 1")
    refused(write_parquet(wrong, pa.array([], pa.int64())), "no training rows")
    wrong.write_bytes(b"PAR1 nothing")
    refused(wrong, "not a complete parquet file")


# Arrays and datasets


class Items(Dataset[Any]):
    """A list as a map-style dataset."""

    def __init__(self, items: list[Any], classes: list[str] | None = None) -> None:
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


def test_pairs_of_arrays() -> None:
    splits = open_source((np.zeros((4, 7)), np.array([0, 1, 2, 1], np.int32)))
    assert splits.train.shape == (7,)
    assert array(splits.train).inputs.dtype == torch.float32
    assert splits.train.classes == ("0", "1", "2")
    assert splits.train.ids.tolist() == [0, 1, 2, 3]
    for x, shape, kind in (
        (torch.zeros(2, 5, 6, 3, dtype=torch.uint8), (3, 5, 6), torch.uint8),
        (torch.zeros(2, 5, 6, dtype=torch.int64), (1, 5, 6), torch.uint8),
        (torch.zeros(2, 3, 5, 6, dtype=torch.float64), (3, 5, 6), torch.float32),
        (torch.zeros(2, 9, dtype=torch.uint8), (9,), torch.float32),
    ):
        train = array(open_source((x, torch.tensor([0, 1]))).train)
        assert train.shape == shape
        assert train.inputs.dtype == kind
    assert open_source(splits) is splits
    assert open_source(splits.train) == Splits(splits.train)


def test_arrays_that_cannot_be_used() -> None:
    x, y = torch.zeros(4, 3), torch.tensor([0, 1, 1, 0])
    bad = x.clone()
    bad[2, 1], bad[3, 0] = float("nan"), float("inf")
    refused(TensorDataset(bad, y), "2 of the 4 samples", "NaN or infinity, e.g. sample 2")
    refused((x, torch.tensor([0, 1, -1, 0])), "label -1 at sample 2")
    refused((x, torch.tensor([0, 1, 10**12, 0])), "label 1000000000000 at sample 2", "the most that is supported")
    refused(Items([(x[0], 0), (x[0], 2)], ["a", "b"]), "label 2 at sample 1", "its 2 classes")
    refused((x, y.float()), "labels", "float32", "argmax")
    refused((x, torch.eye(4, dtype=torch.int64)), "argmax")
    refused((x, y[:3]), "4 inputs but 3 labels")
    refused((x, y * 0), "only one class")
    refused((torch.full((2, 4, 4), 256), y[:2]), "outside 0 to 255")
    refused((torch.zeros(2, 2, 2, 2, 2), y[:2]), "reshape")
    refused(Items([(x[0], 0), (torch.zeros(4), 1)]), "item 1", "(4,)", "(3,)")
    refused(Items([("text", 0)]), "items of the Items are str")
    refused(Items([]), "contains no samples")


def test_datasets() -> None:
    labeled = open_source(Items([(torch.full((2,), float(i)), i % 2) for i in range(4)], ["no", "yes"])).train
    assert labeled.classes == ("no", "yes")
    assert targets(labeled).tolist() == [0, 1, 0, 1]
    bare = open_source(Items([np.zeros((4, 4, 3), np.uint8)] * 3)).train
    assert bare.targets is None
    assert bare.shape == (3, 4, 4)
    assert open_source(TensorDataset(torch.zeros(3, 2))).train.targets is None
    images = open_source(Items([(picture(i, mode="L"), torch.tensor(i % 2)) for i in range(6)])).train
    assert images.shape == (1, 5, 6)
    assert isinstance(images, ArraySource)
    mixed = open_source(Items([(picture(i, (4, i + 1)), i % 2) for i in range(6)]), size=16).train
    assert isinstance(mixed, RecordSource)
    assert mixed.shape == (3, 16, 16)
    assert mixed.records[2].read().size == (4, 3)
    assert open_source(Items([picture(1), picture(2)])).train.shape == (3, 5, 6)

    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(())

    refused(Stream(), "iterable", "map-style")


# Names and everything else


def test_digits() -> None:
    splits = open_source("digits")
    train, test = array(splits.train), array(splits.test)
    assert train.shape == (1, 8, 8)
    assert len(train) + len(test) == 1797
    assert train.inputs.max() == 255
    assert abs(len(test) / 1797 - 0.2) < 0.005
    assert sorted([*train.ids.tolist(), *test.ids.tolist()]) == list(range(1797))
    assert torch.equal(open_source("digits").train.ids, train.ids)
    assert not torch.equal(open_source("digits", seed=3).train.ids, train.ids)


def test_unsupported_data(tmp_path: Path) -> None:
    refused("cifar1O", "'cifar1O'; did you mean 'cifar10'?")
    refused(3, "from 'int'", "torch Dataset")
    (tmp_path / "x.txt").write_text("x")
    refused(tmp_path / "x.txt", "not a supported dataset", ".parquet")


def test_hub_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("hf:some/set", "understudy[hub]")


def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    class Split:
        def __init__(self, labels: list[int]) -> None:
            self.labels = labels
            self.features = {"img": None, "label": types.SimpleNamespace(names=["no", "yes"])}

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, key: Any) -> Any:
            return self.labels if key == "label" else {"img": picture(key), "label": self.labels[key]}

    def load(name: str, configuration: str | None, download_config: Any) -> dict[str, Split]:
        assert configuration == "small"
        if download_config.local_files_only:
            raise FileNotFoundError(f"no cache of {name}")
        return {"train": Split([0, 1, 1]), "test": Split([-1, -1]), "validation": Split([1])}

    fake = types.SimpleNamespace(load_dataset=load, DownloadConfig=types.SimpleNamespace)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    refused("hf:some/set:small", "no cache of some/set", "--download")
    splits = open_source("hf:some/set:small", download=True)
    assert splits.train.classes == ("no", "yes")
    assert targets(splits.train).tolist() == [0, 1, 1]
    assert targets(splits.test).tolist() == [1]
    assert array(splits.train).shape == (3, 5, 6)


def test_hub_reads_a_local_folder_with_datasets_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same samples as the reader of parquet files gets, and nothing is asked of the network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    for part, count in (("train", 6), ("test", 4)):
        rows = {"image": [picture(i) for i in range(count)], "label": [i % 2 for i in range(count)]}
        name = tmp_path / "set" / "data" / f"{part}-00000-of-00001.parquet"
        name.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(name))
    monkeypatch.chdir(tmp_path)
    through, own = open_source("hf:./set"), open_source("set")
    for one, other in ((through.train, own.train), (through.test, own.test)):
        assert one is not None
        assert other is not None
        assert one.classes == other.classes == ("no", "yes")
        assert targets(one).tolist() == targets(other).tolist()
        assert torch.equal(array(one).inputs, array(other).inputs)
