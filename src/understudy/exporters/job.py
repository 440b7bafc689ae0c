"""The inputs of an export, and intermediate models that several formats share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from understudy.exporters import onnx, torch_export
from understudy.exporters.interface import EMBEDDING, OUTPUT, CoreModel, Interface, Preprocessor, exported_module
from understudy.models import Network, Ranges

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Calibration:
    """A batch to calibrate on."""

    normalized: np.ndarray  # (B, *contract.shape), what the network reads
    inputs: np.ndarray  # (B, *interface.shape), what the file reads


@dataclass(frozen=True)
class Job:
    """The inputs of an export, and intermediate models that several formats share."""

    network: Network  # folded
    interface: Interface
    batches: Sequence[Calibration]
    ranges: Mapping[str, Ranges] = field(default_factory=dict)  # trained ones, by the name of a layer's weight

    @property
    def name(self) -> str:
        return self.network.spec or "the network"

    @property
    def metadata(self) -> dict[str, str]:
        """Class names, mean, size and more: what a file holds, or has beside it, as a JSON value per key."""
        return self.interface.metadata(self.name)

    @cached_property
    def module(self) -> nn.Module:
        """What the file computes, from its input to logits."""
        return exported_module(self.interface, self.network)

    @cached_property
    def core(self) -> ModelProto:
        """The network without preprocessing, in ONNX."""
        module = CoreModel(self.network).eval().requires_grad_(False)
        sample = torch.zeros(2, *self.interface.contract.shape)
        output = OUTPUT if self.network.classes else EMBEDDING
        return onnx.to_onnx(torch_export.trace(module, sample, self.name), self.name, output)

    @cached_property
    def preprocessor(self) -> ModelProto | None:
        """The embedded preprocessing, in ONNX; None if it is external."""
        if self.interface.preprocessing == "external":
            return None
        program = torch_export.trace(Preprocessor(self.interface, self.network), self.sample(2), self.name)
        return onnx.to_onnx(program, self.name)

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """`module`, traced for any number of samples."""
        return torch_export.trace(self.module, self.sample(2), self.name)

    @cached_property
    def single(self) -> torch.export.ExportedProgram:
        """`module`, traced for one sample at a time."""
        return torch_export.trace(self.module, self.sample(1), self.name, several=False)

    def sample(self, count: int) -> torch.Tensor:
        """Blank inputs of the file, (count, *interface.shape)."""
        return torch.zeros(count, *self.interface.shape, dtype=self.interface.dtype)
