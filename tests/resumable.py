"""Verbs that train or label, each at its shortest, on small data: for the tests that stop them and resume them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import understudy
from stand_ins import Tones
from understudy.runs.targets import TargetsFolder
from understudy.training.loop import Loop
from understudy.verbs import speech

QUICK: dict[str, Any] = {"precision": "32", "accelerator": "cpu"}


def images(n: int = 60, side: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes of noise, one of them brighter."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    pixels = torch.randint(0, 180, (n, 1, side, side), generator=random) + 70 * labels[:, None, None, None]
    return pixels.byte(), labels


def make_home(root: Path) -> Path:
    """Photos in a folder, a teacher, a backbone, and prepared speech: what the verbs start from."""
    from PIL import Image

    for number, (image, label) in enumerate(zip(*images(), strict=True)):
        folder = root / "photos" / ("train" if number % 5 else "test") / ("dark", "bright")[int(label)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{number}.png")
    understudy.train("digits", "cnn:4", run=root / "teacher", epochs=1, **QUICK)
    understudy.train(str(root / "photos"), "cnn:4", run=root / "backbone", epochs=1, batch_size=16, **QUICK)
    speech.prepare(Tones().corpus(root / "corpus", takes=10), root / "frames", states=3, mixtures=1)
    return root


Verb = Callable[[Path, Path], object]
"""(home, folder of the results) -> done there."""
VERBS: dict[str, Verb] = {
    "train": lambda home, at: understudy.train("digits", "mlp:8", run=at, epochs=2, **QUICK),
    "distill": lambda home, at: understudy.distill(
        "digits", home / "teacher", "mlp:8", run=at, epochs=2, method="crd+kd", **QUICK
    ),
    "compare": lambda home, at: understudy.compare(
        "digits", home / "teacher", "mlp:8", run=at, epochs=1, seeds=1, method=("kd", "dkd"), **QUICK
    ),
    "pretrain": lambda home, at: understudy.pretrain(
        str(home / "photos"), "cnn:4", run=at, epochs=4, size=12, batch_size=16, **QUICK
    ),
    "transfer": lambda home, at: understudy.transfer(
        str(home / "photos"), home / "backbone", run=at, rule="bit", steps=5, batch_size=16, crop_size=12, **QUICK
    ),
    "few shots": lambda home, at: understudy.few_shots(
        str(home / "photos"), home / "backbone", (1, 3), draws=2, run=at, rule="bit", steps=4, batch_size=4,
        crop_size=12, **QUICK
    ),
    "suite": lambda home, at: understudy.suite(
        [home / "photos", "digits"], home / "backbone", run=at, rule="bit", steps=4, batch_size=16, crop_size=8, **QUICK
    ),
    "compress": lambda home, at: understudy.compress(
        str(home / "photos"), home / "backbone", "cnn:2", run=at, steps=6, teacher_steps=6, crop_size=12,
        format="torch", **QUICK,
    ),
    "specialists": lambda home, at: understudy.specialists(
        "digits", home / "teacher", run=at, clusters=2, epochs=1, **QUICK
    ),
    "label": lambda home, at: understudy.label(
        "digits", home / "teacher", out=at, views=2, embedding=True, batch_size=20, **QUICK
    ),
    "speech": lambda home, at: speech.train(home / "frames", run=at, model="mlp:8", epochs=1, seeds=2, **QUICK),
}  # fmt: skip


def weights(folder: Path) -> dict[str, bytes]:
    """The bytes of every trained network and of every kept answer in a folder, by path."""
    files = (file for kind in ("models/*.safetensors", "*.bin", "*.np[yz]") for file in folder.rglob(kind))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def written(folder: Path) -> set[str]:
    """Every file in a folder but checkpoints, of which the times differ."""
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return {str(file) for file in files if "checkpoints" not in file.parts}


def stop_at(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    """Have a real SIGTERM arrive after so many updates of all runs, or after so many shards of answers."""
    seen: list[None] = []

    def counted(real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            real(*arguments)
            seen.append(None)
            if len(seen) == update:
                os.kill(os.getpid(), signal.SIGTERM)

        return call

    for owner, name in ((Loop, "_update"), (TargetsFolder, "write_shard")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
