"""The errors a user can mend, and the one signal that a run was asked to stop."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnderstudyError(ValueError):
    """A mistake the caller can mend. Its text is one sentence that says what to do about it."""


class UnderstudyWarning(UserWarning):
    """Something the user should know that does not stop the work."""


class Diverged(UnderstudyError):
    """A loss that became NaN or infinite."""


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM), wrote a checkpoint and can go on later."""

    def __init__(self, run: str, step: int, signal_number: int) -> None:
        super().__init__(f"stopped at step {step:,}; go on with: understudy resume {run}")
        self.run, self.step, self.signal_number = run, step, signal_number

    def __reduce__(self) -> tuple[type[Interrupted], tuple[str, int, int]]:
        return Interrupted, (self.run, self.step, self.signal_number)


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known word, or the list of them when none is close and it is short."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(known)}" if len(known) <= 40 else ""
