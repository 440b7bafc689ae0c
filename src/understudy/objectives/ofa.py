"""One for all: the student's stages answer in logits, whatever family the teacher is of (OFA, Hao et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.base import LOGITS, BuildContext, Needs, Objective, check_number, require_teacher
from understudy.objectives.batch_norm import ChannelNorm
from understudy.objectives.features import KINDS, Shape, tap_of
from understudy.objectives.kd import teacher_log_probs, teacher_logits_of
from understudy.signals import Batch, Signals


def ofa_loss(student_logits: Tensor, teacher_logits: Tensor, targets: Tensor | None, gamma: float = 1.0) -> Tensor:
    """`mean -sum_c ((p_c + [c = y])^gamma - [c = y]) log q_c` at temperature 1 (Hao et al. 2023).

    A gamma above 1 makes more of the target class where the teacher is sure of it. A row without a label (-1, or
    `targets` None) has the teacher's distribution to the power alone. Student logits are (B, C); the teacher's (B, C),
    or (M, B, C) of an ensemble, whose distributions are averaged.

    >>> logits = torch.tensor([[0.0, 0.0]])
    >>> round(ofa_loss(logits, logits, torch.tensor([0]), gamma=2.0).item(), 4)  # (1.25 + 0.25) log 2
    1.0397
    """
    p = teacher_log_probs(teacher_logits, 1.0).exp()
    log_q = F.log_softmax(student_logits.float(), dim=1)
    own = torch.zeros_like(p)
    if targets is not None:
        own = own.scatter(1, targets.clamp_min(0)[:, None], (targets >= 0).to(p)[:, None])
    return -(((p + own) ** gamma - own) * log_q).sum(1).mean()


class OneForAll(Objective):
    """`ofa_loss` of the student's logits and of those of an exit at the end of each stage, as the authors sum them.

    An exit is, for each stage that follows, a block of separable convolutions that halves the map, or a 1x1 convolution
    at the last stage; then global pooling and a Linear. It reads the teacher's logits only, so the teacher may be of
    any family; the student's stages must be feature maps. `width` is the width of the pooled features.
    """

    summary = "exits at the student's stages learn the teacher's logits (OFA, Hao et al. 2023)"
    supports_mixup = False  # it reads one class

    def __init__(self, stages: Sequence[tuple[str, Shape]], classes: int, width: int, gamma: float = 1.0) -> None:
        super().__init__()
        check_number("gamma", gamma, above=True, most=100)
        self.gamma, self.taps = gamma, tuple(tap for tap, _ in stages)
        self.needs = Needs(LOGITS | set(self.taps), LOGITS)
        self.exits = nn.ModuleList(
            _exit(shape[0], len(stages) - 1 - index, width, classes) for index, (_, shape) in enumerate(stages)
        )
        for layer in self.exits.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    @classmethod
    def from_shapes(cls, context: BuildContext, **options: Any) -> Self:
        stages = [(tap, shape) for tap, shape in context.student.features.items() if len(shape) == 3]
        if not stages:
            raise ValueError(f"OneForAll reads {KINDS[3]} of the student, which has none: use an objective of logits")
        width = max(context.student.embedding, context.teacher.embedding)
        return cls(stages, context.student.classes, width, **options)

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        logits = teacher_logits_of(require_teacher(self, teacher))
        with torch.autocast(student.logits.device.type, enabled=False):
            stages = [tap_of(student, tap, "student").float() for tap in self.taps]
            early = [leave(stage) for leave, stage in zip(self.exits, stages, strict=True)]
        losses = [ofa_loss(own, logits, batch.targets, self.gamma) for own in (*early, student.logits)]
        return torch.stack(losses).sum()


def _exit(channels: int, following: int, width: int, classes: int) -> nn.Sequential:
    blocks: list[nn.Module] = [] if following else [nn.Conv2d(channels, width, 1)]
    for index in range(following):
        out = width if index == following - 1 else 2 * channels
        blocks += [*_separable(channels, channels, stride=2), *_separable(channels, out, stride=1)]
        channels = out
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def _separable(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """A depthwise 3x3 and a 1x1 convolution, BatchNorm and ReLU."""
    depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
    return [depthwise, nn.Conv2d(inputs, outputs, 1, bias=False), ChannelNorm(outputs), nn.ReLU()]
