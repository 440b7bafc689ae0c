"""Weights that libraries download: asked for only where a server answers, and read as tensors only."""

from __future__ import annotations

import os
import pickle
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from understudy.errors import UnderstudyError
from understudy.models.spec import Spec

_SECONDS = 4  # that a server may take to answer at all


def check_reachable(url: str, spec: Spec, advice: str) -> None:
    """Raise if a server does not answer in a few seconds; the libraries would try again for a minute."""
    answers: SimpleQueue[Exception | None] = SimpleQueue()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_SECONDS).close()
        except urllib.error.HTTPError:
            answers.put(None)  # an answer all the same
        except (OSError, ValueError) as error:
            answers.put(error)
        else:
            answers.put(None)

    threading.Thread(target=ask, daemon=True).start()  # a thread, as looking up a name has no time limit
    try:
        error = answers.get(timeout=_SECONDS)
    except Empty:
        error = TimeoutError()
    if error is not None:
        raise _not_downloaded(spec, error, advice)


@contextmanager
def tensors_only(spec: Spec, advice: str) -> Iterator[None]:
    """Have the libraries' own loaders read tensors only, whatever they pass to `torch.load`.

    Args:
        advice: what to do if the weights cannot be downloaded.
    """
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    except pickle.UnpicklingError:
        raise UnderstudyError(
            f"the downloaded weights of {spec} are damaged or hold pickled objects, which are never run; {advice}"
        ) from None
    except Exception as error:
        # huggingface_hub does not wrap the errors of httpx
        if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):
            raise
        raise _not_downloaded(spec, error, advice) from None
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _not_downloaded(spec: Spec, error: Exception, advice: str) -> UnderstudyError:
    return UnderstudyError(
        f"the weights of {spec} are not on this machine and could not be downloaded ({type(error).__name__}); {advice}"
    )
