"""What an exported file takes, and the modules that are written into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from understudy.contracts import check_seen
from understudy.data import ArraySource, Source
from understudy.errors import UnderstudyError
from understudy.models import InputContract, Network
from understudy.models.contract import prepared
from understudy.signals import ASPECTS

INPUT, OUTPUT = "input", "logits"

Preprocessing = Literal["inside", "beside"]
Layout = Literal["NHWC", "NCHW", "ND"]


@dataclass(frozen=True)
class Form:
    """What a file takes.

    Inside, the file does the pre-processing: it takes samples as the source holds them. Images that are stored as
    bytes are taken as decoders and cameras give them, uint8 in rows of pixels (N, H, W, C); other images as float32
    (N, C, H, W), images in [0, 1]; vectors as (N, D). Beside, it takes float32 as the module reads it: at the
    network's size, less the mean, over the deviation.

    Attributes:
        preprocessing: who resizes and normalises: the file ("inside") or its caller ("beside").
        shape: one sample's, as the file takes it.
        layout: of a batch.
        key: the modality that is taken from samples of several.
        contract: the network's own; its modality is what the file sees in what it takes.
    """

    preprocessing: Preprocessing
    shape: tuple[int, ...]
    layout: Layout
    key: str
    contract: InputContract

    @property
    def as_bytes(self) -> bool:
        return self.layout == "NHWC"

    @property
    def image_mode(self) -> Literal["L", "RGB"] | None:
        """Pillow's mode for an image that the file takes; None where no image file holds what it takes."""
        if self.layout == "ND" or self.contract.modality not in ("", "image", *ASPECTS):
            return None
        modes: dict[int, Literal["L", "RGB"]] = {1: "L", 3: "RGB"}
        return modes.get(self.shape[2 if self.as_bytes else 0])

    @property
    def side(self) -> tuple[int, int]:
        """(height, width) of the images it takes."""
        assert self.layout != "ND"
        height, width = self.shape[:2] if self.as_bytes else self.shape[1:]
        return height, width

    def metadata(self, model: str) -> dict[str, str]:
        """What travels inside the file: a JSON value for each key."""
        own = asdict(self.contract)
        facts = {
            "model": model,
            "classes": own["classes"],
            "preprocessing": self.preprocessing,
            "input": {"shape": ["N", *self.shape], "layout": self.layout, "type": str(self.dtype).split(".")[1]},
            "size": own["shape"][1:] or own["shape"],
            "mean": own["mean"],
            "std": own["std"],
            "interpolation": own["interpolation"],
            "fit": own["fit"],
            "modality": own["modality"],
        }
        return {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.as_bytes else torch.float32

    def take(self, inputs: Tensor | Mapping[str, Tensor], network: Network) -> Tensor:
        """A batch's canonical inputs as the file takes them, (B, *shape)."""
        if self.preprocessing == "beside":
            return network.prepare(inputs).contiguous()
        x = inputs if isinstance(inputs, Tensor) else inputs[self.key]
        return (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous() if self.as_bytes else x


def form_of(network: Network, source: Source, preprocessing: str) -> Form:
    """How a network's file takes the samples of a source.

    Raises:
        UnderstudyError: the source lacks what the network sees, or a step cannot be left to the caller.
    """
    contract, held = network.contract, source.modalities
    check_seen(source, contract.modality)
    seen = contract.modality
    if preprocessing == "beside":
        if seen in ASPECTS and seen not in held and seen != "rgb":
            raise UnderstudyError(
                f"the network sees {seen}, which is worked out from colour images before they are normalised; pass "
                "--preprocessing inside, where the file does so"
            )
        return Form("beside", contract.shape, "NCHW" if len(contract.shape) == 3 else "ND", "", contract)
    if preprocessing != "inside":
        raise UnderstudyError(f"--preprocessing is inside or beside, not {preprocessing!r}")
    key = seen if seen in held else "image" if seen in ASPECTS else source.modality
    if seen in held and seen in ASPECTS:  # a modality of its own by the name of an aspect: there is nothing to work out
        contract = replace(contract, modality="")
    one = held[key]
    stored = not isinstance(one, ArraySource) or one.inputs.dtype == torch.uint8
    if len(one.shape) == 3 and one.shape[0] in (1, 3) and stored:
        return Form("inside", (*one.shape[1:], one.shape[0]), "NHWC", key, contract)
    return Form("inside", one.shape, "NCHW" if len(one.shape) == 3 else "ND", key, contract)


class Preparing(nn.Module):
    """The pre-processing that is inside a file: (B, *form.shape) -> (B, *contract.shape), normalised."""

    mean: Tensor
    std: Tensor

    def __init__(self, form: Form, network: Network) -> None:
        super().__init__()
        self.form, self.who = form, network.spec or "the network"
        self.register_buffer("mean", network.mean.clone())
        self.register_buffer("std", network.std.clone())

    def forward(self, x: Tensor) -> Tensor:
        if self.form.as_bytes:
            x = x.permute(0, 3, 1, 2).float() / 255
        return (prepared(x, self.form.contract, self.who) - self.mean) / self.std


class Answering(nn.Module):
    """A folded network without its pre-processing: (B, *contract.shape), normalised -> logits (B, C)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module = network.module
        self.register_buffer("class_bias", network.class_bias)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.module(x)
        return logits if self.class_bias is None else logits + self.class_bias


def whole(form: Form, network: Network) -> nn.Module:
    """All that a file does, (B, *form.shape) -> logits (B, C)."""
    answering = Answering(network)
    module = answering if form.preprocessing == "beside" else nn.Sequential(Preparing(form, network), answering)
    return module.eval().requires_grad_(False)
