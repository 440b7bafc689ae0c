"""Reading and validating mono audio files: WAV, FLAC and OGG, through libsndfile."""

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

_FULL = 0.9999  # amplitude that counts as full scale
_CLIPPED = 3  # consecutive samples at full scale that count as clipping; a single peak may just reach it


@dataclass(frozen=True)
class Audio:
    """A mono recording."""

    wave: Tensor  # (n,) float32 in [-1, 1]
    rate: int  # sampling rate in Hz, one of `RATES`
    clipped: bool = False  # such a recording is usable, but recognized less reliably


def read_audio(file: BinaryIO, window: float = 0.025) -> Audio:
    """Decode an audio file of at least `window` seconds.

    Raises:
        Unreadable: It is not audio, empty, silent, not mono, too short or at an unsupported sampling rate.
    """
    soundfile = need("soundfile")
    try:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, TypeError, OSError):
        raise Unreadable("it is not audio in a supported format; use a complete WAV, FLAC or OGG file") from None
    return validate_audio(samples, int(rate), window)


def validate_audio(samples: np.ndarray, rate: int, window: float = 0.025) -> Audio:
    """Check (n, channels) samples; raises `Unreadable` as `read_audio` does.

    Example:
        >>> tone = 0.5 * np.sin(np.arange(8000))[:, None].astype(np.float32)
        >>> validate_audio(tone, 8000).clipped, validate_audio((4 * tone).clip(-1, 1), 8000).clipped
        (False, True)
    """
    n, channels = samples.shape
    if n == 0:
        raise Unreadable("it is empty; record it again")
    if channels != 1:
        raise Unreadable(f"it has {channels} channels; downmix it to mono")
    if rate not in RATES:
        raise Unreadable(f"its sampling rate is {rate:,} Hz; resample it to {' or '.join(f'{r:,}' for r in RATES)}")
    wave = torch.from_numpy(np.ascontiguousarray(samples[:, 0]))
    if not bool(torch.isfinite(wave).all()):
        raise Unreadable("it has NaN or infinite samples; record it again")
    if n < window * rate:
        raise Unreadable(
            f"it lasts {1000 * n / rate:.0f} ms, less than one window of {1000 * window:.0f} ms; remove it"
        )
    if float(wave.max() - wave.min()) < 2.0**-14:
        raise Unreadable("it is silent; record it again")
    full = (wave.abs() >= _FULL).float()
    runs = full.unfold(0, _CLIPPED, 1).sum(1) if n >= _CLIPPED else full
    return Audio(wave, rate, clipped=bool((runs >= _CLIPPED).any()))


def need(module: str) -> Any:
    """Import a module of the `speech` extra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise UnderstudyError(f"{module} is not installed; pip install 'understudy[speech]'") from None
    except OSError as fault:  # soundfile without its library
        raise UnderstudyError(
            f"{module} cannot be loaded ({fault}); reinstall it with: pip install 'understudy[speech]'"
        ) from None
