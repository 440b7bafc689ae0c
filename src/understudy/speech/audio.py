"""Sound files: WAV, FLAC and OGG through libsndfile, one channel, with what is wrong with them in words."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from understudy.data import Unreadable
from understudy.errors import UnderstudyError
from understudy.speech.features import RATES

_FULL = 0.9999  # of full scale
_CLIPPED = 3  # neighbouring samples at full scale: where a wave was cut off, and not where it just reached the top


@dataclass(frozen=True)
class Sound:
    """One channel.

    Attributes:
        wave: (n,) float32 in [-1, 1].
        rate: samples a second, one of `RATES`.
        clipped: whether its peaks were cut off; it can be used, with less success.
    """

    wave: Tensor
    rate: int
    clipped: bool = False


def read_sound(file: BinaryIO, window: float = 0.025) -> Sound:
    """Decode a file.

    Args:
        window: seconds that there must at least be.

    Raises:
        Unreadable: it is not audio, empty, silent, of several channels, too short or of another rate.
        UnderstudyError: soundfile is not installed.
    """
    soundfile = need("soundfile")
    try:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, TypeError, OSError):
        raise Unreadable("it is not audio that can be read; give a whole WAV, FLAC or OGG file") from None
    return checked_sound(samples, int(rate), window)


def checked_sound(samples: np.ndarray, rate: int, window: float = 0.025) -> Sound:
    """(n, channels) samples as a `Sound`; raises `Unreadable` as `read_sound` does."""
    n, channels = samples.shape
    if n == 0:
        raise Unreadable("it is empty; record it again")
    if channels != 1:
        raise Unreadable(f"it has {channels} channels, where one was expected; mix it down to mono")
    if rate not in RATES:
        raise Unreadable(
            f"it is sampled at {rate:,} Hz, where {' or '.join(f'{r:,}' for r in RATES)} was expected; resample it"
        )
    wave = torch.from_numpy(np.ascontiguousarray(samples[:, 0]))
    if not bool(torch.isfinite(wave).all()):
        raise Unreadable("it holds NaN or infinity; record it again")
    if n < window * rate:
        raise Unreadable(f"it lasts {1000 * n / rate:.0f} ms, less than one window of {1000 * window:.0f} ms; drop it")
    if float(wave.max() - wave.min()) < 2.0**-14:
        raise Unreadable("it is silent; record it again")
    full = (wave.abs() >= _FULL).float()
    runs = full.unfold(0, _CLIPPED, 1).sum(1) if n >= _CLIPPED else full
    return Sound(wave, rate, clipped=bool((runs >= _CLIPPED).any()))


def need(module: str) -> Any:
    """A module of the extra `speech`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise UnderstudyError(f"{module} is not installed; pip install 'understudy[speech]'") from None
    except OSError as fault:  # soundfile without its library
        raise UnderstudyError(f"{module} cannot be used ({fault}); pip install 'understudy[speech]' again") from None
