"""Tar shards in the WebDataset format: reading by position, the index cache, and errors for invalid shards."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from PIL import Image

from understudy.data import RecordSource, Source, open_source
from understudy.data.formats import build
from understudy.data.formats import shards as shards_module
from understudy.errors import UnderstudyError

Members = Iterable[tuple[str, bytes]]


def picture(shade: int, size: tuple[int, int] = (6, 6)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (shade, 255 - shade, 7)).save(stream, "PNG")
    return stream.getvalue()


def tar(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            file.addfile(about, io.BytesIO(data))
    return path


def samples(first: int, count: int, *, names: bool = False) -> list[tuple[str, bytes]]:
    """Sample k has shade k and class k % 3."""
    return [
        member
        for k in range(first, first + count)
        for member in (
            (f"{k:06d}.png", picture(k)),
            (f"{k:06d}.cls", b"abc"[k % 3 :][:1] if names else b"%d\n" % (k % 3)),
        )
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard in range(3):
        tar(tmp_path / f"shards-{shard:03d}.tar", samples(20 * shard, 20))
    return tmp_path


def shades(source: Source) -> list[int]:
    assert isinstance(source, RecordSource)
    return [record.read().getpixel((0, 0))[0] for record in source.records]  # type: ignore[index]


def read(path: object) -> dict[int, tuple[int, int]]:
    """id -> (shade, class) over all splits."""
    splits = open_source(path, size=9)  # other than the stored size
    assert splits.test is not None
    found = {}
    for source in (splits.train, splits.test):
        assert source.targets is not None
        pixels = source.inputs[:, 0, 4, 4].tolist() if hasattr(source, "inputs") else shades(source)  # type: ignore[attr-defined]
        found |= dict(zip(source.ids.tolist(), zip(pixels, source.targets.tolist(), strict=True), strict=True))
    return found


def test_a_folder_a_pattern_and_a_single_tar(folder: Path) -> None:
    whole = read(folder)
    assert sorted(shade for shade, _ in whole.values()) == list(range(60))
    assert all(target == shade % 3 for shade, target in whole.values())
    assert read(str(folder / "shards-{000..002}.tar")) == whole
    assert read(folder / "shards-001.tar").items() < whole.items(), "ids depend on the shard name and the key only"
    assert read(str(folder / "shards-{001..002}.tar")).items() < whole.items()


def test_splits_by_id_or_by_shard_name(folder: Path, tmp_path: Path) -> None:
    splits = open_source(folder)
    assert splits.test is not None
    assert splits.test.targets is not None
    assert splits.test.targets.bincount().tolist() == [4, 4, 4]
    named = tmp_path / "named"
    named.mkdir()
    tar(named / "train-0.tar", samples(0, 12))
    tar(named / "val-0.tar", samples(12, 6))
    splits = open_source(named)
    assert splits.test is not None
    assert (len(splits.train), len(splits.test)) == (12, 6)


def test_classes_by_number_by_name_and_from_json(tmp_path: Path) -> None:
    assert open_source(tar(tmp_path / "n.tar", samples(0, 30))).train.classes == ("0", "1", "2")
    assert open_source(tar(tmp_path / "c.tar", samples(0, 30, names=True))).train.classes == ("a", "b", "c")
    members = [(f"deep/{k}.json", json.dumps({"label": k % 2, "url": "x"}).encode()) for k in range(20)]
    members += [(f"deep/{k}.JPG", picture(k)) for k in range(20)] + [("deep/3.txt", b"a caption")]
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    source = open_source(tar(tmp_path / "j.tar", members)).train
    assert source.classes == ("cat", "dog")


def test_shards_without_classes_are_unlabeled(tmp_path: Path) -> None:
    source = open_source(tar(tmp_path / "u.tar", [(f"{k}.png", picture(k)) for k in range(4)])).train
    assert source.targets is None
    assert len(source) == 4


def test_records_are_read_by_position_in_any_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "MAX_ARRAY_BYTES", 100)
    source = open_source(folder).train
    assert isinstance(source, RecordSource)
    back = torch.arange(len(source)).flip(0)
    assert shades(source.subset(back)) == shades(source)[::-1]
    record = source.records[7]
    assert pickle.loads(pickle.dumps(record)).read().tobytes() == record.read().tobytes()
    assert record.name.startswith("shards-000.tar/0000")


def test_the_index_is_cached_until_the_shard_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, reads, real = read(folder), [], shards_module.scan_shard

    def counted(shard: Path) -> shards_module.ShardIndex:
        reads.append(shard.name)
        return real(shard)

    monkeypatch.setattr(shards_module, "scan_shard", counted)
    assert read(folder) == whole
    assert reads == []
    tar(folder / "shards-001.tar", samples(100, 25))
    (folder / ".shards-002.tar.index.json").write_text('{"form": 1, "keys": 5}')
    assert len(read(folder)) == 65
    assert reads == ["shards-001.tar", "shards-002.tar"]
    for kept in folder.glob(".*.json"):
        kept.unlink()
    monkeypatch.setattr(shards_module, "write_whole", full)
    assert len(read(folder)) == 65, "a read-only folder can be read"


def full(path: Path, data: str) -> str:
    raise UnderstudyError(f"{path} could not be written")


def test_unreadable_images_are_skipped(tmp_path: Path) -> None:
    members = [
        *samples(0, 30),
        ("x.png", b"not an image"),
        ("x.cls", b"0"),
        ("y.png", picture(9)[:45]),
        ("y.cls", b"1"),
    ]
    splits = open_source(tar(tmp_path / "s.tar", members))
    assert splits.test is not None
    skipped = dict(splits.train.skipped) | dict(splits.test.skipped)
    assert skipped == {"s.tar/x": "not an image", "s.tar/y": "truncated or corrupt"}


def refused(path: object, match: str) -> None:
    with pytest.raises(UnderstudyError, match=match) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_missing_shards(folder: Path) -> None:
    refused(str(folder / "shards-{000..005}.tar"), r"3 of the 6 shards of .* are missing, e.g. shards-003.tar")
    refused(str(folder / "shards-{005..000}.tar"), r"counts down; write the smaller number first: \{000..005\}")
    refused(folder / "other.tar", "no folder, file or built-in dataset")


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ([], "contains no samples"),
        ([("k.cls", b"1"), ("k.npy", b"x")], r"no image for sample 'k', only 'k.cls'"),
        ([*samples(0, 4), ("k.png", picture(1))], r"no class for sample 'k', unlike for others"),
        ([("k.png", picture(1)), ("k.jpg", picture(1))], "two images for sample 'k'"),
        ([("k.png", picture(1)), ("k.json", b'{"label": [3, 5]}')], "'k.json' in .* has 2 labels"),
        ([("k.png", picture(1)), ("k.json", b'{"label": 0.5}')], "'k.json' in .* has 0.5 instead of a class"),
        ([("k.png", picture(1)), ("k.json", b"{")], "'k.json' in .* is not a valid class"),
        ([("k.png", picture(1)), ("k.cls", b"\xff\xfe")], "'k.cls' in .* is not a valid class"),
        ([("k.png", picture(1)), ("k.cls", b"")], "'k.cls' in .* has '' instead of a class"),
        ([*samples(0, 3), ("k.png", picture(1)), ("k.cls", b"cat")], "class index .*'000002' and a class name .*'k'"),
        ([("k.png", picture(1)), ("k.cls", b"0"), ("l.png", picture(1)), ("l.cls", b"-2")], "label -2 at sample 1"),
        ([("k.png", picture(1)), ("k.cls", b"cat")], "only one class, 'cat'"),
    ],
)
def test_incomplete_samples(tmp_path: Path, members: Members, match: str) -> None:
    refused(tar(tmp_path / "s.tar", members), match)


def test_inconsistent_shards(folder: Path) -> None:
    tar(folder / "shards-003.tar", samples(60, 6, names=True))
    refused(folder, "class indices in shards-000.tar and class names in shards-003.tar")
    tar(folder / "shards-003.tar", [("k.png", picture(0))])
    refused(folder, "no classes in shards-003.tar, unlike in other shards")
    tar(folder / "shards-003.tar", samples(0, 3))
    os.rename(folder / "shards-003.tar", folder / "test-003.tar")
    tar(folder / "test-003.tar", [("k.png", picture(0)), ("k.cls", b"3")])
    refused(folder, "has classes that its train split lacks: 3")
    (folder / "classes.txt").write_text("cat\ndog\neel\n")
    refused(folder, "label 3 at sample 0 of its test split, outside 0 to 2")


def test_truncated_and_compressed_tars(folder: Path) -> None:
    whole = (folder / "shards-000.tar").read_bytes()
    (folder / "shards-000.tar").write_bytes(whole[:2000])
    refused(folder, "shards-000.tar is not a complete tar file")
    (folder / "shards-000.tar").write_bytes(b"no tar at all" * 100)
    refused(folder, "shards-000.tar is not a complete tar file")
    (folder / "shards-000.tar.gz").write_bytes(gzip.compress(whole))
    refused(folder / "shards-000.tar.gz", "is compressed, so its images cannot be read by position")
