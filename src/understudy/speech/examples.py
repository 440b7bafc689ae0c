"""One utterance for the page: its spectrogram, its alignment, and what each model believes over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from understudy.data.frames import Sequences
from understudy.speech.hmm import WordModels
from understudy.speech.preparation import Prepared

REST = "..."


def example(
    prepared: Prepared, sequences: Sequences, utterance: int, shown: Sequence[tuple[str, str, Tensor]]
) -> dict[str, Any]:
    """As `reporting.heard.Example` reads it.

    Args:
        shown: role, name and (T, S) log-probabilities of each model.
    """
    span = slice(int(sequences.starts[utterance]), int(sequences.starts[utterance + 1]))
    said = prepared.utterances[utterance].words
    words = list(dict.fromkeys(said))
    models = prepared.models
    return {
        "words": list(said),
        "hop": prepared.features.hop,
        "spectrogram": _rounded(sequences.frames[span].T),
        "alignment": segments(sequences.targets[span], models),
        "labels": [*words, "", REST],
        "posteriors": [
            {"role": role, "name": name, "values": _rounded(word_shares(log_shares, words, models))}
            for role, name, log_shares in shown
        ],
    }


def word_shares(log_shares: Tensor, words: Sequence[str], models: WordModels) -> Tensor:
    """(len(words) + 2, T): the probability of being in each word, in silence, and in any other word.

    Args:
        log_shares: (T, S) log-probabilities of the states.
    """
    shares = log_shares.exp()
    own = [shares[:, models.of_word(word)].sum(1) for word in (*words, "")]
    stacked = torch.stack(own)
    return torch.cat([stacked, (1 - stacked.sum(0)).clamp_min(0)[None]])


def segments(states: Tensor, models: WordModels) -> list[dict[str, Any]]:
    """Words and silences in turn: a new one begins where the word changes, or goes back to its first state."""
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
