"""A small plain convolutional net: a strong, quick teacher for images of 16 to 64 pixels."""

from __future__ import annotations

from torch import nn

from understudy.models.dropout import CounterDropout


def cnn(
    widths: list[int], shape: tuple[int, ...], classes: int, *, depth: int = 2, dropout: float = 0.0
) -> nn.Sequential:
    """Stages of `depth` 3x3 convolutions with BatchNorm and ReLU, halved between stages, averaged at the end.

    (B, C, H, W) -> (B, classes).

    Args:
        widths: channels of each stage.
        dropout: share of the averaged features dropped in training.
    """
    layers: list[nn.Module] = []
    channels = shape[0]
    for stage, width in enumerate(widths):
        if stage:
            layers.append(nn.MaxPool2d(2))
        for _ in range(depth):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if dropout:
        layers.append(CounterDropout(dropout))
    return nn.Sequential(*layers, nn.Linear(channels, classes))
