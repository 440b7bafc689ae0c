"""Connected strings: recordings of one speaker joined, with pauses that are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.randomness import integers, mix, name_key, permutation, unit_bits
from understudy.speech.corpus import Recording

SHORTEST, LONGEST = 3, 7  # recordings in a string
_LEAST, _MOST = 0.05, 0.35  # seconds of a pause
_LENGTH, _PAUSE = 1, 2  # streams of draws
_HUSH = 0.01  # the noise of a pause beside the softest recording: 40 dB below
_EDGE = 0.005  # seconds over which a recording fades in and out where it is joined


@dataclass(frozen=True)
class Plan:
    """A string before it is joined: what it is called, its recordings, and the pauses before, between and after."""

    name: str
    recordings: tuple[Recording, ...]
    pauses: tuple[float, ...]
    seed: int

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(word for one in self.recordings for word in one.words)


def plan_strings(recordings: Sequence[Recording], seed: int, part: str) -> list[Plan]:
    """Strings of 3 to 7 of one part's recordings, each used once; a speaker's last few may be left over.

    A function of the seed, the part and the speaker's own recordings: other speakers change nothing.
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
            plans.append(Plan(f"{part}-{speaker or 'all'}-{number:04d}", tuple(chosen), tuple(pauses), int(draw)))
            at, number = at + count, number + 1
    return plans


def join(plan: Plan, waves: Mapping[str, Tensor], rate: int) -> Tensor:
    """The string's samples: recordings by name, faded at their ends, with soft noise in the pauses."""
    sounds = [waves[one.name] for one in plan.recordings]
    level = max(_HUSH * min(float(sound.square().mean().sqrt()) for sound in sounds), 2.0**-13)
    parts: list[Tensor] = []
    for number, pause in enumerate(plan.pauses):
        n = round(pause * rate)
        parts.append(level * _noise(plan.seed, number, n))
        if number < len(sounds):
            parts.append(_faded(sounds[number], round(_EDGE * rate)))
    return torch.cat(parts)


def _noise(seed: int, number: int, n: int) -> Tensor:
    """(n,) of unit variance: sums of four uniform draws, which are a function of (seed, number) alone."""
    bits = unit_bits(mix(seed, number, torch.arange(n)), 4).float() / 2**15
    return bits.sum(1) * (3 / 4) ** 0.5


def _faded(wave: Tensor, n: int) -> Tensor:
    ramp = torch.linspace(0, 1, n + 1)[1:]
    faded = wave.clone()
    faded[:n] *= ramp
    faded[-n:] *= ramp.flip(0)
    return faded
