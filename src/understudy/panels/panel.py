"""A generalist and its specialists as a single network (Hinton, Vinyals and Dean 2015, section 5)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from understudy.errors import UnderstudyError, UnderstudyWarning
from understudy.models import Network, fold, to_channels_last
from understudy.panels.fusion import Fused, Groups
from understudy.signals import Batch, Shapes, Signals


@dataclass(frozen=True)
class PanelOutput:
    """The generalist's signals for a batch, which specialists are active (B, M), and the fused distributions."""

    general: Signals
    active: Tensor
    fused: Fused


class SpecialistPanel(Network):
    """A teacher made of a generalist and specialists, each active where the top classes include one of its group.

    Distributions are fused as in `panels.fusion`; `logits` are the log-probabilities of the result. Specialists run
    only on the samples for which they are active. All other signals are the generalist's. Always in eval mode, without
    gradients.

    Args:
        specialists: networks over either their group's classes, in order, plus a dustbin, or all classes.
        groups: class indices of each specialist, ascending.
        top_n: number of the generalist's most probable classes that activate specialists.
    """

    def __init__(
        self, generalist: Network, specialists: Sequence[Network], groups: Sequence[Sequence[int]], top_n: int = 1
    ) -> None:
        assert len(specialists) == len(groups)
        classes = generalist.classes
        for number, (network, group) in enumerate(zip(specialists, groups, strict=True)):
            own = tuple(classes[i] for i in group)
            if network.classes != classes and network.classes[:-1] != own:
                raise UnderstudyError(
                    f"specialist {number} has the classes {', '.join(network.classes[:8])}, but its group is "
                    f"{', '.join(own[:8])}; pass the specialist that was trained for this group"
                )
        if not 1 <= top_n <= len(classes):
            raise UnderstudyError(f"top_n must be between 1 and {len(classes)}, the number of classes; got {top_n}")
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

    # the interface that an ensemble of teachers expects

    @property
    def network(self) -> Network:
        """The network whose layers can be tapped."""
        return self.generalist

    @property
    def networks(self) -> tuple[Network, ...]:
        return (self.generalist, *self.specialists)

    def placed(self, device: torch.device | str) -> SpecialistPanel:
        """A copy for fast inference on a device, with networks folded where that is exact."""
        parts = [fold(network) for network in self.networks]
        copy = SpecialistPanel(parts[0], parts[1:], self.index, self.top_n)
        copy.class_bias = self.class_bias
        to_channels_last(copy, device)
        return copy

    def train(self, mode: bool = True) -> SpecialistPanel:
        nn.Module.train(self, False)  # always in eval mode
        return self

    @property
    def head_paths(self) -> tuple[str, ...]:
        """The generalist's classifiers, whose input is the embedding."""
        return tuple(f"0.module.{path}" for path in self.generalist.head_paths)

    def reorder_classes(self, classes: tuple[str, ...]) -> None:
        raise UnderstudyError(
            f"{self.name} predict the classes of the data in another order; train them on this data, or name its "
            "classes in their order"
        )

    def watch(self, signals: Iterable[str]) -> SpecialistPanel:
        self.generalist.watch(signals)
        self.signals = self.generalist.signals
        return self

    def shapes(self, taps: Sequence[str] | None = None) -> Shapes:
        return self.generalist.shapes(taps)

    def forward(self, batch: Batch | Tensor) -> Signals:
        with torch.autocast(self.mean.device.type, enabled=False) if self.full_precision else nullcontext():
            output = self.consult(batch)
        logits = output.fused.log_probs.float()
        if self.class_bias is not None:
            logits = logits + self.class_bias
        return Signals(logits, output.general.embedding, output.general.features)

    @torch.inference_mode()
    def consult(self, batch: Batch | Tensor) -> PanelOutput:
        general = self.generalist(batch)
        if self.groups.inside.device != general.logits.device:
            self.groups = Groups(self.index, len(self.classes), general.logits.device)
        logits = general.logits.float()
        active = self.groups.active(logits, self.top_n)
        special = [
            self._logits(batch, network, number, active[:, number].nonzero().flatten())
            for number, network in enumerate(self.specialists)
        ]
        with torch.autocast(logits.device.type, enabled=False):
            fused = self.groups.fuse(logits, special, active)
        if fused.unfinished:
            warnings.warn(
                f"fusing specialists did not converge for {fused.unfinished} of {len(logits)} samples "
                f"(gap of {float(fused.gap.max()):.1e} nats after {fused.steps} steps); lower top_n",
                UnderstudyWarning,
                stacklevel=2,
            )
        return PanelOutput(general, active, fused)

    def _logits(self, batch: Batch | Tensor, network: Network, number: int, rows: Tensor) -> Tensor:
        """(B, n + 1) logits of a specialist, for its group's classes and its dustbin; zeros where it is inactive."""
        group = self.groups.members[number]
        found = self.mean.new_zeros(len(batch), len(group) + 1)
        if len(rows):
            logits = network(batch if len(rows) == len(batch) else batch[rows]).logits.float()
            found[rows] = collapse_to_group(logits, group) if network.classes == self.classes else logits
        return found


def collapse_to_group(logits: Tensor, group: Tensor) -> Tensor:
    """Collapse (B, C) logits to (B, n + 1): those of a group's classes, and one dustbin for all others.

    Example:
        >>> probs = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
        >>> [round(p, 3) for p in collapse_to_group(probs.log(), torch.tensor([1, 3])).exp()[0].tolist()]
        [0.2, 0.4, 0.4]
    """
    rest = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    rest[group] = False
    return torch.cat([logits[:, group], logits[:, rest].logsumexp(1, keepdim=True)], 1)
