"""What a source was made of, to tell later what of it has changed.

Samples are compared by id, label and contents. Contents are hashed, of large sources those of some samples only. The
contents of a record with the same size and time of change are not read again; where times differ, as in a copied
folder, hashes decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from understudy.data.source import Source
from understudy.randomness import name_key, uniform

_EXAMPLES = 3  # names in a message


@dataclass(frozen=True)
class Fingerprint:
    """What a source of N samples was made of."""

    classes: tuple[str, ...]
    ids: Tensor  # (N,) int64
    targets: Tensor | None  # (N,) int64
    names: Sequence[str]  # N, or none where only the position says which sample it is
    stamps: Tensor  # (N, 2) int64, see `Stamp`
    digests: Tensor  # (N,) int64; 0 for samples whose contents were not hashed

    @classmethod
    def of(cls, source: Source) -> Fingerprint:
        """The fingerprint of a source as it is now.

        >>> from understudy.data import open_source
        >>> digits = open_source("digits").train
        >>> differences(Fingerprint.of(digits), digits)
        []
        """
        stamps, digests = source.stamps(), torch.zeros(len(source), dtype=torch.int64)
        share = source.hashed / max(int(stamps[:, 0].sum()), 1)
        draw = uniform(source.ids, name_key("hashed"))  # by id, so that other samples do not matter
        rows = ((draw < share) | (draw == draw.min())).nonzero().flatten()
        digests[rows] = torch.tensor(source.digests(rows))
        return cls(source.classes, source.ids, source.targets, source.sample_names, stamps, digests)

    def among(self, ids: Tensor) -> Fingerprint:
        """That of those samples that have one of these ids (M,)."""
        rows = torch.isin(self.ids, ids).nonzero().flatten()
        names: Sequence[str] = [self.names[int(row)] for row in rows] if self.names else ()
        targets = None if self.targets is None else self.targets[rows]
        return Fingerprint(self.classes, self.ids[rows], targets, names, self.stamps[rows], self.digests[rows])

    def to_json(self) -> dict[str, Any]:
        """Columns, as lists."""
        sizes, changed = self.stamps.T.tolist()
        targets = None if self.targets is None else self.targets.tolist()
        return {
            "classes": list(self.classes), "ids": self.ids.tolist(), "targets": targets, "names": list(self.names),
            "sizes": sizes, "changed": changed, "digests": self.digests.tolist(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Fingerprint:
        """Raises TypeError, ValueError or KeyError for what `to_json` does not make."""
        stamps = torch.stack([_column(values["sizes"]), _column(values["changed"])], 1)
        targets = None if values["targets"] is None else _column(values["targets"])
        classes, names = (tuple(map(str, values[key])) for key in ("classes", "names"))
        found = cls(classes, _column(values["ids"]), targets, names, stamps, _column(values["digests"]))
        columns = (found.stamps, found.digests, *([] if targets is None else [targets]), *([names] if names else []))
        if any(len(column) != len(found.ids) for column in columns):
            raise ValueError("its columns differ in length")
        if targets is not None and len(targets) and not -1 <= int(targets.min()) <= int(targets.max()) < len(classes):
            raise ValueError("its labels are not among its classes")
        return found

    def name(self, row: int) -> str:
        return self.names[row] if self.names else _position(int(self.ids[row]))


def differences(known: Fingerprint, source: Source) -> list[str]:
    """What of a source is not as it was, each with its number and examples; empty if nothing.

    >>> import torch
    >>> from dataclasses import replace
    >>> from understudy.data import open_source
    >>> digits = open_source("digits").train
    >>> known = Fingerprint.of(digits)
    >>> differences(known, replace(digits, targets=digits.targets.flip(0)))[0]
    '1,290 samples relabeled (sample 0: 0, now 8; sample 1: 1, now 9; sample 3: 3, now 8; ...)'
    >>> differences(known, digits.subset(torch.arange(2, len(digits))))
    ['2 samples removed (sample 0, sample 1)']
    """
    found = _class_differences(known.classes, source.classes)
    names, both = source.sample_names, torch.isin(known.ids, source.ids)

    def name(row: int) -> str:
        return names[row] if names else _position(int(source.ids[row]))

    new = (~torch.isin(source.ids, known.ids)).nonzero().flatten().tolist()
    gone = (~both).nonzero().flatten().tolist()
    found += _listed(new, "added", name) + _listed(gone, "removed", known.name)
    if not new and not gone and not torch.equal(known.ids, source.ids):
        found.append("samples in another order")
    before = both.nonzero().flatten()  # rows of the samples that both have, then and now
    order = source.ids.argsort()
    now = order[torch.searchsorted(source.ids[order], known.ids[before])]
    found += _label_differences(known, source, before, now, name)
    changed = now[_changed(known, source, before, now)].tolist()
    return found + _listed(changed, "with other contents", name)


def _changed(known: Fingerprint, source: Source, before: Tensor, now: Tensor) -> Tensor:
    """(M,) bool: which of the samples that both have may have other contents."""
    then, today, digests = known.stamps[before], source.stamps()[now], known.digests[before]
    changed = then[:, 0] != today[:, 0]
    touched = ~changed & ((then[:, 1] != today[:, 1]) | (then[:, 1] == 0))
    hashed = touched & (digests != 0)
    rows = hashed.nonzero().flatten()
    changed[rows] = torch.tensor(source.digests(now[rows]), dtype=torch.int64) != digests[rows]
    if hashed.any():
        return changed  # new times, as of a copy; the hashes say for all
    return changed | (touched & (then[:, 1] != today[:, 1]))


def _label_differences(known: Fingerprint, source: Source, before: Tensor, now: Tensor, name: Any) -> list[str]:
    if known.targets is None or source.targets is None:
        if (known.targets is None) == (source.targets is None):
            return []
        return ["labels added" if known.targets is None else "labels removed"]
    index = {c: i for i, c in enumerate(source.classes)}
    named = (*known.classes, "no label")  # -1 stands for the last
    renumbered = torch.tensor([*(index.get(c, -2) for c in known.classes), -1], dtype=torch.int64)
    other = (renumbered[known.targets[before]] != source.targets[now]).nonzero().flatten().tolist()
    was = {int(now[i]): named[int(known.targets[before[i]])] for i in other}
    targets, names = source.targets, (*source.classes, "no label")
    return _listed(list(was), "relabeled", lambda row: f"{name(row)}: {was[row]}, now {names[int(targets[row])]}", "; ")


def _class_differences(known: Sequence[str], classes: Sequence[str]) -> list[str]:
    if sorted(known) == sorted(classes):
        return [] if list(known) == list(classes) else ["classes in another order"]
    new, gone = [c for c in classes if c not in set(known)], [c for c in known if c not in set(classes)]
    return _listed(new, "added", str, unit="class", units="classes") + _listed(
        gone, "removed", str, unit="class", units="classes"
    )


def _listed(
    rows: Sequence[Any], what: str, name: Any, join: str = ", ", *, unit: str = "sample", units: str = "samples"
) -> list[str]:
    """`"3 samples added (a.png, b.png, c.png)"`; nothing for no rows."""
    if not rows:
        return []
    examples = join.join(name(row) for row in rows[:_EXAMPLES]) + (f"{join}..." if len(rows) > _EXAMPLES else "")
    return [f"{len(rows):,} {unit if len(rows) == 1 else units} {what} ({examples})"]


def _position(identity: int) -> str:
    return f"sample {identity & (2**40 - 1)}"  # see `position_ids`


def _column(values: Sequence[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)
