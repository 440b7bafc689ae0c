"""The gallery: which images it shows, and that they are what the source holds."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from understudy import evaluation as ev
from understudy.data import ArraySource, RecordSource, Unreadable
from understudy.errors import UnderstudyError
from understudy.evaluation import Predictions
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

    def read(self, at_least: int = 0) -> Image.Image:
        if self.shade < 0:
            raise Unreadable("it is broken")
        return Image.new("RGB", (24, 20), (self.shade, 0, 0))


def answers(source, right: Tensor, sharpness: Tensor) -> Predictions:
    """Logits whose largest is the target's where `right`, the next class's elsewhere."""
    chosen = torch.where(right, source.targets, (source.targets + 1) % 3)
    return Predictions(source.ids, nn.functional.one_hot(chosen, 3) * sharpness[:, None], source.targets)


def decode(entry: dict) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(entry["image_png_base64"])))


@pytest.mark.parametrize("channels", [1, 3])
def test_gallery_shows_the_uncertain_and_the_rescued(channels: int) -> None:
    source, n = images(channels=channels), torch.arange(30)
    roles = {
        "teacher": answers(source, n != 0, 1.0 + n),  # sample 0 is the least certain, and wrong
        "alone": answers(source, n < 20, torch.ones(30)),
        "distilled": answers(source, n < 28, torch.ones(30)),
    }
    entries = ev.gallery(source, roles, CATS, 4.0, count=6)
    shown = [np.asarray(decode(entry)) for entry in entries]
    expected = [1, 2, 3, 20, 21, 22]
    for pixels, entry, i in zip(shown, entries, expected, strict=True):
        assert (pixels == source.inputs[i].permute(1, 2, 0).squeeze(2 if channels == 1 else 0).numpy()).all()
        assert entry["label"] == CATS[i % 3]
        assert entry["temperature"] == 4.0
        for role, found in roles.items():
            assert entry[role] == pytest.approx((found.logits[i] / 4).softmax(0).tolist())
    assert ev.gallery(source, roles, CATS, 4.0, count=6) == entries


def test_gallery_of_a_teacher_alone() -> None:
    source = images()
    entries = ev.gallery(source, {"teacher": answers(source, torch.ones(30) > 0, torch.ones(30))}, CATS, 2.0)
    assert len(entries) == 12
    assert entries[0]["alone"] is None
    assert entries[0]["distilled"] is None
    assert decode(entries[0]).size == (8, 8)


def test_gallery_and_logits_of_records_leave_the_unreadable_out() -> None:
    records = [Plain(f"{i}.png", -1 if i in (2, 5, 6, 7) else 20 * i) for i in range(12)]
    source = RecordSource("files", CATS, torch.arange(12), torch.arange(12) % 3, (3, 16, 16), records=records)
    set_aside: dict[str, str] = {}
    net = build("mlp:4x1", InputContract((3, 16, 16), (0.5,) * 3, (0.25,) * 3, CATS))
    found = ev.logits_of(net, source, device=CPU, batch_size=3, set_aside=set_aside)
    assert found.ids.tolist() == [0, 1, 3, 4, 8, 9, 10, 11]
    assert set_aside == {f"{i}.png": "it is broken" for i in (2, 5, 6, 7)}
    teacher = answers(source, torch.ones(12) > 0, torch.ones(12))
    entries = ev.gallery(source, {"teacher": teacher, "alone": found}, CATS, 1)
    assert len(entries) == 8
    assert {decode(entry).size for entry in entries} == {(16, 16)}
    with pytest.raises(UnderstudyError, match="no sample of files"):
        ev.logits_of(net, source.subset(torch.tensor([2, 5])), device=CPU)


def test_gallery_is_empty_for_vectors() -> None:
    source = ArraySource("v", CATS, torch.arange(6), torch.arange(6) % 3, (2,), inputs=torch.rand(6, 2))
    assert ev.gallery(source, {"teacher": answers(source, torch.ones(6) > 0, torch.ones(6))}, CATS, 1.0) == []
