"""The race of students: successive halving by their accuracy on the validation part.

Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization": all entrants get
a share of the time, the better half goes on with twice the share each. Every round is a whole schedule of its own, so
that its entrants are compared as they would be handed over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ROUNDS_SHARE = 2
"""Of the entrants of a round, one in so many goes on."""


@dataclass(frozen=True)
class Entrant:
    """A student and how it is taught.

    Attributes:
        student: a model's name.
        method: one of the configuration's, perhaps with options.
        seconds: per image of its updates.
    """

    student: str
    method: str
    seconds: float

    def label(self) -> str:
        return f"{self.student} by {self.method}"


def rounds(entrants: int) -> int:
    """How many rounds leave one of them.

    >>> [rounds(n) for n in (1, 2, 3, 4, 5, 8)]
    [0, 1, 2, 2, 3, 3]
    """
    return math.ceil(math.log(entrants, ROUNDS_SHARE)) if entrants > 1 else 0


def survivors(entrants: Sequence[Entrant], accuracy: Sequence[float]) -> list[Entrant]:
    """The better half of a round, rounded up, the best first; of equals, the faster.

    >>> field = [Entrant(name, "kd", 1.0) for name in "abc"]
    >>> [one.student for one in survivors(field, [0.5, 0.7, 0.6])]
    ['b', 'c']
    """
    order = sorted(range(len(entrants)), key=lambda i: (-accuracy[i], entrants[i].seconds))
    return [entrants[i] for i in order[: math.ceil(len(entrants) / ROUNDS_SHARE)]]


def steps_of_round(seconds: float, entrants: Sequence[Entrant], batch_size: int) -> int:
    """Updates of each entrant of a round of so many seconds in all.

    >>> steps_of_round(100.0, [Entrant("a", "kd", 0.01), Entrant("b", "kd", 0.01)], 50)
    100
    """
    return max(1, int(seconds / sum(one.seconds * batch_size for one in entrants)))


def field_of(
    students: Sequence[tuple[str, float]], methods: Sequence[str], seconds: float, examples: int, fewest: int
) -> list[Entrant]:
    """Who runs: every student by the first method and, if time allows, the other methods with the first student.

    Args:
        students: names, with seconds per image, in the order of preference.
        seconds: of the whole race.
        examples: images of a pass.
        fewest: passes that each entrant must have in the first round.
    """
    wanted = [Entrant(name, methods[0], each) for name, each in students]
    wanted += [Entrant(students[0][0], method, students[0][1]) for method in methods[1:]]
    while len(wanted) > 1:
        share = seconds / rounds(len(wanted))
        if share / sum(one.seconds for one in wanted) >= fewest * examples:
            break
        wanted.pop()
    return wanted
