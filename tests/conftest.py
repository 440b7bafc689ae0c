"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from stand_ins import FakeRuns, Tones
from understudy.data import ArraySource
from understudy.models import InputContract, Network, build

settings.register_profile("any machine", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def small_images() -> ArraySource:
    """30 gray images of 8 x 8 random pixels in three classes."""
    x = torch.randint(256, (30, 1, 8, 8), generator=torch.Generator().manual_seed(1)).byte()
    rows = torch.arange(30)
    return ArraySource("some", ("cat", "dog", "eel"), rows * 7 + 3, rows % 3, (1, 8, 8), inputs=x)


@pytest.fixture(scope="session")
def small_network() -> Callable[..., Network]:
    """spec -> an untrained network for `small_images`, or for another input shape."""

    def make(spec: str, shape: tuple[int, ...] = (1, 8, 8)) -> Network:
        mean, std = (0.5,) * shape[0], (0.25,) * shape[0]
        return build(spec, InputContract(shape, mean, std, ("cat", "dog", "eel")))

    return make


@pytest.fixture(scope="session")
def tones() -> Tones:
    return Tones()


@pytest.fixture(scope="session")
def spoken_digits() -> Path:
    """The archive of the Free Spoken Digit Dataset."""
    root = os.environ.get("UNDERSTUDY_DATA")
    if root is None:
        pytest.skip("UNDERSTUDY_DATA is not set")
    return Path(root) / "spoken_digits" / "spoken_digits.zip"


@pytest.fixture(scope="session")
def cached_operators() -> Iterator[None]:
    """Build the operator registry once: torch parses the source of every ONNX operator at each export."""
    with pytest.MonkeyPatch.context() as patch:
        with suppress(ImportError):  # private, so other versions of torch may lack it
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch) -> FakeRuns:
    runs = FakeRuns()
    monkeypatch.setattr("understudy.pipeline.run.ensure", runs.ensure)
    monkeypatch.setattr("understudy.verbs.evaluate.confusion_of", runs.confusion_of)
    monkeypatch.setattr("understudy.verbs.evaluate.with_class_priors", runs.with_class_priors)
    return runs
