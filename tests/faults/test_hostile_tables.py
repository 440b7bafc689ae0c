"""Damaged and hostile tables, parquet files, shards, indexes and manifests: one sentence each, in seconds."""

from __future__ import annotations

import io
import json
import os
import random
import re
import tarfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from understudy.data import open_source, read_subset
from understudy.data.formats.frames import FRAMES
from understudy.errors import UnderstudyError

SECONDS = 20  # on a busy machine; they take milliseconds
BIG = 10**12
Make = Callable[[Path], Any]  # writes the fault into a folder, and returns what to open


def png(i: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4 + i, 4), (40 * i, 9, 9)).save(stream, "PNG")
    return stream.getvalue()


def images(folder: Path) -> Path:
    for i in range(6):
        (folder / f"{i}.png").write_bytes(png(i))
    return folder


def sentence(open_it: Callable[[], object]) -> str:
    started = time.monotonic()
    with pytest.raises(UnderstudyError) as caught:
        open_it()
    text = str(caught.value)
    assert time.monotonic() - started < SECONDS
    assert "\n" not in text
    assert len(text) < 600
    return text


# Tables

ROWS = "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(6))


def table(content: str | bytes) -> Make:
    def make(folder: Path) -> Path:
        path = images(folder) / "t.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "t.csv", "w") as file:
        file.writestr("x", png(1))
    return folder / "t.csv"


def sparse(folder: Path) -> Path:
    with (folder / "t.csv").open("wb") as file:
        file.truncate(BIG)
    return folder / "t.csv"


def beside(name: str, make: Callable[[Path], object]) -> Make:
    """A table that lists something else than a file."""

    def written(folder: Path) -> Path:
        make(folder / name)
        return table(f"path,label\n{name},a\n{ROWS}")(folder)

    return written


HEAD = "path,label\n"
TABLES: dict[str, tuple[Make, str]] = {
    "latin-1": (table((HEAD + ROWS.replace("a\n", "é\n")).encode("latin-1")), "not UTF-8 text, from line 2 on; save"),
    "utf-16 without a mark": (table((HEAD + ROWS).encode("utf-16-le")), "is not a text file"),
    "a zip": (zipped, "not UTF-8 text|is not a text file"),
    "empty": (table(""), "is empty; write a header"),
    "a byte order mark": (table(b"\xef\xbb\xbf"), "is empty; write a header"),
    "a header alone": (table(HEAD), "a header but no rows"),
    "no header": (table(ROWS), "has no header; add a first line such as path,label"),
    "no path": (table("picture,label\n" + ROWS), "picture, label but not 'path'"),
    "no label": (table("path,color\n" + ROWS), "path, color but not 'label'"),
    "a thousand columns": (table(",".join(f"c{i}" for i in range(1000)) + "\n" + "1," * 999 + "1\n"), "not 'path'"),
    "two labels": (table("path,label,Label\n" + ROWS.replace("\n", ",x\n")), "2 columns 'label'; rename"),
    "a blank label": (table(HEAD + ROWS + "5.png, \n"), "no label in row 7"),
    "a blank path": (table(HEAD + ROWS + ",a\n"), "no path in row 7"),
    "an unquoted comma": (table(HEAD + ROWS + "5.png,a, b\n"), "3 fields in row 7 but 2 columns; put quotes"),
    "lost images": (table(HEAD + ROWS + "no.png,a\n"), "1 of 7 listed images do not exist"),
    "paths of another machine": (table(HEAD + ROWS.replace("0.png", "C:\\x\\0.png")), "relative to the table"),
    "a path twice": (table(HEAD + ROWS + "0.png,b\n"), "'0.png' more than once"),
    "classes of one image": (table(HEAD + ROWS + "0.png,a b\n"), "several classes, 'a b'.* or write 'a_b'"),
    "classes with bars": (table(HEAD + ROWS + "0.png,b|a\n"), "several classes, 'b|a'"),
    "an unknown split": (table("path,label,split\n" + ROWS.replace("\n", ",what\n")), "'what' in its split column"),
    "no training rows": (table("path,label,split\n" + ROWS.replace("\n", ",test\n")), "no rows of the train split"),
    "an unclear mark": (
        table("path,label,is_valid\n" + ROWS.replace("\n", ",maybe\n")),
        "'maybe' in its column is_val",
    ),
    "all validation": (table("path,label,is_valid\n" + ROWS.replace("\n", ",1\n")), "no rows of the train split"),
    "a class for testing": (table("path,label,is_test\n" + ROWS.replace("b\n", "b,1\n")), "train split lacks: b"),
    "one class": (table(HEAD + ROWS.replace("b", "a")), "only one class, 'a'"),
    "an open quote": (table(HEAD + ROWS + '0.png,"c\n' + ROWS + '5.png,c"\n'), "a line break within a value of row 7"),
    "an endless quote": (table(HEAD + ROWS + '0.png,"' + "x" * 200_000), "not a valid CSV file"),
    "a NUL": (table(HEAD + ROWS + "0.png\0,a\n"), "is not a text file"),
    "a terabyte": (sparse, "is larger than 512 MiB"),
    "a pipe": (beside("pipe", os.mkfifo), "1 of 7 listed images do not exist"),
    "a folder": (beside("folder", Path.mkdir), "1 of 7 listed images do not exist"),
    "a device": (table(HEAD + ROWS + "/dev/zero,a\n"), "1 of 7 listed images do not exist"),
}

