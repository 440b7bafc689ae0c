"""From a corpus to a folder that a net can learn from: frames with the state of each, and what their words are.

frames.safetensors   frames, where utterances begin, states, parts: a data set as `open_source` opens it
speech.json          settings, words, utterances, what was set aside, how the alignment settled
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from understudy.data import Unreadable
from understudy.data.frames import FRAMES, Sequences, read_sequences
from understudy.data.gather import PARTS
from understudy.errors import UnderstudyError
from understudy.files import write_whole
from understudy.speech.alignment import Aligner, Utterance, train_aligner
from understudy.speech.audio import Sound, read_sound
from understudy.speech.corpus import Recording
from understudy.speech.features import Features, cepstra, levelled, log_mel, normalised
from understudy.speech.hmm import WordModels
from understudy.speech.strings import join, plan_strings

SPEECH = "speech.json"
ISOLATED, CONNECTED = "isolated", "connected"


@dataclass(frozen=True)
class Spoken:
    """One utterance of a prepared folder: its name, its words, its part, and whether it was joined of others."""

    name: str
    words: tuple[str, ...]
    part: str
    kind: str


@dataclass(frozen=True)
class Prepared:
    """What `speech.json` holds.

    Attributes:
        utterances: in the order of the sequences in `frames.safetensors`.
        set_aside: recording -> why it was.
        clipped: recordings whose peaks are cut off; they are used.
        history: log-likelihood a frame, from one alignment to the next.
    """

    corpus: str
    features: Features
    models: WordModels
    utterances: tuple[Spoken, ...]
    hold_out: tuple[str, ...] = ()
    seed: int = 0
    set_aside: dict[str, str] = field(default_factory=dict)
    clipped: tuple[str, ...] = ()
    history: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"models": models_to_json(self.models)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        made: dict[str, Any] = {name: tuple(value[name]) for name in ("hold_out", "clipped", "history")}
        made["utterances"] = tuple(Spoken(**one | {"words": tuple(one["words"])}) for one in value["utterances"])
        made["features"] = Features(**value["features"])
        made["models"] = models_from_json(value["models"])
        return cls(**value | made)

    def of(self, part: str) -> list[int]:
        """The numbers of a part's utterances."""
        return [i for i, one in enumerate(self.utterances) if one.part == part]


def models_to_json(models: WordModels) -> dict[str, Any]:
    return {
        "words": list(models.words), "states": models.states, "silence": models.silence, "stay": models.stay.tolist(),
    }  # fmt: skip


def models_from_json(value: dict[str, Any]) -> WordModels:
    return WordModels(tuple(value["words"]), value["states"], value["silence"], torch.tensor(value["stay"]))


