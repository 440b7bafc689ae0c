"""Errors that a user can fix, and the one that says that a run was stopped."""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Iterable

from understudy.escaping import printable

_LISTED = 250  # characters of a list of known words
_LONG = 400  # characters of a word, above which it is shortened


class _Printable:
    """A message that may name files and classes: on one line, and what a terminal would obey is shown as escapes."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class UnderstudyError(_Printable, ValueError):
    """A mistake that the caller can fix. Its text is one sentence that says how.

    >>> print(UnderstudyError("there is no file a\\x1b[31m"))
    there is no file a\\x1b[31m
    """


class UnderstudyWarning(_Printable, UserWarning):
    """Something that the user should know."""


class Diverged(UnderstudyError):
    """A loss that became NaN or infinite."""


class Interrupted(_Printable, Exception):
    """A run was stopped by a signal (Ctrl-C, SIGTERM), wrote a checkpoint and can be resumed."""

    def __init__(self, run: str, step: int, signal_number: int) -> None:
        super().__init__(f"stopped at step {step:,}; continue with: understudy resume {run}")
        self.run, self.step, self.signal_number = run, step, signal_number

    def __reduce__(self) -> tuple[type[Interrupted], tuple[str, int, int]]:
        return Interrupted, (self.run, self.step, self.signal_number)

    def named(self, run: str) -> Interrupted:
        """The same, of a folder that holds the run."""
        return Interrupted(run, self.step, self.signal_number)


class ProcessKilled(Interrupted):
    """One of a run's processes was killed; the run can be resumed from its newest checkpoint."""

    def __init__(self, run: str, rank: int, signal_number: int) -> None:
        how = f"was killed by {signal.Signals(signal_number).name}"
        if signal_number == signal.SIGKILL:
            how += ", perhaps for lack of memory"
        Exception.__init__(self, f"the process of rank {rank} {how}; continue with: understudy resume {run}")
        self.run, self.rank, self.signal_number = run, rank, signal_number

    def __reduce__(self) -> tuple[type[Interrupted], tuple[str, int, int]]:
        return ProcessKilled, (self.run, self.rank, self.signal_number)

    def named(self, run: str) -> Interrupted:
        return ProcessKilled(run, self.rank, self.signal_number)


def one_line(text: str) -> str:
    """A text for the terminal: on one line, with control characters as escapes and endless words shortened.

    >>> one_line("a name\\nwith \\x07"), len(one_line("x" * 5000))
    ('a name with \\\\x07', 203)
    """
    line = printable(" ".join(text.split()))
    return re.sub(rf"\S{{{_LONG},}}", lambda word: f"{word[0][:150]}...{word[0][-50:]}", line)


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known word; else the known words, if they are few.

    >>> nearest("mlpp", ["mlp", "cnn"])
    "; did you mean 'mlp'?"
    """
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    listed = ", ".join(known)
    return f"; there are {listed}" if known and len(listed) <= _LISTED else ""
