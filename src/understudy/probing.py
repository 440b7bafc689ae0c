"""`probe`: the frozen representations of a run's networks, read by linear classifiers on any data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from understudy.data import Source, only_classes, open_source
from understudy.data.batches import count_reasons
from understudy.errors import UnderstudyError
from understudy.evaluation.probe import Probe, embeddings_of, hold_out, linear_probe
from understudy.machine import device_of
from understudy.models import Network
from understudy.panels import load_teacher
from understudy.preparing import networks_of, weights_of


@dataclass(frozen=True)
class ProbedSet:
    """Every network's linear probe on one data set.

    Attributes:
        data: the set's name.
        classes: how many the probes were fitted to.
        train, test: numbers of samples.
        probes: network -> its probe, as "alone-0" or "distilled-crd-0".
        set_aside: reason -> how many records could not be read.
    """

    data: str
    classes: int
    train: int
    test: int
    probes: dict[str, Probe]
    set_aside: dict[str, int]

    @property
    def groups(self) -> dict[str, list[Probe]]:
        """The seeds of each kind of network, as "alone" or "distilled-crd"."""
        found: dict[str, list[Probe]] = {}
        for name, probe in self.probes.items():
            head, _, number = name.rpartition("-")
            found.setdefault(head if number.isdecimal() else name, []).append(probe)
        return found

    def mean(self, group: str) -> float:
        """Mean accuracy over seeds."""
        return fmean(probe.accuracy for probe in self.groups[group])

    def sd(self, group: str) -> float | None:
        """The sample standard deviation of the accuracy over seeds; None below two."""
        values = [probe.accuracy for probe in self.groups[group]]
        return stdev(values) if len(values) > 1 else None

    def to_json(self) -> dict[str, Any]:
        means = {group: {"accuracy": self.mean(group), "sd": self.sd(group)} for group in self.groups}
        return asdict(self) | {"means": means}


def probe(
    target: str | Path | Mapping[str, Network],
    *data: object,
    teacher: Sequence[str | Path] = (),
    only_classes: Sequence[str | int] = (),
    data_root: str | Path | None = None,
    download: bool = False,
    size: int | None = None,
) -> list[ProbedSet]:
    """Fit linear probes to the frozen penultimate layers of networks, on data of any classes, sizes and channels.

    Args:
        target: a run folder, a weights file, or networks by name, all on one device; names such as "alone-0" and
            "alone-1" are seeds of one kind.
        data: whatever `open_source` opens. A set without a labelled test part gives a fifth of each class to it.
        teacher: run folders or weights files to probe too.
        only_classes: of the data, by name or index; all where empty.
        data_root, download, size: as for `open_source`.

    Returns:
        One for each data set, in their order.

    Raises:
        UnderstudyError: a set without labels, with one class only or too few samples, or a network that cannot be
            probed.
    """
    if not data:
        raise UnderstudyError("there is no data to probe on; name sets, as in: understudy probe RUN digits photos/")
    networks = dict(target) if isinstance(target, Mapping) else placed(networks_of(target))
    networks = _teachers(teacher) | networks
    if not networks:
        raise UnderstudyError("there is no network to probe; give at least one")
    root = Path(data_root) if data_root is not None else None
    found = []
    for one in data:
        splits = open_source(one, root=root, download=download, size=size)
        found.append(_probed(networks, splits.train, splits.test, only_classes))
    return found


def _probed(
    networks: Mapping[str, Network], train: Source, test: Source | None, names: Sequence[str | int]
) -> ProbedSet:
    if train.targets is None:
        raise UnderstudyError(f"{train.name} has no labels for a linear probe to learn; give a labelled set")
    if test is not None and test.targets is None:
        test = None
    if names:
        train = train.subset(only_classes(train, names))
        test = None if test is None else test.subset(only_classes(test, names))
    if test is None:
        kept, held = hold_out(train)
        train, test = train.subset(kept), train.subset(held)
    aside = dict(train.set_aside) | dict(test.set_aside)
    seen, unseen = (embeddings_of(networks, part, set_aside=aside) for part in (train, test))
    return ProbedSet(
        train.name,
        len(seen.targets.unique()),
        len(seen.targets),
        len(unseen.targets),
        {name: linear_probe(seen, unseen, name) for name in networks},
        count_reasons(aside),
    )


def _teachers(files: Sequence[str | Path]) -> dict[str, Network]:
    """Teachers of one architecture are taken for seeds of one kind."""
    networks = [load_teacher(file) for name in files for file in weights_of(str(name))]
    several = len({network.spec for network in networks}) > 1
    return placed({f"teacher-{n.spec}-{i}" if several else f"teacher-{i}": n for i, n in enumerate(networks)})


def placed(networks: Mapping[str, Network]) -> dict[str, Network]:
    """The networks on one device, the accelerator where there is one."""
    return {name: network.to(device_of()) for name, network in networks.items()}
