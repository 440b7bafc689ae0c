"""Words from a network's posteriors: insertion penalties chosen, errors counted, files transcribed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.data import Unreadable
from understudy.data.formats.frames import Sequences, Windows
from understudy.data.formats.index import SPLIT_NAMES
from understudy.evaluation.facts import SpeechFacts
from understudy.evaluation.metrics import accuracy
from understudy.speech.audio import read_audio
from understudy.speech.decoding import Decoder, Word, choose_penalty, log_posteriors, state_priors, word_errors
from understudy.speech.examples import example
from understudy.speech.features import log_mel, normalized
from understudy.speech.preparation import Prepared, read_prepared
from understudy.teachers import Ensemble, Teacher


@dataclass(frozen=True)
class Recognizer:
    """A network or an ensemble, as a row of the page names it."""

    title: str
    role: str
    seed: int
    model: Teacher | Ensemble


@dataclass(frozen=True)
class Transcript:
    """The words recognized in one file."""

    path: str
    words: tuple[Word, ...] = ()
    clipped: bool = False  # makes errors more likely
    error: str | None = None  # why it could not be read


def score_words(recognizers: Mapping[str, Recognizer], folder: Path) -> tuple[Decoder, SpeechFacts]:
    """Choose each recognizer's word insertion penalty on the validation part, and count its errors on the test part.

    Recognizers are by name, as "distilled-0"; `folder` is that of the prepared corpus.
    """
    prepared, sequences = read_prepared(folder)
    train_frames = (sequences.parts == SPLIT_NAMES.index("train")).repeat_interleave(sequences.starts.diff())
    priors = state_priors(sequences.targets[train_frames], len(prepared.models.names))
    decoder = Decoder(prepared.features, prepared.models, priors, {})
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    shown: list[tuple[str, str, Tensor]] = []
    pick = _shown_utterance(prepared)
    validation, test = prepared.of("validation"), prepared.of("test")
    for name, one in recognizers.items():
        posteriors = _posteriors(one, sequences, [*validation, *test])
        references = [prepared.utterances[i].words for i in validation]
        decoder.penalty[name] = choose_penalty(decoder, [posteriors[i] for i in validation], references)
        recognized = decoder.paths([posteriors[i] for i in test], [decoder.penalty[name]])[0]
        targets = torch.cat([sequences.targets[_frames(sequences, i)] for i in test])
        measured = {
            "seed": one.seed,
            "accuracy": accuracy(torch.cat([posteriors[i] for i in test]), targets),
            "penalty": decoder.penalty[name],
            "errors": _errors(prepared, test, recognized),
        }
        rows.setdefault((one.title, one.role), []).append(measured)
        if len(rows[one.title, one.role]) == 1:
            shown.append((one.role, one.title, posteriors[pick]))
    facts = {
        "kinds": list(next(iter(rows.values()))[0]["errors"]),
        "rows": [{"name": title, "role": role, "seeds": seeds} for (title, role), seeds in rows.items()],
        "example": example(prepared, sequences, pick, shown),
        "notes": _notes(prepared),
    }
    return decoder, SpeechFacts.model_validate(facts)


def transcribe(file: Path, decoder: Decoder, model: Teacher | Ensemble, penalty: float) -> Transcript:
    """The words in an audio file; one that cannot be read gives a transcript whose `error` says why."""
    features = decoder.features
    try:
        with open(file, "rb") as opened:
            sound = read_audio(opened, features.window)
        if sound.rate != features.rate:
            raise Unreadable(f"sampled at {sound.rate:,} Hz, not at {features.rate:,} as in training; resample it")
    except Unreadable as reason:
        return Transcript(str(file), error=str(reason))
    except OSError as fault:
        return Transcript(str(file), error=f"cannot be opened ({fault.strerror})")
    frames = normalized(log_mel(sound.wave, features))
    t = len(frames)
    first, last = torch.zeros(t, dtype=torch.int64), torch.full((t,), t - 1)
    windows = Windows(frames, torch.arange(t), first, last, features.before, features.after)
    words = decoder.paths([log_posteriors(model, windows)], [penalty])[0][0]
    return Transcript(str(file), tuple(words), sound.clipped)


def _frames(sequences: Sequences, utterance: int) -> slice:
    return slice(int(sequences.starts[utterance]), int(sequences.starts[utterance + 1]))


def _posteriors(recognizer: Recognizer, sequences: Sequences, utterances: Sequence[int]) -> dict[int, Tensor]:
    """(T, S) log-probabilities of each utterance, by its number."""
    spans = [_frames(sequences, i) for i in utterances]
    rows = torch.cat([torch.arange(span.start, span.stop) for span in spans])
    posteriors = log_posteriors(recognizer.model, sequences.windows().select(rows))
    return dict(zip(utterances, posteriors.split([span.stop - span.start for span in spans]), strict=True))


def _errors(prepared: Prepared, test: Sequence[int], recognized: Sequence[Sequence[Word]]) -> dict[str, Any]:
    """Word errors of all the utterances of a part, and of each kind where there are two."""
    kinds = list(dict.fromkeys(prepared.utterances[i].kind for i in test))
    found = {}
    for kind in ("all", *(kinds if len(kinds) > 1 else ())):
        pairs = [
            (prepared.utterances[i].words, [one.word for one in words])
            for i, words in zip(test, recognized, strict=True)
            if kind in ("all", prepared.utterances[i].kind)
        ]
        found[kind] = word_errors([reference for reference, _ in pairs], [words for _, words in pairs]).to_json()
    return found


def _shown_utterance(prepared: Prepared) -> int:
    """The test utterance on the page: the first of those with five words, or with the most below that."""
    return max(prepared.of("test"), key=lambda i: (min(len(prepared.utterances[i].words), 5), -i))


def _notes(prepared: Prepared) -> list[str]:
    notes = []
    if prepared.hold_out:
        notes.append(f"Tested on speakers who are not in the training part: {', '.join(prepared.hold_out)}.")
    if prepared.clipped:
        notes.append(f"{len(prepared.clipped):,} recordings are clipped; they are used as they are.")
    return notes
