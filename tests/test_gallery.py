"""The gallery: which images it shows, and that they are what the source holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from understudy import evaluation as ev
from understudy.data import ArraySource, RecordSource, Unreadable
from understudy.data.source import ImageHeader, Stamp
from understudy.errors import UnderstudyError
from understudy.evaluation import Predictions
from understudy.evaluation.facts import Picture
from understudy.models import InputContract, build

CPU = torch.device("cpu")
CATS = ("cat", "dog", "eel")


def images(n: int = 30, side: int = 8, channels: int = 1) -> ArraySource:
    x = torch.randint(256, (n, channels, side, side), generator=torch.Generator().manual_seed(1)).byte()
    rows = torch.arange(n)
    return ArraySource("some", CATS, rows * 7 + 3, rows % 3, (channels, side, side), inputs=x)


@dataclass
class Plain:
    name: str
    shade: int
    nbytes: int = -1

    def open(self) -> BinaryIO:
        raise OSError(self.name)

    def stamp(self) -> Stamp:
        return Stamp(0, 0)

    def digest(self) -> int:
        return self.shade

    def header(self) -> ImageHeader:
        return ImageHeader(24, 20, gray=False)

    def read(self, least: int = 0) -> Image.Image:
        if self.shade < 0:
            raise Unreadable("it is broken")
        return Image.new("RGB", (24, 20), (self.shade, 0, 0))


def answers(source, right: Tensor, sharpness: Tensor) -> Predictions:
    """Logits whose largest is the target's where `right`, the next class's elsewhere."""
    chosen = torch.where(right, source.targets, (source.targets + 1) % 3)
    return Predictions(source.ids, nn.functional.one_hot(chosen, 3) * sharpness[:, None], source.targets)


def opened(picture: Picture, folder: Path) -> Image.Image:
    return Image.open(folder / picture.image, formats=["PNG"])


@pytest.mark.parametrize("channels", [1, 3])
def test_gallery_shows_the_uncertain_and_the_rescued(channels: int, tmp_path: Path) -> None:
    source, n = images(channels=channels), torch.arange(30)
    roles = {
        "teacher": answers(source, n != 0, 1.0 + n),  # sample 0 is the least certain, and wrong
        "alone": answers(source, n < 20, torch.ones(30)),
        "distilled": answers(source, n < 28, torch.ones(30)),
    }
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "7.png").write_text("of an earlier evaluation")
    pictures = ev.gallery(source, roles, 4.0, tmp_path, count=6)
    assert {file.name for file in (tmp_path / "gallery").iterdir()} == {f"{i}.png" for i in range(6)}
    shown = [np.asarray(opened(picture, tmp_path)) for picture in pictures]
    expected = [1, 2, 3, 20, 21, 22]
    for pixels, picture, i in zip(shown, pictures, expected, strict=True):
        assert (pixels == source.inputs[i].permute(1, 2, 0).squeeze(2 if channels == 1 else 0).numpy()).all()
        assert picture.label == CATS[i % 3]
        assert picture.temperature == 4.0
        for role, found in roles.items():
            assert getattr(picture, role) == pytest.approx((found.logits[i] / 4).softmax(0).tolist())
    assert ev.gallery(source, roles, 4.0, tmp_path, count=6) == pictures


def test_gallery_of_a_teacher_alone(tmp_path: Path) -> None:
    source = images()
    pictures = ev.gallery(source, {"teacher": answers(source, torch.ones(30) > 0, torch.ones(30))}, 2.0, tmp_path)
    assert len(pictures) == 12
    assert pictures[0].alone is None
    assert pictures[0].distilled is None
    assert opened(pictures[0], tmp_path).size == (8, 8)


def test_gallery_and_logits_of_records_leave_the_unreadable_out(tmp_path: Path) -> None:
    records = [Plain(f"{i}.png", -1 if i in (2, 5, 6, 7) else 20 * i) for i in range(12)]
    source = RecordSource("files", CATS, torch.arange(12), torch.arange(12) % 3, (3, 16, 16), records=records)
    skipped: dict[str, str] = {}
    net = build("mlp:4x1", InputContract((3, 16, 16), (0.5,) * 3, (0.25,) * 3, CATS))
    found = ev.predict_logits(net, source, device=CPU, batch_size=3, skipped=skipped)
    assert found.ids.tolist() == [0, 1, 3, 4, 8, 9, 10, 11]
    assert skipped == {f"{i}.png": "it is broken" for i in (2, 5, 6, 7)}
    teacher = answers(source, torch.ones(12) > 0, torch.ones(12))
    pictures = ev.gallery(source, {"teacher": teacher, "alone": found}, 1, tmp_path)
    assert len(pictures) == 8
    assert {opened(picture, tmp_path).size for picture in pictures} == {(16, 16)}
    with pytest.raises(UnderstudyError, match="no sample of files"):
        ev.predict_logits(net, source.subset(torch.tensor([2, 5])), device=CPU)


def test_gallery_is_empty_for_vectors(tmp_path: Path) -> None:
    source = ArraySource("v", CATS, torch.arange(6), torch.arange(6) % 3, (2,), inputs=torch.rand(6, 2))
    assert ev.gallery(source, {"teacher": answers(source, torch.ones(6) > 0, torch.ones(6))}, 1.0, tmp_path) == []
    assert not [*tmp_path.iterdir()]


def test_gallery_of_several_modalities_shows_the_first(tmp_path: Path) -> None:
    source = images()
    paired = replace(source, pairs={"depth": images(side=4)})
    teacher = answers(source, torch.ones(30, dtype=torch.bool), torch.ones(30))
    shown = ev.gallery(paired, {"teacher": teacher}, 4.0, tmp_path)
    assert len(shown) == 12
    assert all(opened(picture, tmp_path).size == (8, 8) for picture in shown)


def test_gallery_is_empty_for_other_numbers_of_channels(tmp_path: Path) -> None:
    source = images(channels=2)
    teacher = answers(source, torch.ones(30, dtype=torch.bool), torch.ones(30))
    assert ev.gallery(source, {"teacher": teacher}, 4.0, tmp_path) == []
