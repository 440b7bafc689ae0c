"""Preparing a speech corpus for training: a folder of feature frames with forced-alignment targets.

frames.safetensors   frames, utterance boundaries, states and parts: a data set that `open_source` reads
speech.json          settings, vocabulary, utterances, skipped recordings, alignment history
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
from understudy.data.formats.frames import FRAMES, Sequences, read_sequences
from understudy.data.formats.index import SPLIT_NAMES
from understudy.errors import UnderstudyError
from understudy.files import write_whole
from understudy.speech.alignment import Utterance, train_aligner
from understudy.speech.audio import Audio, read_audio
from understudy.speech.corpus import Recording
from understudy.speech.features import Features, cepstra, log_mel, normalize_loudness, normalized
from understudy.speech.hmm import WordModels
from understudy.speech.strings import join, plan_strings

SPEECH = "speech.json"
ISOLATED, CONNECTED = "isolated", "connected"


@dataclass(frozen=True)
class PreparedUtterance:
    """An utterance of a prepared folder."""

    name: str
    words: tuple[str, ...]
    part: str
    kind: str  # `ISOLATED` or `CONNECTED`


@dataclass(frozen=True)
class Prepared:
    """The content of `speech.json`."""

    corpus: str
    features: Features
    models: WordModels
    utterances: tuple[PreparedUtterance, ...]  # in the order of the sequences in `frames.safetensors`
    hold_out: tuple[str, ...] = ()
    seed: int = 0
    skipped: dict[str, str] = field(default_factory=dict)  # reason for each skipped recording, by name
    clipped: tuple[str, ...] = ()  # recordings that clip; they are used
    history: tuple[float, ...] = ()  # log-likelihood per frame of successive alignments

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"models": models_to_json(self.models)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        fields: dict[str, Any] = {name: tuple(value[name]) for name in ("hold_out", "clipped", "history")}
        fields["utterances"] = tuple(
            PreparedUtterance(**one | {"words": tuple(one["words"])}) for one in value["utterances"]
        )
        fields["features"] = Features(**value["features"])
        fields["models"] = models_from_json(value["models"])
        return cls(**value | fields)

    def of(self, part: str) -> list[int]:
        return [i for i, one in enumerate(self.utterances) if one.part == part]


def models_to_json(models: WordModels) -> dict[str, Any]:
    return {
        "words": list(models.words), "states": models.states, "silence": models.silence, "stay": models.stay.tolist(),
    }  # fmt: skip


def models_from_json(value: dict[str, Any]) -> WordModels:
    return WordModels(tuple(value["words"]), value["states"], value["silence"], torch.tensor(value["stay"]))


def read_prepared(folder: Path) -> tuple[Prepared, Sequences]:
    """Read a prepared folder; raises `UnderstudyError` if it is not one, or is damaged."""
    path = folder / SPEECH
    if not path.is_file():
        raise UnderstudyError(
            f"{folder} is not prepared speech: it has no {SPEECH}; create it with: understudy speech prepare"
        )
    try:
        prepared = Prepared.from_json(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as fault:
        raise UnderstudyError(f"{path} is damaged ({fault}); prepare the folder again") from None
    sequences = read_sequences(folder / FRAMES)
    if len(sequences.parts) != len(prepared.utterances):
        raise UnderstudyError(
            f"{path} has {len(prepared.utterances):,} utterances but {FRAMES} has {len(sequences.parts):,}; "
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
    """Extract features, align, and write the folder.

    If all recordings are single words, connected strings are synthesized too (unless `strings` is False), so that each
    recording is used once in isolation and at most once in a string of its part. Aligners are trained on the training
    part and applied to all parts.

    Args:
        states, silence: HMM states per word, and of silence.
        mixtures: final number of Gaussians per state.
    """
    if states < 2:
        raise UnderstudyError(f"states must be at least 2 per word; got {states}")
    audio, skipped = _read_all(corpus, recordings)
    recordings = [one for one in recordings if one.name in audio]
    rate = _common_rate(corpus, audio)
    features = Features(rate=rate)
    waves = {name: one.wave for name, one in audio.items()}
    spoken = [(PreparedUtterance(one.name, one.words, one.part, ISOLATED), waves[one.name]) for one in recordings]
    isolated = all(len(one.words) == 1 for one in recordings)
    if strings and not isolated:
        raise UnderstudyError(f"{corpus} already has recordings of several words; omit --strings")
    if isolated and strings is not False:
        for part in SPLIT_NAMES:
            for plan in plan_strings(recordings, seed, part):
                spoken.append((PreparedUtterance(plan.name, plan.words, part, CONNECTED), join(plan, waves, rate)))
    elif not isolated:
        spoken = [(replace(one, kind=CONNECTED), wave) for one, wave in spoken]
    kept, raw = _frames(spoken, features, states, skipped)
    frames = [normalized(one) for one in raw]
    words = sorted({word for one in kept for word in one.words})
    _check_parts(corpus, kept, skipped)
    utterances = [
        Utterance(one.name, cepstra(normalize_loudness(bands)), one.words) for one, bands in zip(kept, raw, strict=True)
    ]
    train = [own for one, own in zip(kept, utterances, strict=True) if one.part == "train"]
    aligner = train_aligner(train, WordModels.initial(words, states, silence), mixtures)
    targets, _ = aligner.align(utterances)
    prepared = Prepared(
        corpus, features, aligner.models, tuple(kept), tuple(hold_out), seed, skipped,
        tuple(name for name, one in audio.items() if one.clipped), aligner.history,
    )  # fmt: skip
    lengths = torch.tensor([len(own) for own in frames])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    parts = torch.tensor([SPLIT_NAMES.index(one.part) for one in kept])
    sequences = Sequences(
        torch.cat(frames), starts, torch.cat(targets), parts, aligner.models.names, features.before, features.after,
        skipped,
    )  # fmt: skip
    sequences.check(corpus)
    (folder / SPEECH).unlink(missing_ok=True)  # that of earlier frames, which would not be of these
    sequences.save(folder / FRAMES)
    write_whole(folder / SPEECH, json.dumps(prepared.to_json(), indent=1) + "\n")
    return prepared


def _read_all(corpus: str, recordings: Sequence[Recording]) -> tuple[dict[str, Audio], dict[str, str]]:
    """Readable recordings, and the reasons for skipping the others, by name."""
    audio: dict[str, Audio] = {}
    skipped: dict[str, str] = {}
    for one in recordings:
        try:
            with one.record.open() as file:
                audio[one.name] = read_audio(file)
        except Unreadable as reason:
            skipped[one.name] = str(reason)
        except (OSError, KeyError):
            skipped[one.name] = "it cannot be opened; check that it exists and is readable"
    if not audio:
        name, reason = next(iter(skipped.items()))
        raise UnderstudyError(f"no recording of {corpus} is usable; {name}: {reason}")
    return audio, skipped


def _common_rate(corpus: str, audio: dict[str, Audio]) -> int:
    first, rate = next((name, one.rate) for name, one in audio.items())
    for name, one in audio.items():
        if one.rate != rate:
            raise UnderstudyError(
                f"{corpus} has {first} at {rate:,} Hz and {name} at {one.rate:,}; resample all to one rate"
            )
    return rate


def _frames(
    spoken: list[tuple[PreparedUtterance, Tensor]], features: Features, states: int, skipped: dict[str, str]
) -> tuple[list[PreparedUtterance], list[Tensor]]:
    """Log-mel frames of the utterances that are long enough; the others are added to `skipped`."""
    kept: list[PreparedUtterance] = []
    frames: list[Tensor] = []
    for one, wave in spoken:
        least = len(one.words) * states
        if features.frames(len(wave)) < least:
            skipped[one.name] = f"it is too short for its words, which need at least {least} frames"
            continue
        kept.append(one)
        frames.append(log_mel(wave, features))
    return kept, frames


def _check_parts(corpus: str, kept: Sequence[PreparedUtterance], skipped: dict[str, str]) -> None:
    learned = {word for one in kept if one.part == "train" for word in one.words}
    for part in SPLIT_NAMES:
        own = [one for one in kept if one.part == part]
        lost = sorted({word for one in own for word in one.words} - learned)
        if own and not lost:
            continue
        reason = next(iter(skipped.values()), "")
        what = f"usable training recording of {lost[0]!r}" if own else f"usable recording for its {part} part"
        why = f"; first of {len(skipped):,} skipped: {reason}" if reason else "; add some"
        raise UnderstudyError(f"{corpus} has no {what}{why}")
