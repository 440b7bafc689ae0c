"""An example utterance for the report: spectrogram, forced alignment, and word posteriors of each model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from understudy.data.formats.frames import Sequences
from understudy.speech.hmm import WordModels
from understudy.speech.preparation import Prepared

REST = "..."


def example(
    prepared: Prepared, sequences: Sequences, utterance: int, shown: Sequence[tuple[str, str, Tensor]]
) -> dict[str, Any]:
    """An utterance as read by `evaluation.facts.Example`, with (role, name, (T, S) log-posteriors) of each model."""
    span = slice(int(sequences.starts[utterance]), int(sequences.starts[utterance + 1]))
    transcript = prepared.utterances[utterance].words
    words = list(dict.fromkeys(transcript))
    models = prepared.models
    return {
        "words": list(transcript),
        "hop": prepared.features.hop,
        "spectrogram": _rounded(sequences.frames[span].T),
        "alignment": segments(sequences.targets[span], models),
        "labels": [*words, "", REST],
        "posteriors": [
            {"role": role, "name": name, "values": _rounded(word_posteriors(log_posteriors, words, models))}
            for role, name, log_posteriors in shown
        ],
    }


def word_posteriors(log_posteriors: Tensor, words: Sequence[str], models: WordModels) -> Tensor:
    """(len(words) + 2, T) posterior of each of the words, of silence, and of any other word, from (T, S) of the states.

    Example:
        >>> models = WordModels.initial(("no", "yes"), states=2, silence=1)
        >>> posteriors = torch.tensor([[0.1, 0.1, 0.3, 0.2, 0.3]])
        >>> [round(p, 2) for p in word_posteriors(posteriors.log(), ["yes"], models)[:, 0].tolist()]
        [0.5, 0.3, 0.2]
    """
    posteriors = log_posteriors.exp()
    stacked = torch.stack([posteriors[:, models.of_word(word)].sum(1) for word in (*words, "")])
    return torch.cat([stacked, (1 - stacked.sum(0)).clamp_min(0)[None]])


def segments(states: Tensor, models: WordModels) -> list[dict[str, Any]]:
    """Word and silence segments of an alignment; a new one starts where the word changes or its states restart.

    Example:
        >>> models = WordModels.initial(("yes",), states=2, silence=1)
        >>> [(s["word"], s["first"], s["after"]) for s in segments(torch.tensor([2, 0, 1, 1, 0, 1]), models)]
        [('', 0, 1), ('yes', 1, 4), ('yes', 4, 6)]
    """
    found: list[dict[str, Any]] = []
    before = -1
    for t, state in enumerate(states.tolist()):
        number = state // models.states
        word = models.words[number] if number < len(models.words) else ""
        if not found or found[-1]["word"] != word or (word and state < before):
            found.append({"word": word, "first": t, "after": t})
        found[-1]["after"] = t + 1
        before = state
    return found


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(x, 3) for x in row] for row in values.tolist()]
