"""Mobile networks: MobileNetV2 (Sandler et al. 2018) and ShuffleNet V1 and V2 (Zhang et al. 2018, Ma et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from understudy.models.cifar.blocks import Residual, Shuffle, Staged, conv_bn, initialized
from understudy.models.cifar.resnets import make_stages

# MobileNetV2: (expansion, channels, blocks, stride) of each group, and the groups that end a stage
_GROUPS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STAGE_ENDS = (1, 2, 4, 6)


def mobilenetv2(channels: int, classes: int, *, width: float = 0.5) -> Staged:
    """Inverted residuals with a stride-2 stem and none in the second group: 2x2 final maps for 32 pixels.

    Stage outputs are linear bottlenecks, without ReLU.
    """
    inp = int(32 * width)
    stem = conv_bn(channels, inp, 3, 2)
    stages: list[nn.Module] = []
    blocks: list[nn.Module] = []
    for index, (expansion, size, count, stride) in enumerate(_GROUPS):
        out = int(size * width)
        for i in range(count):
            blocks.append(_inverted(inp, out, stride if i == 0 else 1, expansion))
            inp = out
        if index in _STAGE_ENDS:
            stages.append(nn.Sequential(*blocks))
            blocks = []
    return initialized(Staged(stem, stages, conv_bn(inp, 1280), 1280, classes), head_std=0.01)


def _inverted(inp: int, out: int, stride: int, expansion: int) -> nn.Module:
    inner = inp * expansion
    body = nn.Sequential(
        conv_bn(inp, inner), conv_bn(inner, inner, 3, stride, groups=inner), conv_bn(inner, out, relu=False)
    )
    return Residual(body, nn.Identity(), nn.Identity()) if stride == 1 and inp == out else body


class _PooledConcat(nn.Module):
    """`relu(concat(body(x), pool(x)))`: the downsampling unit of ShuffleNet V1."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.pool, self.act = body, nn.AvgPool2d(3, 2, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(torch.cat([self.body(x), self.pool(x)], 1))


def shufflenetv1(channels: int, classes: int, *, groups: int = 3) -> Staged:
    """Grouped 1x1 convolutions with channel shuffle; a 1x1 stem, and each stage downsamples by 2."""

    def unit(inp: int, out: int, stride: int) -> nn.Module:
        new = out - inp if stride == 2 else out  # the pooled input provides the other channels
        inner, first = new // 4, 1 if inp == 24 else groups
        body = nn.Sequential(
            conv_bn(inp, inner, groups=first),
            Shuffle(first),
            conv_bn(inner, inner, 3, stride, groups=inner),
            conv_bn(inner, new, groups=groups, relu=False),
        )
        return _PooledConcat(body) if stride == 2 else Residual(body, nn.Identity(), nn.ReLU(inplace=True))

    stages = make_stages(unit, 24, [240, 480, 960], [4, 8, 4], stride=2)
    return Staged(conv_bn(channels, 24), stages, nn.Identity(), 960, classes)


class _Split(nn.Module):
    """`shuffle(concat(left, body(right)))` of two halves of the channels: the basic unit of ShuffleNet V2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            conv_bn(half, half), conv_bn(half, half, 3, groups=half, relu=False), conv_bn(half, half)
        )
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return self.shuffle(torch.cat([left, self.body(right)], 1))


class _Halve(nn.Module):
    """`shuffle(concat(left(x), right(x)))`: the downsampling unit of ShuffleNet V2."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        half = out // 2
        self.left = nn.Sequential(conv_bn(inp, inp, 3, 2, groups=inp, relu=False), conv_bn(inp, half))
        self.right = nn.Sequential(
            conv_bn(inp, half), conv_bn(half, half, 3, 2, groups=half, relu=False), conv_bn(half, half)
        )
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(torch.cat([self.left(x), self.right(x)], 1))


def shufflenetv2(channels: int, classes: int) -> Staged:
    """ShuffleNet V2 1x with a 1x1 stem; each stage downsamples by 2."""

    def unit(inp: int, out: int, stride: int) -> nn.Module:
        return _Halve(inp, out) if stride == 2 else _Split(out)

    stages = make_stages(unit, 24, [116, 232, 464], [4, 8, 4], stride=2)
    return Staged(conv_bn(channels, 24), stages, conv_bn(464, 1024), 1024, classes)
