"""Errors that a user can fix, and the one that says that a run was stopped."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LISTED = 250  # characters of a list of known words
_LONG = 400  # characters of a word, above which it is shortened


class UnderstudyError(ValueError):
    """A mistake that the caller can fix. Its text is one sentence that says how.

    >>> print(UnderstudyError("there is no file a\\x1b[31m"))
    there is no file a\\x1b[31m
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


class UnderstudyWarning(UserWarning):
    """Something that the user should know."""


class Diverged(UnderstudyError):
    """A loss that became NaN or infinite."""


class Interrupted(Exception):
    """A run was stopped by a signal (Ctrl-C, SIGTERM), wrote a checkpoint and can be resumed."""

    def __init__(self, run: str, step: int, signal_number: int) -> None:
        super().__init__(f"stopped at step {step:,}; continue with: understudy resume {run}")
        self.run, self.step, self.signal_number = run, step, signal_number

    def __reduce__(self) -> tuple[type[Interrupted], tuple[str, int, int]]:
        return Interrupted, (self.run, self.step, self.signal_number)


def one_line(text: str) -> str:
    """A text for the terminal: on one line, with control characters escaped and endless words shortened.

    >>> one_line("a name\\nwith \\x07"), len(one_line("x" * 5000))
    ('a name with \\\\x07', 203)
    """
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
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
