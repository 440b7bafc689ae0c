"""What the nets of the zoo share: conv-norm-ReLU, residual sums, channel shuffles, and the frame of a net."""

from __future__ import annotations

from torch import Tensor, nn


def conv_bn(
    inp: int, out: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, bias: bool = False, relu: bool = True
) -> nn.Sequential:
    """A convolution that keeps the size (but for its stride), BatchNorm, and ReLU unless told otherwise."""
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
    """Deal the channels of each of `groups` groups out in turn: (g, C/g) becomes (C/g, g)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class Staged(nn.Sequential):
    """`stem -> layer1 -> ... -> layerN -> tail -> mean over places -> fc`, (B, C, H, W) -> (B, classes).

    `layer1` to `layerN` are the stages; their outputs are the features that distillation compares by default.
    The mean is over whatever the image's size has left, so every size works that the strides leave a pixel of.

    Args:
        stem: from the image to the first stage.
        stages: one module each.
        tail: between the last stage and the mean.
        width: channels after the tail.
    """

    stage_paths: tuple[str, ...]

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


def initialised(net: Staged, *, head_std: float | None = None, head_bias: bool = True) -> Staged:
    """Kaiming normal convolutions of mode fan_out, as the published nets have them.

    Args:
        head_std: of the classifier's normal weights; None leaves PyTorch's own.
        head_bias: false sets the classifier's biases to zero, as `head_std` does.
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
