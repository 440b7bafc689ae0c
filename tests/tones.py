"""Made-up speech: words that are breathy tones one after another, said by speakers of different pitch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

TUNES = {"zero": (400, 900), "one": (900, 400), "two": (1500, 2200), "three": (2200, 700)}
"""Word -> the tones it is made of, in Hertz."""
PITCH = {"ada": 1.0, "bob": 1.06}


def wave(word: str, speaker: str = "ada", take: int = 0, rate: int = 8_000) -> np.ndarray:
    """A word as float32, 0.2 to 0.3 s long, a little different at each take."""
    random = np.random.default_rng([take, *word.encode(), *speaker.encode()])
    parts = []
    for hertz in TUNES[word]:
        n = int(rate * random.uniform(0.1, 0.15))
        pitch = hertz * PITCH[speaker] * random.uniform(0.97, 1.03)
        parts.append(np.sin(2 * np.pi * pitch * np.arange(n) / rate))
    sung = np.concatenate(parts)
    edge = np.minimum(np.arange(len(sung)), np.arange(len(sung))[::-1]) / (0.01 * rate)
    breath, room = 0.03 * random.normal(size=len(sung)), 0.001 * random.normal(size=len(sung))
    return ((0.3 * sung + breath) * edge.clip(0, 1) + room).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 8_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)
    return path


def digits(folder: Path, takes: int = 10, words: tuple[str, ...] = tuple(TUNES), rate: int = 8_000) -> Path:
    """A folder laid out as the free spoken digits are."""
    for number, word in enumerate(words):
        for speaker in PITCH:
            for take in range(takes):
                write(folder / f"{number}_{speaker}_{take}.flac", wave(word, speaker, take, rate), rate)
    return folder
