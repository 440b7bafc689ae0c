"""Folders and archives as cameras, shops and other programs leave them: parts, foreign files, names and tables."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import types
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import understudy
from understudy.config.verbs import CompressConfig
from understudy.data import RecordSource, Source, Splits, open_source
from understudy.data.formats.decode import EMPTY, HEIC, NOT_A_FILE, RAW
from understudy.errors import UnderstudyError, UnderstudyWarning

HEIF = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


def png(seed: int, side: int = 6) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def plant(root: Path, *files: str, data: bytes | None = None) -> Path:
    """Write a random PNG, or these bytes, at each path."""
    for i, file in enumerate(files):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i) if data is None else data)
    return root


def classes(root: Path, *folders: str, n: int = 4) -> Path:
    """PNGs in cat/ and dog/ of each folder."""
    return plant(root, *(f"{folder}/{c}/{i}.png" for folder in folders for c in ("cat", "dog") for i in range(n)))


def sizes(splits: Splits) -> tuple[int, int, int]:
    """Samples for training, validation and testing."""
    train, validation, test = (0 if s is None else len(s) for s in (splits.train, splits.validation, splits.test))
    return train, validation, test


def total(splits: Splits) -> int:
    return sum(sizes(splits))


def refused(data: object, *words: str) -> None:
    with pytest.raises(UnderstudyError) as caught:
        open_source(data)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


# Parts


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("train", "eval"),
        ("Training", "Validation"),
        ("Train Images", "Test Images"),
        ("trainset", "testset"),
        ("TrainData", "ValData"),
        ("seg_train", "seg_test"),
        ("asl_alphabet_train", "asl_alphabet_test"),
        ("train2017", "val2017"),
        ("train", "hold_out"),
        ("images_train", "images_dev"),
    ],
)
def test_parts_by_any_name(tmp_path: Path, train: str, test: str) -> None:
    classes(classes(tmp_path, train, n=5), test, n=2)
    splits = open_source(tmp_path)
    assert splits.train.classes == ("cat", "dog")
    assert sizes(splits) == (10, 0, 4)


def test_a_held_out_part_beside_a_test_part_is_for_validation(tmp_path: Path) -> None:
    classes(classes(classes(tmp_path, "train", n=3), "test", n=2), "eval", n=1)
    assert sizes(open_source(tmp_path)) == (6, 2, 4)


def test_folders_within_the_parts_that_only_wrap_them(tmp_path: Path) -> None:
    splits = open_source(classes(tmp_path, "seg_train/seg_train", "seg_test/seg_test"))
    assert splits.train.classes == ("cat", "dog")
    assert sizes(splits) == (8, 0, 8)
    assert sizes(open_source(classes(tmp_path / "x", "train/images", "val/images"))) == (8, 0, 8)


def test_what_is_in_no_part_is_said(tmp_path: Path) -> None:
    classes(tmp_path, "train", "test")
    plant(tmp_path, "seg_pred/1.png", "loose.png", "val/images/2.png")
    splits = open_source(tmp_path)
    assert sizes(splits) == (8, 0, 8)
    assert [note.partition(": ")[2] for note in splits.train.notes] == [
        "left out val/images/, which has no class folders",
        "left out seg_pred/, 1 images outside of the parts, in neither the training nor the test part",
    ]


def test_parts_that_are_not_recognized_are_asked_about(tmp_path: Path) -> None:
    refused(
        classes(tmp_path / "two", "first", "second"), "cat/ and dog/ in both first/ and second/", "train/ and test/"
    )
    refused(classes(tmp_path / "one", "train", "kaggle"), "in both kaggle/ and train/", "seem to be parts")
    refused(classes(tmp_path / "no", "val", "test"), "test/ and val/ but no training part", "train/")
    # the advice works
    (tmp_path / "two" / "first").rename(tmp_path / "two" / "train")
    (tmp_path / "two" / "second").rename(tmp_path / "two" / "test")
    assert sizes(open_source(tmp_path / "two")) == (8, 0, 8)


def test_classes_with_subfolders_are_classes(tmp_path: Path) -> None:
    plant(tmp_path, *(f"{c}/{side}/{i}.png" for c in ("ash", "elm", "fir", "oak") for side in "lr" for i in range(3)))
    assert open_source(tmp_path).train.classes == ("ash", "elm", "fir", "oak")
    plant(tmp_path / "b", "train/1.png", "bus/1.png", "test/1.png", "car/1.png", "train/2.png")
    plant(tmp_path / "c", "test/1.png", "bus/1.png", "test/2.png")
    assert open_source(tmp_path / "c").train.classes == ("bus", "test")


# What other programs leave


def test_thumbnails_and_system_files_are_left_out_and_said_once(tmp_path: Path) -> None:
    classes(tmp_path, ".", n=10)
    plant(
        tmp_path,
        "cat/@eaDir/0.png/SYNOPHOTO_THUMB_S.png",
        "@eaDir/cat/x.png",
        "__MACOSX/cat/._0.png",
        "$RECYCLE.BIN/9.png",
    )
    plant(tmp_path, ".ipynb_checkpoints/0-checkpoint.png", "cat/._0.png")
    plant(tmp_path, "cat/Thumbs.db", "dog/Thumbs.db", ".DS_Store", "dog/notes.txt", data=b"no image")
    splits = open_source(tmp_path)
    assert splits.train.classes == ("cat", "dog")
    assert total(splits) == 20
    assert splits.train.skipped == ()
    (note,) = splits.train.notes
    for kind in ("2 @eaDir", "2 Thumbs.db", "1 __MACOSX"):
        assert kind in note
    assert note.startswith(f"{tmp_path}: left out as not part of the data: ")


def test_the_same_in_archives(tmp_path: Path) -> None:
    root = classes(tmp_path / "photos", ".")
    files = [(path.relative_to(tmp_path).as_posix(), path.read_bytes()) for path in sorted(root.rglob("*.png"))]
    files += [("__MACOSX/photos/cat/._0.png", b"x"), ("photos/.DS_Store", b"x"), ("photos/cat/@eaDir/0.png", png(0))]
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as packed, tarfile.open(tmp_path / "p.tar", "w") as tar:
        for name, data in files:
            packed.writestr(name, data)
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    folder = open_source(root)
    for archive in ("p.zip", "p.tar"):
        found = open_source(tmp_path / archive)
        assert found.train.classes == ("cat", "dog")
        assert found.train.ids.tolist() == folder.train.ids.tolist()
        assert "__MACOSX" in found.train.notes[0]


def test_advice_where_there_are_no_images(tmp_path: Path) -> None:
    refused(plant(tmp_path / "zips", "train.zip", "test.zip", data=b"PK"), "only 2 .zip", "unpack the archives")
    refused(plant(tmp_path / "texts", "a/1.txt", data=b"x"), "only 1 .txt", "one folder per class")
    table = plant(plant(tmp_path / "table", "images/1.png", "images/2.png"), "labels.csv", data=b"path,label")
    refused(table, "only one folder of images, images/", "labels.csv, open that")


# Names and content


def test_images_without_an_image_suffix_are_read_by_content(tmp_path: Path) -> None:
    classes(tmp_path, ".", n=2)
    plant(tmp_path, "cat/8", "cat/9.jpg_large", "dog/IMG_1234", "dog/1.jpe", "dog/1.png~")
    plant(tmp_path, "dog/README", "dog/BM", "dog/clip.wav", "dog/empty", data=b"RIFF\0\0\0\0WAVE")
    assert total(open_source(tmp_path)) == 9


def both_parts(root: Path, *files: str, data: bytes) -> Path:
    """Images for training and testing, with the same further files in a class of each."""
    classes(root, "train", "test")
    return plant(root, *(f"{part}/cat/{file}" for part in ("train", "test") for file in files), data=data)


def reasons(source: Source | None) -> dict[str, int]:
    assert source is not None
    found = [reason for _, reason in source.skipped]
    return {reason: found.count(reason) for reason in found}


def test_heic_is_counted_where_it_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    splits = open_source(both_parts(tmp_path, "IMG_1.HEIC", "IMG_2.heif", "IMG_3", data=HEIF))
    assert reasons(splits.train) == reasons(splits.test) == {HEIC: 3}
    for c in ("cat", "dog"):
        plant(tmp_path / "all", f"train/{c}/1.heic", f"test/{c}/1.heic", data=HEIF)
    refused(tmp_path / "all", "no image in the train split", "2 HEIC", "pip install 'understudy[heic]'")


def test_heic_is_read_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(stream: io.BytesIO) -> Image.Image:
        assert stream.read() == HEIF
        return Image.new("RGB", (6, 6), "red")

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(HeifImageFile=opened))
    splits = open_source(both_parts(tmp_path, "IMG_1.HEIC", data=HEIF))
    assert sizes(splits) == (9, 0, 9)
    assert splits.train.skipped == ()


def test_camera_raw_beside_its_pictures_is_counted(tmp_path: Path) -> None:
    splits = open_source(both_parts(tmp_path, "DSC1.NEF", "DSC2.dng", data=b"II*\0" + bytes(50)))
    assert reasons(splits.train) == reasons(splits.test) == {RAW: 2}


def test_pipes_are_counted_without_waiting_for_them(tmp_path: Path) -> None:
    os.mkfifo(classes(tmp_path, "train", "test") / "train/cat/pipe.png")
    os.mkfifo(tmp_path / "train/cat/pipe")
    (tmp_path / "train/dog/zero.jpg").symlink_to("/dev/zero")
    assert reasons(open_source(tmp_path).train) == {NOT_A_FILE: 2}
    refused(tmp_path / "train/cat/pipe", "neither a folder nor a regular file")


def test_a_class_has_one_name_in_either_unicode_form(tmp_path: Path) -> None:
    for c in ("café", "naïve"):
        composed, decomposed = unicodedata.normalize("NFC", c), unicodedata.normalize("NFD", c)
        plant(tmp_path, *(f"{part}/{i}.png" for part in (f"train/{composed}", f"val/{decomposed}") for i in range(3)))
    splits = open_source(tmp_path)
    assert splits.train.classes == ("café", "naïve")
    assert sizes(splits) == (6, 0, 6)
    twice = unicodedata.normalize("NFC", "dog/é.png"), unicodedata.normalize("NFD", "dog/é.png")
    refused(plant(classes(tmp_path / "x", "."), *twice), "two files named 'dog/é.png'", "rename one")


def test_a_zip_with_backslashes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as file:
        for c in ("cat", "dog"):
            for i in range(4):
                info = zipfile.ZipInfo("x")
                info.filename = f"photos\\{c}\\{i}.png"
                file.writestr(info, png(i, side=6 + i))
    splits = open_source(tmp_path / "w.zip")
    assert splits.train.classes == ("cat", "dog")
    assert total(splits) == 8
    assert isinstance(splits.train, RecordSource)
    assert splits.train.records[0].read().size[0] >= 6


def test_a_tar_of_samples_with_labels_is_not_one_of_class_folders(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for k in range(10):
            for suffix, data in ((".png", png(k)), (".cls", b"%d" % (k % 3))):
                about = tarfile.TarInfo(f"folder{k % 2}/{k:03}{suffix}")
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))
    assert open_source(tmp_path / "s.tar").train.classes == ("0", "1", "2")


# Tables of Hugging Face's ImageFolder


def rows(*files: str) -> list[dict[str, object]]:
    return [{"file_name": file, "label": ("cat", "dog")[i % 2]} for i, file in enumerate(files)]


def write_metadata(folder: Path, found: list[dict[str, object]], kind: str = "csv") -> Path:
    if kind == "jsonl":
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    else:
        lines = [",".join(found[0]), *(",".join(map(str, row.values())) for row in found)]
        (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_labels_in_metadata(tmp_path: Path, kind: str) -> None:
    files = [f"{i}.png" for i in range(10)]
    flat = write_metadata(plant(tmp_path / "flat", *files), rows(*files), kind)
    assert open_source(flat).train.classes == ("cat", "dog")
    assert total(open_source(flat)) == 10
    parts = plant(
        tmp_path / "parts", *(f"{part}/{file}" for part in ("train", "test") for file in files), "train/x.png"
    )
    for part in ("train", "test"):
        write_metadata(parts / part, rows(*files), kind)
    splits = open_source(parts)
    assert sizes(splits) == (10, 0, 10)
    assert splits.train.notes == (f"{parts}: left out 1 images that are not in its metadata",)
    whole = plant(tmp_path / "whole", *(f"{part}/{file}" for part in ("train", "test") for file in files))
    write_metadata(whole, rows(*(f"{part}/{file}" for part in ("train", "test") for file in files)), kind)
    assert sizes(open_source(whole)) == (10, 0, 10)


def test_numbers_as_labels_are_in_their_order(tmp_path: Path) -> None:
    found: list[dict[str, object]] = [{"file_name": f"{i}.png", "label": (2, 10)[i % 2]} for i in range(10)]
    assert open_source(write_metadata(plant(tmp_path, *(f"{i}.png" for i in range(10))), found)).train.classes == (
        "2",
        "10",
    )


def test_metadata_without_labels_leaves_the_class_folders(tmp_path: Path) -> None:
    classes(tmp_path, ".")
    write_metadata(tmp_path, [{"file_name": "cat/0.png", "text": "a cat"}])
    assert open_source(tmp_path).train.classes == ("cat", "dog")


def test_metadata_that_cannot_be_used(tmp_path: Path) -> None:
    files = [f"{i}.png" for i in range(4)]
    root = plant(tmp_path, *files)
    refused(write_metadata(root, rows(*files, "no.png")), "1 of the 5 images", "'no.png'", "remove their rows")
    refused(write_metadata(root, [*rows(*files), {"file_name": "0.png", "label": "dog"}]), "two labels for '0.png'")
    refused(write_metadata(root, [*rows(*files[1:]), {"file_name": "0.png", "label": ""}]), "'' as the label in row 4")
    (root / "metadata.csv").unlink()
    many: dict[str, object] = {"file_name": "0.png", "label": ["cat", "dog"]}
    refused(write_metadata(root, [many], "jsonl"), "one class for each")
    (root / "metadata.jsonl").write_text('{"file_name": ')
    refused(root, "metadata.jsonl is not a valid table", "write it again")
    (root / "metadata.jsonl").write_text("[1]\n")
    refused(root, "instead of an object")


# What is said of it


def test_skipped_images_are_counted_on_the_console_and_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = both_parts(tmp_path / "data", "1.heic", "2.heic", data=HEIF)
    plant(data, "test/dog/empty.png", "train/Thumbs.db", data=b"")
    plant(data, "train/cat/wide.png", "test/cat/wide.png", data=png(1, side=9))
    cut = png(2, side=40)[:-60]  # its header is whole
    plant(data, "train/dog/cut.png", "test/dog/cut.png", data=cut)
    run = understudy.train(
        data, model="cnn:4", size=8, epochs=1, batch_size=4, workers=0, accelerator="cpu", run=tmp_path / "run"
    )
    console = capsys.readouterr().out
    assert f"train: 2 skipped (2 {HEIC})" in console
    assert f"test: 3 skipped (2 {HEIC}; 1 {EMPTY})" in console
    for part in ("train", "test"):
        assert f"{part}, while decoding: 1 skipped (1 truncated or corrupt)" in console
    assert console.count("1 Thumbs.db") == 1
    skipped = run.record["skipped"]
    assert {part: len(found) for part, found in skipped.items()} == {"train": 3, "test": 4}
    assert run.facts.data is not None
    assert run.facts.data.examples == 9
    page = run.report.read_text()
    for line in ("1 skipped in the train part: truncated", "2 skipped in the test part: HEIC", "left out as not part"):
        assert line in page
    scored = understudy.evaluate(run.path, data, size=8)
    assert any(caution.startswith("test: 4 skipped (2 HEIC") for caution in scored.cautions)


def test_predict_reads_folders_alike_and_waits_for_no_pipe(tmp_path: Path) -> None:
    run = understudy.train(
        classes(tmp_path / "data", "train", "test"),
        model="cnn:4", epochs=1, batch_size=4, accelerator="cpu", run=tmp_path / "run",
    )  # fmt: skip
    photos = plant(tmp_path / "photos", "a/1", "2.png", "@eaDir/2.png", ".hidden.png")
    plant(photos, "notes.txt", data=b"x")
    os.mkfifo(photos / "pipe.png")
    with pytest.warns(UnderstudyWarning, match="1 .txt"):
        found = {Path(one.path).name: one.error for one in understudy.predict(run.path, [photos])}
    assert found == {"1": None, "2.png": None, "pipe.png": NOT_A_FILE}
    assert understudy.predict(run.path, ["/dev/zero"])[0].error == NOT_A_FILE


def test_every_verb_that_trains_on_images_can_leave_them_unflipped() -> None:
    from understudy.config.options import flat_fields
    from understudy.config.verbs import VERBS

    assert all("flip" in flat_fields(schema) for schema in VERBS.values())
    assert CompressConfig(flip=False).flip is False
