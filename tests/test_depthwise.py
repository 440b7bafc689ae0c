"""Depthwise convolutions with their own weight gradient, against torch's."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from understudy.models import InputContract, Network
from understudy.models.depthwise import DepthwiseConv2d, speed_up_depthwise, weight_gradient

CONTRACT = InputContract((3, 64, 64), (0.5,) * 3, (0.5,) * 3, ("cat", "dog"))


@given(st.integers(1, 3), st.integers(1, 4), st.tuples(*[st.integers(1, 7)] * 2), st.sampled_from([1, 3, 5, 7]),
       st.integers(1, 2), st.booleans())  # fmt: skip
def test_the_gradient_is_that_of_torch(
    batch: int, channels: int, size: tuple[int, int], kernel: int, stride: int, padded: bool
) -> None:
    padding = kernel // 2 if padded or min(size) < kernel else 0
    x = torch.randn(batch, channels, *size, dtype=torch.float64)
    weight = torch.randn(channels, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    y = nn.functional.conv2d(x, weight, None, stride, padding, groups=channels)
    grad = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, weight, grad)
    found = weight_gradient(x, grad, weight.shape[2:], (stride, stride), (padding, padding))
    torch.testing.assert_close(found, expected)


def gradients(net: nn.Module, x: Tensor) -> list[Tensor]:
    net.zero_grad()
    torch.manual_seed(0)
    net(x).square().sum().backward()
    return [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("x", [torch.randn(2, 4, 2, 3), torch.randn(2, 4, 9, 9)], ids=["small", "large"])
def test_a_layer_has_the_gradients_that_it_had(x: Tensor, bias: bool) -> None:
    plain = nn.Conv2d(4, 4, 5, stride=2, padding=2, groups=4, bias=bias)
    fast = copy.deepcopy(plain)
    speed_up_depthwise(fast)
    assert type(fast) is DepthwiseConv2d
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    for one, other in zip(*(gradients(net, x) for net, x in zip((plain, fast), inputs, strict=True)), strict=True):
        torch.testing.assert_close(one, other)
    assert inputs[0].grad is not None
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


def test_a_network_keeps_its_names_and_learns_as_before() -> None:
    torch.manual_seed(0)
    plain = timm.create_model("mobilenetv3_small_050", num_classes=2)
    names = list(plain.state_dict())
    network = Network(copy.deepcopy(plain), CONTRACT)
    assert any(type(layer) is DepthwiseConv2d for layer in network.module.modules())
    assert list(network.module.state_dict()) == names
    x = torch.randn(4, 3, 64, 64)
    for one, other in zip(gradients(plain, x), gradients(network.module, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 1, groups=4),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2),
        nn.Conv2d(4, 4, 3, groups=4, padding="same"),
        nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="reflect"),
    ],
)
def test_other_layers_stay_as_they_are(layer: nn.Conv2d) -> None:
    speed_up_depthwise(layer)
    assert type(layer) is nn.Conv2d


def test_what_is_traced_is_the_plain_convolution() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    speed_up_depthwise(layer)
    graph = torch.export.export(layer, (torch.randn(1, 4, 2, 2),)).graph
    called: list[Callable[..., object] | str] = [node.target for node in graph.nodes if node.op == "call_function"]
    assert called == [torch.ops.aten.conv2d.default]
