"""The distilled student against its rivals on the same test images: the student alone, the teacher, the backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from understudy.evaluation import discordant
from understudy.evaluation.facts import CompressionFacts, GivenFacts, Row
from understudy.reporting.significance import MIN_SEEDS, mcnemar, paired_t
from understudy.reporting.wording import p_value, percent, signed, spelled

ALONE = "the same student trained alone"
TEACHER = "the teacher"
ROUTES = {
    "as given": "the backbone as given",
    "linear probe": "a linear probe on the frozen backbone",
    "k-NN": "k-NN on the frozen backbone",
}


@dataclass(frozen=True)
class Network:
    """What is compared: an accuracy for each seed, and which examples are classified correctly."""

    name: str
    accuracy: Mapping[int, float]
    right: Mapping[int, str] = field(default_factory=dict)  # as `evaluation.outcomes`; "" if not known
    fixed: bool = False  # one network for all seeds of another

    @property
    def mean(self) -> float:
        return fmean(self.accuracy.values())

    @classmethod
    def of(cls, row: Row, name: str, *, fixed: bool = False) -> Network:
        seeds = {seed.seed: seed for seed in row.seeds}
        return cls(
            name, {i: one.accuracy for i, one in seeds.items()}, {i: one.right for i, one in seeds.items()}, fixed
        )

    @classmethod
    def single(cls, name: str, accuracy: float, right: str = "") -> Network:
        return cls(name, {0: accuracy}, {0: right}, fixed=True)


@dataclass(frozen=True, slots=True)
class Duel:
    """Two networks compared: the means over the seeds they share, and a test of their difference.

    Attributes:
        wins: Examples that only the first classifies correctly, of the first seed; None if not known.
        losses: Examples that only the second classifies correctly.
        p: Of the test; None without one.
        test: What was tested, in words; "" without a test.
    """

    first: Network
    second: Network
    seeds: tuple[int, ...]
    accuracy: tuple[float, float]
    wins: int | None
    losses: int | None
    p: float | None
    test: str
    interval: tuple[float, float] | None = None  # of the difference, at 95%, paired over seeds

    @property
    def points(self) -> float:
        """The difference in percentage points."""
        return 100 * (self.accuracy[0] - self.accuracy[1])

    @property
    def text(self) -> str:
        """The difference and its test, as in `+6.3 points, p = 0.004, McNemar's exact test, one seed`."""
        made = [f"{signed(self.points)} points"]
        if self.interval:
            made.append(f"95% interval {' to '.join(signed(100 * end) for end in self.interval)}")
        if self.p is not None:
            shown = p_value(self.p)
            made.append(f"p {shown[0]} {shown[1:]}" if shown[0] == "<" else f"p = {shown}")
        return ", ".join([*made, self.test or "untested"])


def duel(first: Network, second: Network) -> Duel:
    """Compare two networks: from three shared seeds by a paired t test, else by McNemar's exact test of each seed.

    Of several McNemar's tests the largest p counts, so that a difference has to hold in each seed.
    """
    shared = tuple(sorted(first.accuracy if second.fixed else first.accuracy.keys() & second.accuracy.keys()))
    if not shared:
        return Duel(first, second, (), (first.mean, second.mean), None, None, None, "")
    (only,) = second.accuracy if second.fixed else (None,)
    at = {seed: seed if only is None else only for seed in shared}
    mine, theirs = [first.accuracy[i] for i in shared], [second.accuracy[at[i]] for i in shared]
    counts = [discordant(first.right.get(i, ""), second.right.get(at[i], "")) for i in shared]
    wins, losses = counts[0] or (None, None)
    means = (fmean(mine), fmean(theirs))
    if len(shared) >= MIN_SEEDS and not second.fixed:
        found = paired_t(mine, theirs)
        test = f"paired over {spelled(len(shared), 'seed')}"
        if found is None:
            return Duel(first, second, shared, means, wins, losses, None, f"the same in {spelled(len(shared), 'seed')}")
        return Duel(first, second, shared, means, wins, losses, found.p, test, found.interval)
    known = [count for count in counts if count]
    if len(known) < len(counts):
        return Duel(first, second, shared, means, wins, losses, None, "")
    seeds = "one seed" if len(shared) == 1 else f"the largest p of {spelled(len(shared), 'seed')}"
    p = max(mcnemar(*count) for count in known)
    return Duel(first, second, shared, means, wins, losses, p, f"McNemar's exact test, {seeds}")


def duels(facts: CompressionFacts) -> list[Duel]:
    """The distilled student against the student alone, the teacher, and the backbones as they were given."""
    row = facts.row("distilled")
    return [] if row is None else [duel(Network.of(row, "distilled"), rival) for rival in _rivals(facts)]


def _rivals(facts: CompressionFacts) -> Iterator[Network]:
    for role, name in (("alone", ALONE), ("teacher", TEACHER)):
        if row := next((row for row in facts.rows if row.role == role), None):
            yield Network.of(row, name, fixed=role == "teacher" and len(row.seeds) == 1)
    for given in facts.given:
        yield from of_given(given, several=len(facts.given) > 1)


def of_given(given: GivenFacts, *, several: bool = False) -> list[Network]:
    """What a backbone was worth by each route."""
    end = f", {given.backbone}" if several else ""
    return [
        Network.single(f"{ROUTES.get(route, route)}{end}", accuracy, given.right.get(route, ""))
        for route, accuracy in given.accuracy.items()
    ]


def named(network: Network) -> str:
    """As in `a linear probe on the frozen backbone (92.9%)`."""
    return f"{network.name} ({percent(network.mean, 1)})"
