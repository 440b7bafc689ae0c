"""Connected speech synthesized from isolated words: recordings of one speaker, joined with random pauses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.randomness import integers, mix, name_key, permutation, unit_bits
from understudy.speech.corpus import Recording

SHORTEST, LONGEST = 3, 7  # recordings per string
_LEAST, _MOST = 0.05, 0.35  # duration of a pause in seconds
_LENGTH, _PAUSE = 1, 2  # random streams
_NOISE = 0.01  # RMS of the noise in pauses, relative to the quietest recording: -40 dB
_EDGE = 0.005  # fade-in and fade-out of a recording in seconds


@dataclass(frozen=True)
class StringPlan:
    """A string to synthesize: its name, its recordings, and the pauses before, between and after them."""

    name: str
    recordings: tuple[Recording, ...]
    pauses: tuple[float, ...]
    seed: int

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(word for one in self.recordings for word in one.words)


def plan_strings(recordings: Sequence[Recording], seed: int, part: str) -> list[StringPlan]:
    """Divide one part's recordings into strings of 3 to 7 from one speaker, each used at most once.

    A speaker's strings depend only on the seed, the part and the speaker's own recordings.
    """
    speakers: dict[str, list[Recording]] = {}
    for one in recordings:
        if one.part == part:
            speakers.setdefault(one.speaker, []).append(one)
    plans = []
    for speaker, own in sorted(speakers.items()):
        key = int(mix(seed, name_key(f"strings {part}"), name_key(speaker)))
        order = [own[i] for i in permutation(len(own), key).tolist()]
        at = number = 0
        while at < len(order):
            draw = mix(key, number)
            count = int(integers(draw, _LENGTH, SHORTEST, LONGEST + 1))
            chosen = order[at : at + count]
            if len(chosen) < SHORTEST:
                break
            pauses = [
                _LEAST + (_MOST - _LEAST) * int(integers(mix(draw, i), _PAUSE, 0, 10_000)) / 10_000
                for i in range(len(chosen) + 1)
            ]
            plans.append(StringPlan(f"{part}-{speaker or 'all'}-{number:04d}", tuple(chosen), tuple(pauses), int(draw)))
            at, number = at + count, number + 1
    return plans


def join(plan: StringPlan, waves: Mapping[str, Tensor], rate: int) -> Tensor:
    """Samples of a string: its recordings (`waves` by name) with faded ends, and quiet noise in the pauses."""
    sounds = [waves[one.name] for one in plan.recordings]
    level = max(_NOISE * min(float(sound.square().mean().sqrt()) for sound in sounds), 2.0**-13)
    parts: list[Tensor] = []
    for number, pause in enumerate(plan.pauses):
        n = round(pause * rate)
        parts.append(level * _noise(plan.seed, number, n))
        if number < len(sounds):
            parts.append(_faded(sounds[number], round(_EDGE * rate)))
    return torch.cat(parts)


def _noise(seed: int, number: int, n: int) -> Tensor:
    """(n,) near-Gaussian noise of unit variance, sums of four uniform draws determined by (seed, number)."""
    bits = unit_bits(mix(seed, number, torch.arange(n)), 4).float() / 2**15
    return bits.sum(1) * (3 / 4) ** 0.5


def _faded(wave: Tensor, n: int) -> Tensor:
    ramp = torch.linspace(0, 1, n + 1)[1:]
    faded = wave.clone()
    faded[:n] *= ramp
    faded[-n:] *= ramp.flip(0)
    return faded
