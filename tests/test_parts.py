"""What is said of samples in two parts, and of classes in one only."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import understudy
from understudy.data import ArraySource, RecordSource, Source, open_source
from understudy.data.formats import build
from understudy.data.parts import check_trained, compare_parts, shared


def pictures(root: Path, *, same_size: bool = True) -> Path:
    """train/ and test/ of two classes, with different images."""
    draw = np.random.default_rng(0)
    for part, n in (("train", 6), ("test", 3)):
        for c in "ab":
            (root / part / c).mkdir(parents=True)
            for i in range(n):
                pixels = draw.integers(0, 256, (8, 8 if same_size else 8 + i, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / c / f"{i}.png")
    return root


def parts(data: object) -> tuple[Source, Source]:
    splits = open_source(data)
    assert splits.test is not None
    return splits.train, splits.test


def zipped(root: Path) -> Path:
    return Path(shutil.make_archive(str(root.with_name("packed")), "zip", root))


def tabulated(root: Path) -> Path:
    """As parquet files, a row for each image."""
    folder = root.with_name("parquet")
    folder.mkdir()
    for part in ("train", "test"):
        files = sorted((root / part).glob("*/*.png"))
        image = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        pq.write_table(
            pa.table({"image": image, "label": [f.parent.name for f in files]}), folder / f"{part}-0.parquet"
        )
    return folder


@pytest.mark.parametrize("form", [Path, zipped, tabulated])
@pytest.mark.parametrize("kind", [ArraySource, RecordSource])
def test_copies_of_training_images_are_found(
    kind: type[Source], form: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is RecordSource:
        monkeypatch.setattr(build, "MAX_ARRAY_BYTES", 10**5 if form is tabulated else 0)
    root = pictures(tmp_path / "set", same_size=kind is ArraySource)
    assert compare_parts(*parts(root), "test") == []
    shutil.copy(root / "train/a/4.png", root / "test/b/1.png")
    shutil.copy(root / "train/b/5.png", root / "test/b/9.png")
    train, test = parts(form(root))
    assert isinstance(train, kind)
    assert len(shared(train, test) or ()) == 2
    (caution,) = compare_parts(train, test, "test")
    assert caution.startswith("The test part shares 2 of its 7 samples with the training part, e.g. ")
    if form is not tabulated:
        assert "test/b/1.png as train/a/4.png" in caution


def test_equal_sizes_and_damaged_files_are_no_copies(tmp_path: Path) -> None:
    root = pictures(tmp_path, same_size=False)
    for part in ("train", "test"):
        (root / part / "a/empty.png").write_bytes(b"")
    train, test = parts(root)
    assert isinstance(train, RecordSource)
    one, two = (root / "train/a/0.png").read_bytes(), root / "test/a/0.png"
    two.write_bytes(bytes(reversed(one)))
    gone = root / "test/b/2.png"
    gone.write_bytes(one)
    gone.unlink()
    assert shared(train, test) == []


def test_large_sets_are_not_searched_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = parts("digits")
    assert compare_parts(train, test, "test") == []
    for limit in ("MAX_SAMPLES", "MAX_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(f"understudy.data.parts.{limit}", 1000)
            (caution,) = compare_parts(train, test, "test")
            assert caution.startswith("The test part was not searched for samples of the training part")


def test_classes_in_one_part_only_are_said() -> None:
    y = torch.tensor([0, 1, 2, 3])
    train = ArraySource("some", tuple("wxyz"), y, y, (1,), inputs=y[:, None].float())
    test = replace(train, targets=torch.zeros(4, dtype=torch.int64), inputs=train.inputs + 9)
    assert compare_parts(train, test, "test") == [
        "The test part has no sample of 3 classes (x, y, z), which its accuracy leaves out; add some."
    ]
    assert compare_parts(test, train, "validation") == []
    assert check_trained(test) == [
        "The training part has no sample of 3 classes (x, y, z); add some, or leave these out."
    ]
    assert check_trained(train) == []
    assert compare_parts(replace(train, targets=None, classes=()), test, "test") == [], "unlabeled"


def test_a_run_says_it_on_the_console_and_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "set")
    shutil.copy(root / "train/a/4.png", root / "test/a/1.png")
    run = understudy.train(str(root), "mlp:4", epochs=1, batch_size=4, run=tmp_path / "run")
    assert "shares 1 of its 6 samples with the training part" in " ".join(capsys.readouterr().out.split())
    assert [caution[:34] for caution in run.facts.cautions] == ["The test part shares 1 of its 6 sa"]
    assert "shares 1 of its 6 samples with the training part" in (tmp_path / "run/report.html").read_text()
