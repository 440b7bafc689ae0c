"""CIFAR ResNets (He et al. 2016), ResNet-50 with a small stem, and Wide ResNets (Zagoruyko & Komodakis 2016)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from understudy.models.cifar.blocks import Residual, Staged, conv_bn, initialized

Block = Callable[[int, int, int], nn.Module]
"""Constructor of a block: input channels, output channels, stride."""


def basic(inp: int, out: int, stride: int) -> nn.Module:
    """Two 3x3 convolutions."""
    return _residual(nn.Sequential(conv_bn(inp, out, 3, stride), conv_bn(out, out, 3, relu=False)), inp, out, stride)


def bottleneck(inp: int, out: int, stride: int) -> nn.Module:
    """1x1, 3x3 and 1x1 convolutions, with a quarter of the channels in between."""
    width = out // 4
    body = nn.Sequential(conv_bn(inp, width), conv_bn(width, width, 3, stride), conv_bn(width, out, relu=False))
    return _residual(body, inp, out, stride)


def _residual(body: nn.Module, inp: int, out: int, stride: int) -> nn.Module:
    same = stride == 1 and inp == out
    shortcut = nn.Identity() if same else conv_bn(inp, out, 1, stride, relu=False)
    return Residual(body, shortcut, nn.ReLU(inplace=True))


class PreActivation(nn.Module):
    """`body(h) + shortcut` with `h = relu(norm(x))`; the shortcut is x, or a projection of h if shapes differ."""

    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.BatchNorm2d(inp), nn.ReLU(inplace=True))
        self.body = nn.Sequential(conv_bn(inp, out, 3, stride), nn.Conv2d(out, out, 3, padding=1, bias=False))
        self.shortcut = None if inp == out else nn.Conv2d(inp, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        return self.body(h) + (x if self.shortcut is None else self.shortcut(h))


def make_stages(block: Block, inp: int, widths: list[int], counts: list[int], stride: int = 1) -> list[nn.Module]:
    """Stages of blocks; the first block downsamples by 2, in the first stage by `stride`."""
    stages: list[nn.Module] = []
    for width, count in zip(widths, counts, strict=True):
        first = block(inp, width, 2 if stages else stride)
        stages.append(nn.Sequential(first, *[block(width, width, 1) for _ in range(count - 1)]))
        inp = width
    return stages


def resnet(channels: int, classes: int, *, depth: int, widths: tuple[int, int, int, int] = (16, 16, 32, 64)) -> Staged:
    """Three stages of (depth - 2) / 6 basic blocks; `widths` are the channels of the stem and the stages."""
    stages = make_stages(basic, widths[0], list(widths[1:]), [(depth - 2) // 6] * 3)
    return initialized(Staged(conv_bn(channels, widths[0], 3), stages, nn.Identity(), widths[3], classes))


def resnet50(channels: int, classes: int) -> Staged:
    """ResNet-50 with a single 3x3 convolution as stem, without pooling."""
    stages = make_stages(bottleneck, 64, [256, 512, 1024, 2048], [3, 4, 6, 3])
    return initialized(Staged(conv_bn(channels, 64, 3), stages, nn.Identity(), 2048, classes))


def wrn(channels: int, classes: int, *, depth: int, widen: int) -> Staged:
    """Wide pre-activation ResNet with three stages of (depth - 4) / 6 blocks.

    Stage outputs are the residual sums before the next norm and ReLU, as published comparisons use them. The
    activations after these are `layer2.0.enter`, `layer3.0.enter` and `tail`.
    """
    widths = [16 * widen, 32 * widen, 64 * widen]
    stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
    tail = nn.Sequential(nn.BatchNorm2d(widths[2]), nn.ReLU(inplace=True))
    stages = make_stages(PreActivation, 16, widths, [(depth - 4) // 6] * 3)
    return initialized(Staged(stem, stages, tail, widths[2], classes), head_bias=False)
