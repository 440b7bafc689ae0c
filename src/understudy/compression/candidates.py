"""Networks that could be handed over: a ladder of students by name, each timed here as a file, within limits."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from understudy.compression.budget import parse_amount, parse_latency
from understudy.config.verbs import CompressConfig
from understudy.data import Source
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import CandidateFacts
from understudy.exporters import export_network
from understudy.models import Network

LADDER = (
    "timm:mobilenetv3_small_050", "timm:lcnet_075", "timm:mobilenetv3_small_100", "timm:mobilenetv4_conv_small",
    "timm:mobilenetv3_large_075", "timm:efficientnet_lite0",
)  # fmt: skip
"""Students of photographs, from small to large."""
SMALL_LADDER = ("cnn:8-16-32", "cnn:16-32-64", "cifar:resnet8", "cifar:resnet20", "cifar:resnet8x4")
"""Students of images of fewer than `SMALL` pixels."""
SMALL = 64
PRECISIONS: dict[str, Literal["fp32", "int8"]] = {"onnx": "fp32", "int8": "int8"}
_CALIBRATED = 64  # training images for the ranges of int8
_SAMPLES = 64  # that a file is run on while it is only timed


@dataclass(frozen=True)
class Limits:
    """What a user asks for; None for no limit.

    Attributes:
        latency_ms: of one image on one thread, in ONNX Runtime on this machine.
        bytes: of the file.
        flops: per image.
        slower: how many times slower the device is that the latency was asked for.
    """

    latency_ms: float | None = None
    bytes: float | None = None
    flops: float | None = None
    slower: float = 1.0

    @classmethod
    def of(cls, config: CompressConfig) -> Limits:
        return cls(
            None if config.latency is None else parse_latency(config.latency) / config.device_latency,
            None if config.max_size is None else parse_amount(config.max_size, "size"),
            None if config.max_flops is None else parse_amount(config.max_flops, "FLOPs"),
            config.device_latency,
        )

    def __bool__(self) -> bool:
        return any(value is not None for value in (self.latency_ms, self.bytes, self.flops))

    def admit(self, one: CandidateFacts) -> bool:
        """Whether a file is fast and small enough."""
        fast = self.latency_ms is None or one.latency_ms <= self.latency_ms
        return fast and (self.bytes is None or one.bytes <= self.bytes)

    def to_json(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def names_for(config: CompressConfig, pixels: int) -> tuple[str, ...]:
    """The students to try: those asked for, else the ladder for images of this size."""
    return config.student or (LADDER if pixels >= SMALL else SMALL_LADDER)


def measure(
    network: Network,
    name: str,
    role: Literal["student", "backbone"],
    test: Source,
    train: Source,
    formats: Sequence[str],
) -> list[CandidateFacts]:
    """A network exported, checked and timed here, once for each precision.

    Args:
        network: on the CPU, ready for use or not yet trained.
        role: "student" or "backbone".
        test: labeled images that the files' accuracy is measured on; a few are enough where it is not trained.
        train: to calibrate int8.
        formats: of `PRECISIONS`.

    Raises:
        UnderstudyError: it cannot be exported.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = export_network(
            network.eval(), test, train, formats, Path(folder), calibrate=_CALIBRATED, tolerance=100.0
        )
    return [
        CandidateFacts(
            model=name, role=role, size=network.contract.shape[-1], precision=PRECISIONS[file.format],
            latency_ms=file.latency_ms, bytes=file.bytes, accuracy=file.accuracy,
        )
        for file in files
    ]  # fmt: skip


def measure_untrained(
    network: Network, name: str, test: Source, train: Source, formats: Sequence[str]
) -> list[CandidateFacts]:
    """Latency and size of a student before its training; its accuracy says nothing."""
    some = test.subset(torch.arange(min(_SAMPLES, len(test))))
    return [
        one.model_copy(update={"accuracy": None}) for one in measure(network, name, "student", some, train, formats)
    ]


def within(limits: Limits, measured: Sequence[CandidateFacts], network_flops: dict[str, int]) -> list[CandidateFacts]:
    """The candidates, each marked whether it is within the limits.

    Args:
        network_flops: per image, by model.

    Raises:
        UnderstudyError: none does; it names the nearest.
    """
    marked = [
        one.model_copy(update={
            "stands": limits.admit(one) and (limits.flops is None or network_flops.get(one.model, 0) <= limits.flops)
        })
        for one in measured
    ]  # fmt: skip
    if measured and not any(one.stands for one in marked):
        nearest = min(measured, key=lambda one: (one.latency_ms, one.bytes))
        raise UnderstudyError(
            f"no candidate is within the limits; {nearest.model} at {nearest.size} pixels in {nearest.precision} comes "
            f"nearest with {nearest.latency_ms:.2g} ms and {nearest.bytes / 1e6:.2g} MB; ask for less, or name a "
            "smaller --student"
        )
    return marked
