"""Convolutions that cache their weights in the layout of the CPU kernels for inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from understudy.models.depthwise import DepthwiseConv2d

# Below this many weights, PyTorch's native kernels are faster than oneDNN for a single image.
_SMALL = 2**14


class PackedConv2d(nn.Conv2d):
    """A convolution that, for float32 inference on the CPU, caches its weights in oneDNN's blocked layout.

    PyTorch reorders the weights in every forward pass, which for small batches takes about as long as the convolution
    itself, or falls back to slower kernels. Here the weights are packed in the first pass, and again whenever they or
    the input shape, on which the best layout depends, have changed. Small layers are not packed for a single image.
    With gradients, autocast, another device or dtype, or under an exporter, it is a plain `nn.Conv2d`. Packed weights
    are neither saved nor copied.
    """

    _packed: Tensor | None = None
    _packed_from: tuple[object, ...] = ()

    @classmethod
    def from_conv(cls, conv: nn.Conv2d) -> PackedConv2d:
        """A layer that shares the weights of a plain convolution."""
        packed = cls(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,  # type: ignore[arg-type]  # tuples of two
            conv.groups, bias=False, device="meta",  # allocates nothing and draws no random numbers
        )  # fmt: skip
        packed.weight, packed.bias = conv.weight, conv.bias
        return packed.train(conv.training)

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
            not torch.compiler.is_compiling()  # first: an exporter would specialize on the conditions below
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
    """Whether a layer is a plain convolution and this PyTorch has the (private) oneDNN operators."""
    return (
        type(layer) in (nn.Conv2d, DepthwiseConv2d)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    )