def read_prepared(folder: Path) -> tuple[Prepared, Sequences]:
    """What `prepare` wrote.

    Raises:
        UnderstudyError: there is nothing of the kind, or it is damaged.
    """
    path = folder / SPEECH
    if not path.is_file():
        raise UnderstudyError(
            f"{folder} is not prepared speech: it has no {SPEECH}; make it by: understudy speech prepare"
        )
    try:
        prepared = Prepared.from_json(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as fault:
        raise UnderstudyError(f"{path} is damaged ({fault}); prepare the folder again") from None
    sequences = read_sequences(folder / FRAMES)
    if len(sequences.parts) != len(prepared.utterances):
        raise UnderstudyError(
            f"{path} names {len(prepared.utterances):,} utterances and {FRAMES} holds {len(sequences.parts):,}; "
            "prepare the folder again"
        )
    return prepared, sequences


def prepare_corpus(
    corpus: str,
    recordings: Sequence[Recording],
    folder: Path,
    *,
    states: int = 8,
    silence: int = 3,
    mixtures: int = 2,
    strings: bool | None = None,
    seed: int = 0,
    hold_out: Sequence[str] = (),
) -> Prepared:
    """Compute features, align, and write the folder.

    Connected strings are made where all recordings are of one word, unless `strings` is False: every recording is used
    once alone and once in a string of its own part. States are those of training utterances' best paths; other
    parts are aligned by the models that were trained on these.

    Args:
        corpus: its name in messages.
        states, silence: HMM states of a word, and of silence.
        mixtures: Gaussians a state that the alignment ends with.
    """
    if states < 2:
        raise UnderstudyError(f"a word needs at least 2 states; it is given {states}")
    sounds, set_aside = _sounds(corpus, recordings)
    recordings = [one for one in recordings if one.name in sounds]
    rate = _one_rate(corpus, sounds)
    features = Features(rate=rate)
    waves = {name: sound.wave for name, sound in sounds.items()}
    spoken = [(Spoken(one.name, one.words, one.part, ISOLATED), waves[one.name]) for one in recordings]
    alone = all(len(one.words) == 1 for one in recordings)
    if strings and not alone:
        raise UnderstudyError(f"{corpus} has recordings of several words already; leave out --strings")
    if alone and strings is not False:
        for part in PARTS:
            for plan in plan_strings(recordings, seed, part):
                spoken.append((Spoken(plan.name, plan.words, part, CONNECTED), join(plan, waves, rate)))
    elif not alone:
        spoken = [(replace(one, kind=CONNECTED), wave) for one, wave in spoken]
    kept, raw, set_aside = _frames(spoken, features, states, set_aside)
    frames = [normalised(one) for one in raw]
    words = sorted({word for one in kept for word in one.words})
    _each_part(corpus, kept, set_aside)
    utterances = [
        Utterance(one.name, cepstra(levelled(bands)), one.words) for one, bands in zip(kept, raw, strict=True)
    ]
    aligner, targets = _aligned(kept, utterances, WordModels.plain(words, states, silence), mixtures)
    prepared = Prepared(
        corpus, features, aligner.models, tuple(kept), tuple(hold_out), seed, set_aside,
        tuple(name for name, sound in sounds.items() if sound.clipped), aligner.history,
    )  # fmt: skip
    lengths = torch.tensor([len(own) for own in frames])
    Sequences(
        torch.cat(frames),
        torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        torch.cat(targets),
        torch.tensor([PARTS.index(one.part) for one in kept]),
        aligner.models.names,
        features.before,
        features.after,
        set_aside,
    ).check(corpus).save(folder / FRAMES)
    write_whole(folder / SPEECH, json.dumps(prepared.to_json(), indent=1) + "\n")
    return prepared


def _sounds(corpus: str, recordings: Sequence[Recording]) -> tuple[dict[str, Sound], dict[str, str]]:
    """The sounds that could be read, by the recording's name, and why the others could not."""
    sounds: dict[str, Sound] = {}
    set_aside: dict[str, str] = {}
    for one in recordings:
        try:
            with one.record.open() as file:
                sounds[one.name] = read_sound(file)
        except Unreadable as reason:
            set_aside[one.name] = str(reason)
        except (OSError, KeyError):
            set_aside[one.name] = "it cannot be opened; check that it is there and may be read"
    if not sounds:
        name, reason = next(iter(set_aside.items()))
        raise UnderstudyError(f"no recording of {corpus} can be used; of {name}: {reason}")
    return sounds, set_aside


def _one_rate(corpus: str, sounds: dict[str, Sound]) -> int:
    first, rate = next((name, sound.rate) for name, sound in sounds.items())
    for name, sound in sounds.items():
        if sound.rate != rate:
            raise UnderstudyError(
                f"{corpus} has {first} at {rate:,} Hz and {name} at {sound.rate:,}; resample all to one rate"
            )
    return rate


def _frames(
    spoken: list[tuple[Spoken, Tensor]], features: Features, states: int, set_aside: dict[str, str]
) -> tuple[list[Spoken], list[Tensor], dict[str, str]]:
    kept: list[Spoken] = []
    frames: list[Tensor] = []
    aside = dict(set_aside)
    for one, wave in spoken:
        least = len(one.words) * states
        if features.frames(len(wave)) < least:
            aside[one.name] = f"it is too short for its words, which take {least} frames at least"
            continue
        kept.append(one)
        frames.append(log_mel(wave, features))
    return kept, frames, aside


def _each_part(corpus: str, kept: Sequence[Spoken], set_aside: dict[str, str]) -> None:
    learnt = {word for one in kept if one.part == "train" for word in one.words}
    for part in PARTS:
        own = [one for one in kept if one.part == part]
        lost = sorted({word for one in own for word in one.words} - learnt)
        if own and not lost:
            continue
        reason = next(iter(set_aside.values()), "")
        what = f"whole training recording of {lost[0]!r}" if own else f"whole recording for its {part} part"
        why = f"; of the first of {len(set_aside):,} set aside: {reason}" if reason else "; add some"
        raise UnderstudyError(f"{corpus} has no {what}{why}")


def _aligned(
    kept: Sequence[Spoken], utterances: Sequence[Utterance], models: WordModels, mixtures: int
) -> tuple[Aligner, list[Tensor]]:
    """Models trained on the training part, and the states of every utterance."""
    train = [own for one, own in zip(kept, utterances, strict=True) if one.part == "train"]
    aligner = train_aligner(train, models, mixtures)
    return aligner, aligner.align(utterances)[0]
