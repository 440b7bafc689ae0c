"""A generalist and its specialists, answering as one network (Hinton, Vinyals and Dean 2015, section 5)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from understudy.errors import UnderstudyError, UnderstudyWarning
from understudy.models import Network, fold, laid_out
from understudy.signals import Batch, Shapes, Signals
from understudy.teachers.fusion import Fused, Groups


@dataclass(frozen=True)
class Consulted:
    """What a panel said of a batch, and how.

    Attributes:
        general: the generalist's signals.
        active: (B, M) bool, which specialists were asked.
        fused: the joined distribution.
    """

    general: Signals
    active: Tensor
    fused: Fused


class SpecialistPanel(Network):
    """A teacher: for each image the generalist, and the specialists whose group meets its most probable classes.

    Their distributions are joined as `teachers.fusion` says; `logits` are the log-probabilities of the joint one. Only
    the specialists that are active are run, each on its own rows. All other signals are the generalist's. Always in
    eval mode and without gradients.

    Args:
        generalist: the network that knows all classes.
        specialists: each answers either its group's classes, in their order, and a dustbin, or all classes.
        groups: each specialist's class indices, rising.
        top_n: how many of the generalist's most probable classes call specialists.
    """

    def __init__(
        self, generalist: Network, specialists: Sequence[Network], groups: Sequence[Sequence[int]], top_n: int = 1
    ) -> None:
        assert len(specialists) == len(groups)
        classes = generalist.classes
        for number, (one, group) in enumerate(zip(specialists, groups, strict=True)):
            own = tuple(classes[i] for i in group)
            if one.classes != classes and one.classes[:-1] != own:
                raise UnderstudyError(
                    f"specialist {number} knows {', '.join(one.classes[:8])}; its group is {', '.join(own[:8])}: give "
                    "the specialist that was trained for this group"
                )
        if not 1 <= top_n <= len(classes):
            raise UnderstudyError(f"top_n must be from 1 to {len(classes)}, the number of classes; it is {top_n}")
        parts = nn.ModuleList([generalist, *specialists])
        super().__init__(parts, generalist.contract, f"{generalist.spec or 'module'} and {len(groups)} specialists")
        self.top_n = top_n
        self.index = [tuple(group) for group in groups]
        self.groups = Groups(self.index, len(classes), self.mean.device)
        self.eval().requires_grad_(False)

    @property
    def generalist(self) -> Network:
        part = self.module.get_submodule("0")
        assert isinstance(part, Network)
        return part

    @property
    def specialists(self) -> tuple[Network, ...]:
        return tuple(part for part in list(self.module.children())[1:] if isinstance(part, Network))

    # what an ensemble of teachers asks of each

    @property
    def network(self) -> Network:
        """Whose layers can be tapped."""
        return self.generalist

    @property
    def networks(self) -> tuple[Network, ...]:
        return (self.generalist, *self.specialists)

    def placed(self, device: torch.device | str) -> SpecialistPanel:
        """A copy to ask often: on a device, its networks folded where that is exact."""
        parts = [fold(one) for one in self.networks]
        copy = SpecialistPanel(parts[0], parts[1:], self.index, self.top_n)
        copy.class_bias = self.class_bias
        laid_out(copy, device)
        return copy

    def train(self, mode: bool = True) -> SpecialistPanel:
        nn.Module.train(self, False)  # as it was trained, whoever asks
        return self

    def watch(self, signals: Iterable[str]) -> SpecialistPanel:
        self.generalist.watch(signals)
        self.signals = self.generalist.signals
        return self

    def shapes(self, taps: Sequence[str] | None = None) -> Shapes:
        return self.generalist.shapes(taps)

    def forward(self, batch: Batch | Tensor) -> Signals:
        with torch.autocast(self.mean.device.type, enabled=False) if self.full_precision else nullcontext():
            said = self.consult(batch)
        logits = said.fused.log_probs.float()
        if self.class_bias is not None:
            logits = logits + self.class_bias
        return Signals(logits, said.general.embedding, said.general.features)

    @torch.inference_mode()
    def consult(self, batch: Batch | Tensor) -> Consulted:
        """Ask the generalist, then the specialists that it calls for, and join what they say."""
        general = self.generalist(batch)
        if self.groups.inside.device != general.logits.device:
            self.groups = Groups(self.index, len(self.classes), general.logits.device)
        logits = general.logits.float()
        active = self.groups.active(logits, self.top_n)
        special = [
            self._asked(batch, one, number, active[:, number].nonzero().flatten())
            for number, one in enumerate(self.specialists)
        ]
        with torch.autocast(logits.device.type, enabled=False):
            fused = self.groups.fuse(logits, special, active)
        if fused.unfinished:
            warnings.warn(
                f"the specialists' answers for {fused.unfinished} of {len(logits)} samples were joined only to "
                f"{float(fused.gap.max()):.1e} nats after {fused.steps} steps; ask fewer with a lower top_n",
                UnderstudyWarning,
                stacklevel=2,
            )
        return Consulted(general, active, fused)

    def _asked(self, batch: Batch | Tensor, one: Network, number: int, rows: Tensor) -> Tensor:
        """(B, n + 1) logits of a specialist's classes and its dustbin; zeros where it is not asked."""
        group = self.groups.members[number]
        said = self.mean.new_zeros(len(batch), len(group) + 1)
        if len(rows):
            logits = one(batch if len(rows) == len(batch) else batch[rows]).logits.float()
            said[rows] = collapsed(logits, group) if one.classes == self.classes else logits
        return said


def collapsed(logits: Tensor, group: Tensor) -> Tensor:
    """(B, C) logits of all classes as (B, n + 1): the group's, and one for the rest, with their probabilities' sum."""
    rest = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    rest[group] = False
    return torch.cat([logits[:, group], logits[:, rest].logsumexp(1, keepdim=True)], 1)
