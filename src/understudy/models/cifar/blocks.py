"""Building blocks of the CIFAR networks: Conv-BatchNorm-ReLU, residual blocks, channel shuffle, and the base class."""

from __future__ import annotations

from torch import Tensor, nn


def conv_bn(
    inp: int, out: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, bias: bool = False, relu: bool = True
) -> nn.Sequential:
    """A convolution with "same" padding, BatchNorm and, unless disabled, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=bias),
        nn.BatchNorm2d(out),
    ]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """`act(body(x) + shortcut(x))`."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


class Shuffle(nn.Module):
    """Channel shuffle: transposes (groups, C / groups) channels."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class Staged(nn.Sequential):
    """`stem -> layer1 -> ... -> layerN -> tail -> global average pooling -> fc`, (B, C, H, W) -> (B, classes).

    `layer1` to `layerN` are the stages, whose outputs are the default features of distillation, and `stem` what enters
    them; `width` is the number
    of output channels of the tail. Any image size works that the strides do not reduce to nothing.
    """

    stage_paths: tuple[str, ...]
    stem_paths = ("stem",)

    def __init__(self, stem: nn.Module, stages: list[nn.Module], tail: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.stage_paths = tuple(f"layer{depth}" for depth in range(1, len(stages) + 1))
        self.add_module("stem", stem)
        for path, stage in zip(self.stage_paths, stages, strict=True):
            self.add_module(path, stage)
        self.add_module("tail", tail)
        self.add_module("pool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())
        self.fc = nn.Linear(width, classes)


def initialized(net: Staged, *, head_std: float | None = None, head_bias: bool = True) -> Staged:
    """Initialize a network as published: Kaiming normal convolutions with fan_out mode.

    With `head_std` the classifier gets normal weights and zero biases, and without `head_bias` zero biases; otherwise
    it keeps PyTorch's defaults.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if head_std is not None:
        nn.init.normal_(net.fc.weight, std=head_std)
    if head_std is not None or not head_bias:
        nn.init.zeros_(net.fc.bias)
    return net
