"""Convolutions whose weights lie ready for the CPU's kernels, where no gradient is asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Weights so few that, for one image, PyTorch's other kernels are done before oneDNN has begun.
_SMALL = 2**14


class PackedConv2d(nn.Conv2d):
    """A convolution for inference: of float32 on the CPU it keeps its weights in oneDNN's order too.

    PyTorch brings a convolution's weights into that order in every pass, which for small batches takes about as long
    as the rest, or does without oneDNN. Here it is done in the first pass, and again when the shape of the inputs, by
    which the best order goes, or the weights have changed.
    For a single image, small layers do without it. Wherever gradients, autocast, another device or type, or an
    exporter are at work, it is a plain `nn.Conv2d`. The packed weights are neither saved nor copied.
    """

    _packed: Tensor | None = None
    _packed_from: tuple[object, ...] = ()

    @classmethod
    def of(cls, conv: nn.Conv2d) -> PackedConv2d:
        """A layer that shares a plain convolution's weights."""
        made = cls(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,  # type: ignore[arg-type]  # tuples of two
            conv.groups, bias=False, device="meta",  # no memory, and no random numbers drawn
        )  # fmt: skip
        made.weight, made.bias = conv.weight, conv.bias
        return made.train(conv.training)

    def forward(self, input: Tensor) -> Tensor:
        if not self._applies(input):
            return super().forward(input)
        geometry = list(self.padding), list(self.stride), list(self.dilation), self.groups
        version = 0 if self.weight.is_inference() else self.weight._version
        state = input.shape, self.weight.data_ptr(), version
        if self._packed is None or self._packed_from != state:
            shape = list(input.shape)
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight.detach(), *geometry, shape)
            self._packed_from = state
        return torch.ops.mkldnn._convolution_pointwise(input, self._packed, self.bias, *geometry, "none", [], "")

    def _applies(self, input: Tensor) -> bool:
        return (
            not torch.compiler.is_compiling()  # first: an exporter would take what follows for a fact of all inputs
            and not torch.jit.is_tracing()  # type: ignore[attr-defined]
            and not torch.is_grad_enabled()
            and input.dtype == self.weight.dtype == torch.float32
            and input.device.type == self.weight.device.type == "cpu"
            and input.dim() == 4
            and len(input) > (0 if self.weight.numel() >= _SMALL else 1)
            and not torch.is_autocast_enabled("cpu")
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_packed")}


def packable(layer: nn.Module) -> bool:
    """Whether a layer is a plain convolution, and this PyTorch has the kernels (which have no public name)."""
    return (
        type(layer) is nn.Conv2d
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    )
