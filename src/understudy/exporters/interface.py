"""What an exported file takes as input, and the modules that are written into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from understudy.config.places import shown
from understudy.data import ArraySource, Source
from understudy.data.modalities import check_modality
from understudy.errors import UnderstudyError
from understudy.escaping import json_escaped
from understudy.models import InputContract, Network
from understudy.models.contract import prepare_inputs
from understudy.signals import ASPECTS

INPUT, OUTPUT, EMBEDDING = "input", "logits", "embedding"

Preprocessing = Literal["embedded", "external"]
Layout = Literal["NHWC", "NCHW", "ND"]


@dataclass(frozen=True)
class Interface:
    """The input of an exported file.

    With embedded preprocessing, the file takes samples as the source stores them: images stored as bytes as uint8
    (N, H, W, C), the way decoders and cameras return them; other images as float32 (N, C, H, W); vectors as float32
    (N, D). With external preprocessing, it takes float32 inputs that are already resized and normalized.
    """

    preprocessing: Preprocessing
    shape: tuple[int, ...]  # of one sample
    layout: Layout  # of a batch
    key: str  # modality to take from samples that have several; "" with external preprocessing
    contract: InputContract  # of the network, its modality relative to the input of the file

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.layout == "NHWC" else torch.float32

    @property
    def image_mode(self) -> Literal["L", "RGB"] | None:
        """Pillow mode of the images the file takes; None where its input cannot come from an image file."""
        if self.layout == "ND" or self.contract.modality not in ("", "image", *ASPECTS):
            return None
        modes: dict[int, Literal["L", "RGB"]] = {1: "L", 3: "RGB"}
        return modes.get(self.shape[-1 if self.layout == "NHWC" else 0])

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images the file takes."""
        assert self.layout != "ND"
        height, width = self.shape[:2] if self.layout == "NHWC" else self.shape[1:]
        return height, width

    @property
    def input_spec(self) -> dict[str, Any]:
        """Shape, layout and dtype of a batch, for JSON."""
        return {"shape": ["N", *self.shape], "layout": self.layout, "dtype": str(self.dtype).removeprefix("torch.")}

    def metadata(self, model: str) -> dict[str, str]:
        """The metadata stored in the file: a JSON value per key."""
        contract = self.contract
        facts = {
            "model": shown(model), "preprocessing": self.preprocessing, "input": self.input_spec,
            "size": contract.shape[1:] or contract.shape, "classes": contract.classes, "mean": contract.mean,
            "std": contract.std, "interpolation": contract.interpolation, "fit": contract.crop_mode,
            "modality": contract.modality,
        }  # fmt: skip
        return {key: json_escaped(json.dumps(value, ensure_ascii=False)) for key, value in facts.items()}

    def convert(self, inputs: Tensor | Mapping[str, Tensor], network: Network) -> Tensor:
        """Convert the inputs of a `Batch` to the input of the file, (B, *shape)."""
        if self.preprocessing == "external":
            return network.preprocess(inputs).contiguous()
        x = inputs if isinstance(inputs, Tensor) else inputs[self.key]
        return (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous() if self.layout == "NHWC" else x


def interface_of(network: Network, source: Source, preprocessing: str = "embedded") -> Interface:
    """The interface of a file exported for the samples of a source.

    Raises:
        UnderstudyError: The source lacks the modality of the network, or the network needs embedded preprocessing.

    Example:
        >>> from understudy.models import build
        >>> pixels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
        >>> source = ArraySource("gray", ("a", "b"), torch.arange(4), None, (1, 8, 8), inputs=pixels)
        >>> network = build("mlp:8x1", InputContract((1, 6, 6), (0.5,), (0.25,), ("a", "b")))
        >>> interface_of(network, source).input_spec
        {'shape': ['N', 8, 8, 1], 'layout': 'NHWC', 'dtype': 'uint8'}
        >>> interface_of(network, source, "external").input_spec
        {'shape': ['N', 1, 6, 6], 'layout': 'NCHW', 'dtype': 'float32'}
    """
    contract, available = network.contract, source.modalities
    modality = contract.modality
    check_modality(source, modality)
    if preprocessing == "external":
        if modality in ASPECTS and modality not in available and modality != "rgb":
            raise UnderstudyError(
                f"the network reads {modality}, which is computed from color images before normalization; pass "
                "--preprocessing embedded"
            )
        return Interface("external", contract.shape, "NCHW" if len(contract.shape) == 3 else "ND", "", contract)
    if preprocessing != "embedded":
        raise UnderstudyError(f"--preprocessing must be embedded or external, not {preprocessing!r}")
    key = modality if modality in available else "image" if modality in ASPECTS else source.modality
    if modality in available and modality in ASPECTS:  # stored under the name of an aspect: nothing to compute
        contract = replace(contract, modality="")
    stored = available[key]
    if len(stored.shape) != 3:
        return Interface("embedded", stored.shape, "ND", key, contract)
    channels, height, width = stored.shape
    if channels in (1, 3) and (not isinstance(stored, ArraySource) or stored.inputs.dtype == torch.uint8):
        return Interface("embedded", (height, width, channels), "NHWC", key, contract)
    return Interface("embedded", stored.shape, "NCHW", key, contract)


class Preprocessor(nn.Module):
    """Embedded preprocessing: (B, *interface.shape) -> normalized (B, *contract.shape)."""

    mean: Tensor
    std: Tensor

    def __init__(self, interface: Interface, network: Network) -> None:
        super().__init__()
        self.interface, self.name = interface, network.spec or "the network"
        self.register_buffer("mean", network.mean.clone())
        self.register_buffer("std", network.std.clone())

    def forward(self, x: Tensor) -> Tensor:
        if self.interface.layout == "NHWC":
            x = x.permute(0, 3, 1, 2).float() / 255
        return (prepare_inputs(x, self.interface.contract, self.name) - self.mean) / self.std


class CoreModel(nn.Module):
    """A network without preprocessing: normalized inputs (B, *contract.shape) -> logits (B, C)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module = network.module
        self.register_buffer("class_bias", network.class_bias)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.module(x)
        return logits if self.class_bias is None else logits + self.class_bias


def exported_module(interface: Interface, network: Network) -> nn.Module:
    """The computation of an exported file: (B, *interface.shape) -> logits (B, C)."""
    core = CoreModel(network)
    module = core if interface.preprocessing == "external" else nn.Sequential(Preprocessor(interface, network), core)
    return module.eval().requires_grad_(False)
