"""Converters of others: silenced, and their errors in one sentence."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from understudy.errors import UnderstudyError


def summarize(error: BaseException) -> str:
    """The first line of an error message, or the type of the error.

    >>> summarize(ValueError("no operator  for roll.\\nTraceback ..."))
    'no operator for roll'
    >>> summarize(KeyError())
    'KeyError'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[0])[:200].rstrip(".") if lines else type(error).__name__


@contextmanager
def export_errors(problem: str, remedy: str, summary: Callable[[BaseException], str] = summarize) -> Iterator[None]:
    """Silence an exporter, and turn its errors, which are of many types, into `UnderstudyError`s."""
    with quiet():
        try:
            yield
        except OSError:  # e.g. a full disk
            raise
        except Exception as error:
            raise UnderstudyError(f"{problem} ({summary(error)}); {remedy}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings, logs and prints of exporters, which concern their own internals."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