# Parquet

PICTURES: list[Any] = [{"bytes": png(i), "path": f"{i}.png"} for i in range(6)]


def parquet(
    labels: Any = (0, 1) * 3,
    pictures: Any = PICTURES,
    about: object = None,
    names: tuple[str, str] = ("image", "label"),
) -> bytes:
    labels = labels if isinstance(labels, pa.Array) else list(labels)
    made = pa.table({names[0]: pictures, names[1]: labels})
    if about is not None:
        made = made.replace_schema_metadata({"huggingface": about if isinstance(about, str) else json.dumps(about)})
    stream = io.BytesIO()
    pq.write_table(made, stream)
    return stream.getvalue()


def file_of(data: bytes | Callable[[], bytes]) -> Make:
    def make(folder: Path) -> Path:
        path = folder / "t.parquet"
        path.write_bytes(data if isinstance(data, bytes) else data())
        return path

    return make


def folder_of(**files: bytes) -> Make:
    """A folder of parquet files; "__" stands for a folder's separator."""

    def make(folder: Path) -> Path:
        for name, data in files.items():
            path = folder / (name.replace("__", "/") + ".parquet")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    return make


def class_label(names: object) -> dict[str, object]:
    return {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}


WHOLE = parquet()
PARQUET: dict[str, tuple[Make, str]] = {
    "not parquet": (file_of(b"PAR1 nothing"), "not a complete parquet file"),
    "an empty file": (file_of(b""), "not a complete parquet file"),
    "cut": (file_of(WHOLE[: len(WHOLE) // 2]), "not a complete parquet file"),
    "a damaged footer": (file_of(WHOLE[:-60] + b"\xff" * 40 + WHOLE[-20:]), "not a complete parquet file"),
    "no images": (file_of(parquet(names=("photo", "label"))), "photo, label but not 'image'"),
    "no labels": (file_of(parquet(names=("image", "color"))), "image, color but not 'label'"),
    "numbers for images": (file_of(parquet(pictures=list(range(6)))), "holds int64, not the bytes of image files"),
    "paths for images": (file_of(parquet(pictures=["a.png"] * 6)), "holds string, not the bytes of image files"),
    "floats": (file_of(parquet([0.0, 1.0] * 3)), "the label 0.0 at sample 0 of its train split; write class indices"),
    "dates": (file_of(parquet(pa.array([1] * 6, pa.date32()))), "the label datetime.date.* write class indices"),
    "bytes for labels": (file_of(parquet([b"a", b"b"] * 3)), "the label b'a' at sample 0"),
    "several labels": (file_of(parquet([[0, 1]] * 6)), r"several labels, \[0, 1\].* keep one class per sample"),
    "some labels": (file_of(parquet([[0], [0, 1], []] * 2)), "several labels"),
    "structs for labels": (file_of(parquet([{"a": 1}] * 6)), "several labels"),
    "a missing label": (file_of(parquet([0, None, 1] * 2)), "no label in row 1"),
    "a blank label": (file_of(parquet(["a", " ", "b"] * 2)), "no label at sample 1"),
    "several names": (file_of(parquet(["a", "b", "a b"] * 2)), "several classes, 'a b'"),
    "a huge label": (file_of(parquet([0, BIG] * 3)), f"label {BIG} at sample 1 .* not a class index"),
    "the largest label": (file_of(parquet(pa.array([2**64 - 1] * 6, pa.uint64()))), "which is not a class index"),
    "a negative label": (file_of(parquet([0, 1, -1] * 2)), "label -1 at sample 2"),
    "a label without a name": (file_of(parquet([0, 5] * 3, about=class_label(["a", "b"]))), "label 5 .* its 2 classes"),
    "one class": (file_of(parquet([3] * 6)), "only one class, '3'"),
    "metadata that are no JSON": (file_of(parquet(about="{")), "metadata of Hugging Face Datasets in .* is damaged"),
    "metadata that are a list": (file_of(parquet(about=[1])), "metadata of Hugging Face Datasets in .* is damaged"),
    "deep metadata": (file_of(parquet(about="[" * 100_000)), "metadata of Hugging Face Datasets in .* is damaged"),
    "names that are none": (file_of(parquet(about=class_label(7))), "are not a list of names"),
    "numbered names": (file_of(parquet(about=class_label([1, 2]))), "are not a list of names"),
    "no names": (file_of(parquet(about=class_label([]))), "are not a list of names"),
    "no rows": (file_of(parquet([], [])), "no training rows"),
    "other names": (
        folder_of(train_0=parquet(about=class_label(["a", "b"])), train_1=parquet(about=class_label(["b", "a"]))),
        "name different classes",
    ),
    "indices and names": (folder_of(train_0=parquet(), train_1=parquet(["a", "b"] * 3)), "indices and class names"),
    "new classes for testing": (folder_of(train_0=WHOLE, test_0=parquet([0, 7] * 3)), "train split lacks: 7"),
    "two configurations": (folder_of(de__train=WHOLE, fr__train=WHOLE), "several datasets, de/ and fr/; give the"),
    "no training file": (folder_of(test_0=WHOLE), r"no train-\*.parquet"),
}  # fmt: skip

# Shards


def shard(*members: tuple[str, bytes], name: str = "s.tar", classes: bytes | None = None) -> Make:
    def make(folder: Path) -> Path:
        with tarfile.open(folder / name, "w") as file:
            for member, data in members:
                about = tarfile.TarInfo(member)
                about.size = len(data)
                file.addfile(about, io.BytesIO(data))
        if classes is not None:
            (folder / "classes.txt").write_bytes(classes)
        return folder / name

    return make


def samples(label: Callable[[int], bytes] = b"%d".__mod__) -> list[tuple[str, bytes]]:
    return [each for i in range(6) for each in ((f"{i}.png", png(i)), (f"{i}.cls", label(i % 2)))]


def forged_header(folder: Path) -> Path:
    """A tar whose first file claims to hold a terabyte."""
    path = shard(*samples())(folder)
    data = bytearray(path.read_bytes())
    header = tarfile.TarInfo("0.png")
    header.size = BIG
    data[:512] = header.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(data)
    return path


def forged_extension(folder: Path) -> Path:
    """A tar whose extended header claims to hold a terabyte."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, BIG
    (folder / "s.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    return folder / "s.tar"


def pattern(text: str) -> Make:
    return lambda folder: f"{shard(*samples(), name='s-0.tar')(folder).parent}/{text}"


SHARDS: dict[str, tuple[Make, str]] = {
    "a hundred million": (pattern("s-{000000000..099999999}.tar"), "stands for 100,000,000 shards, more than"),
    "a square of ranges": (pattern("{0..99999}/s-{0..99999}.tar"), "stands for 10,000,000,000 shards, more than"),
    "a range of 5,000 digits": (pattern("s-{0.." + "9" * 50 + "}.tar"), "no folder, file or built-in dataset"),
    "a range backwards": (pattern("s-{9..0}.tar"), "counts down; write the smaller number first"),
    "missing ones": (pattern("s-{0..9}.tar"), "9 of the 10 shards of .* are missing"),
    "a huge label": (shard(*samples(lambda i: b"%d" % (i * BIG))), f"label {BIG} at sample 1"),
    "a label of 5,000 digits": (shard(*samples(lambda i: b"9" * 5000)), "is not a valid class"),
    "a deep label": (shard(("0.png", png(0)), ("0.json", b"[" * 100_000)), "is not a valid class"),
    "several names": (shard(*samples(lambda i: (b"a", b"b")[i]), ("x.png", png(0)), ("x.cls", b"a b")), "'a b'"),
    "names in Latin-1": (shard(*samples(), classes=b"caf\xe9\nb\n"), "classes.txt is not a readable UTF-8 text"),
    "a name twice": (shard(*samples(), classes=b"a\na\n"), "names a class twice"),
    "a blank name": (shard(*samples(), classes=b"a\n\nb\n"), "has a blank line"),
    "too few names": (shard(*samples(lambda i: b"%d" % (2 * i)), classes=b"a\nb\n"), "label 2 .* its 2 classes"),
    "a forged size": (forged_header, "not a complete tar file|no image for sample"),
    "a forged extension": (forged_extension, "not a complete tar file"),
}


@pytest.mark.parametrize(("make", "words"), [
    pytest.param(make, words, id=f"{kind}: {name}")
    for kind, cases in (("csv", TABLES), ("parquet", PARQUET), ("shards", SHARDS))
    for name, (make, words) in cases.items()
])  # fmt: skip
def test_a_hostile_table_gets_a_sentence(make: Make, words: str, tmp_path: Path) -> None:
    data = make(tmp_path)
    text = sentence(lambda: open_source(data))
    assert re.search(words, text), text


# Indexes of shards, which are read back from beside them


def forged(**values: Any) -> Callable[[dict[str, Any]], str]:
    return lambda index: json.dumps(index | values)


FORGED: dict[str, Callable[[dict[str, Any]], str]] = {
    "a start before the file": lambda index: json.dumps(index | {"places": [[-5, 70], *index["places"][1:]]}),
    "an end after the file": lambda index: json.dumps(index | {"places": [[512, BIG], *index["places"][1:]]}),
    "places of text": lambda index: json.dumps(index | {"places": [["0", "9"], *index["places"][1:]]}),
    "too few places": lambda index: json.dumps(index | {"places": index["places"][1:]}),
    "numbered keys": forged(keys=[0, 1, 2, 3, 4, 5]),
    "a key twice": forged(keys=["0", "0", "2", "3", "4", "5"]),
    "yes and no": forged(labels=[True, False] * 3),
    "labels of both kinds": forged(labels=[0, "b"] * 3),
    "too many labels": forged(labels=[0, 1] * 10),
    "a list": lambda index: "[1, 2]",
    "deep": lambda index: "[" * 3000,
    "no JSON": lambda index: "{",
    "larger than the shard": lambda index: json.dumps(index | {"x": "x" * 100_000}),
    "another form": forged(form=99),
}


@pytest.mark.parametrize("forge", [pytest.param(forge, id=name) for name, forge in FORGED.items()])
def test_a_forged_index_is_not_believed(forge: Callable[[dict[str, Any]], str], tmp_path: Path) -> None:
    path = shard(*samples())(tmp_path)
    honest = open_source(path, size=8)
    index = tmp_path / ".s.tar.index.json"
    index.write_text(forge(json.loads(index.read_text())))
    found = open_source(path, size=8)
    for one, two in ((honest.train, found.train), (honest.test, found.test)):
        assert one is not None
        assert two is not None
        assert torch.equal(one.ids, two.ids)
        assert one.targets is not None
        assert torch.equal(one.targets, two.targets)  # type: ignore[arg-type]


def test_an_index_that_is_a_pipe_is_not_read(tmp_path: Path) -> None:
    path = shard(*samples())(tmp_path)
    os.mkfifo(tmp_path / ".s.tar.index.json")
    assert open_source(path).train.classes == ("0", "1")


def test_what_is_not_a_file_is_no_shard_and_no_table(tmp_path: Path) -> None:
    for name in ("x.tar", "x.parquet"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        os.mkfifo(folder / name)
        assert "contains no images" in sentence(lambda folder=folder: open_source(folder))


# Manifests of subsets

MANIFEST: dict[str, Any] = {"data": "digits", "shots": 1, "seed": 0, "draw": 0, "classes": {"0": [{"id": 1}]}}
MANIFESTS: dict[str, str | bytes] = {
    "nothing": "",
    "no JSON": "{",
    "not UTF-8": b'{"data": "\xff"}',
    "a list": "[]",
    "no classes": json.dumps({key: value for key, value in MANIFEST.items() if key != "classes"}),
    "a seed of text": json.dumps(MANIFEST | {"seed": "0"}),
    "an id of text": json.dumps(MANIFEST | {"classes": {"0": [{"id": "1"}]}}),
    "an id that is true": json.dumps(MANIFEST | {"classes": {"0": [{"id": True}]}}),
    "an id of 30 digits": json.dumps(MANIFEST | {"classes": {"0": [{"id": 10**30}]}}),
    "a sample without an id": json.dumps(MANIFEST | {"classes": {"0": [{"name": "x"}]}}),
    "a sample twice": json.dumps(MANIFEST | {"classes": {"0": [{"id": 1}], "1": [{"id": 1}]}}),
    "no samples": json.dumps(MANIFEST | {"classes": {"0": []}}),
    "classes of numbers": json.dumps(MANIFEST | {"classes": {"0": 7}}),
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("content", [pytest.param(content, id=name) for name, content in MANIFESTS.items()])
def test_a_hostile_manifest_gets_a_sentence(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "subset.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert "is not a subset manifest" in sentence(lambda: read_subset(path))


def test_a_manifest_that_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none"):
        assert "cannot be read" in sentence(lambda path=path: read_subset(path))


# Frames

_METADATA = {"classes": ["a", "b"], "before": 1, "after": 1, "skipped": {}}


@pytest.mark.parametrize(
    ("metadata", "targets", "words"),
    [
        (None, torch.tensor([0, 1, 0]), "not a complete frames file"),
        ("{", torch.tensor([0, 1, 0]), "is damaged"),
        (json.dumps(_METADATA | {"before": BIG}), torch.tensor([0, 1, 0]), r"is damaged \(before: .*1000"),
        (json.dumps(_METADATA | {"classes": 3}), torch.tensor([0, 1, 0]), r"is damaged \(classes"),
        (json.dumps(_METADATA | {"x": 3}), torch.tensor([0, 1, 0]), r"is damaged \(x"),
        (json.dumps(_METADATA), torch.tensor([0.0, 1.0, 0.0]), r"is damaged \(targets"),
        (json.dumps(_METADATA), torch.tensor([[0, 1, 0]]), r"is damaged \(targets"),
        (json.dumps(_METADATA), torch.tensor([0, 5, 0]), "targets outside of its 2 classes"),
    ],
)
def test_hostile_frames_get_a_sentence(metadata: str | None, targets: torch.Tensor, words: str, tmp_path: Path) -> None:
    tensors = {"frames": torch.zeros(3, 2), "starts": torch.tensor([0, 3]), "parts": torch.tensor([0])}
    about = {} if metadata is None else {"understudy": metadata}
    save_file(tensors | {"targets": targets}, tmp_path / FRAMES, about)
    assert re.search(words, sentence(lambda: open_source(tmp_path)))


# Bytes changed at random


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["t.parquet", "s.tar", "t.csv"])
def test_damaged_bytes_are_opened_or_get_a_sentence(kind: str, seed: int, tmp_path: Path) -> None:
    make = {"t.parquet": file_of(WHOLE), "s.tar": shard(*samples()), "t.csv": table(HEAD + ROWS)}[kind]
    path = make(tmp_path)
    whole, draw = path.read_bytes(), random.Random(seed)
    for _ in range(20):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 2, 8))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.choice((len(data), draw.randrange(len(data))))])
        with suppress(UnderstudyError):
            open_source(path)
