"""Decoding of words: state posteriors divided by priors, and Viterbi search through a loop of all words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

import torch
from torch import Tensor

from understudy.data.formats.frames import Windows
from understudy.errors import UnderstudyError
from understudy.files import write_whole
from understudy.signals import Batch, Signals
from understudy.speech.audio import need
from understudy.speech.features import Features
from understudy.speech.hmm import WordModels, viterbi, word_loop
from understudy.speech.preparation import models_from_json, models_to_json

DECODER = "decoder.json"
PENALTIES = tuple(float(p) for p in range(-10, 101, 5))
"""Candidate word insertion penalties, in nats."""
_BATCH = 256  # utterances


@dataclass(frozen=True)
class Word:
    """A recognized word, with its start and end in seconds."""

    word: str
    start: float
    end: float


@dataclass(frozen=True)
class WordErrors:
    """Word errors over a set of utterances."""

    words: int  # in the references
    insertions: int
    deletions: int
    substitutions: int

    @property
    def rate(self) -> float:
        """Word error rate (WER); insertions can make it exceed 1."""
        return (self.insertions + self.deletions + self.substitutions) / self.words

    def to_json(self) -> dict[str, float]:
        return asdict(self) | {"wer": self.rate}


@dataclass(frozen=True)
class Decoder:
    """Everything but the network that decoding needs."""

    features: Features
    models: WordModels
    priors: Tensor  # (S,) relative frequencies of the states in the training frames
    penalty: dict[str, float]  # word insertion penalty in nats, by network name

    def paths(self, posteriors: Sequence[Tensor], penalties: Sequence[float]) -> list[list[list[Word]]]:
        """Recognized words for each penalty and utterance, from the (T, S) state log-posteriors of each utterance."""
        graphs = [word_loop(self.models, penalty) for penalty in penalties]
        scaled = [one.double() - self.priors.double().log() for one in posteriors]
        words: list[list[list[Word]]] = [[[] for _ in scaled] for _ in graphs]
        order = sorted(range(len(scaled)), key=lambda i: len(scaled[i]))
        pairs = [(p, i) for i in order for p in range(len(graphs))]
        for start in range(0, len(pairs), _BATCH):
            part = pairs[start : start + _BATCH]
            found, _ = viterbi([scaled[i] for _, i in part], [graphs[p] for p, _ in part])
            for (p, i), path in zip(part, found, strict=True):
                words[p][i] = self._words(path, graphs[p].words[path], graphs[p].heads[path])
        return words

    def _words(self, path: Tensor, words: Tensor, heads: Tensor) -> list[Word]:
        """A word starts where the path enters a head, and ends before silence or the next word."""
        moved = torch.cat([torch.ones(1, dtype=torch.bool), path[1:] != path[:-1]])
        begins = (heads & moved).nonzero().flatten().tolist() if len(path) else []
        recognized = []
        hop, window = self.features.hop, self.features.window
        for at, after in zip(begins, [*begins[1:], len(path)], strict=False):
            spoken = int((words[at:after] >= 0).sum())
            recognized.append(Word(self.models.words[int(words[at])], at * hop, (at + spoken - 1) * hop + window))
        return recognized

    def save(self, folder: Path) -> None:
        facts = {
            "features": asdict(self.features), "models": models_to_json(self.models),
            "priors": self.priors.tolist(), "penalty": self.penalty,
        }  # fmt: skip
        write_whole(folder / DECODER, json.dumps(facts, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        path = folder / DECODER
        try:
            facts: dict[str, Any] = json.loads(path.read_text())
            models = models_from_json(facts["models"])
            return cls(Features(**facts["features"]), models, torch.tensor(facts["priors"]), facts["penalty"])
        except FileNotFoundError:
            raise UnderstudyError(
                f"{folder} has no {DECODER}, so its networks cannot be decoded; train one with: understudy speech train"
            ) from None
        except (ValueError, KeyError, TypeError) as fault:
            raise UnderstudyError(f"{path} is damaged ({fault}); restore it, or train the run again") from None


def state_priors(targets: Tensor, states: int) -> Tensor:
    """(S,) relative frequencies of the states in (T,) int64 training targets, each counted at least once.

    Example:
        >>> state_priors(torch.tensor([0, 0, 1, 1, 1]), states=3).mul(6).tolist()
        [2.0, 3.0, 1.0]
    """
    counts = torch.bincount(targets, minlength=states).clamp_min(1).double()
    return counts / counts.sum()


def log_posteriors(model: Callable[[Batch], Signals], windows: Windows, size: int = 2_000) -> Tensor:
    """(N, S) float32 state log-posteriors of each window, from a model in eval mode."""
    found = []
    for rows in torch.arange(len(windows.rows)).split(size):
        with torch.inference_mode():
            signals = model(Batch(rows, torch.zeros_like(rows), windows[rows]))
        found.append(signals.logits.float().log_softmax(1))
    return torch.cat(found)


def word_errors(references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]) -> WordErrors:
    """Word errors at minimum edit distance, by jiwer.

    Example:
        >>> word_errors([["one", "two", "three"]], [["one", "three", "three"]])
        WordErrors(words=3, insertions=0, deletions=0, substitutions=1)
    """
    measured = need("jiwer").process_words([" ".join(one) for one in references], [" ".join(one) for one in hypotheses])
    return WordErrors(sum(map(len, references)), measured.insertions, measured.deletions, measured.substitutions)


def choose_penalty(decoder: Decoder, posteriors: Sequence[Tensor], references: Sequence[Sequence[str]]) -> float:
    """The word insertion penalty with the lowest WER; the middle one of ties."""
    rates = {}
    for penalty, utterances in zip(PENALTIES, decoder.paths(posteriors, PENALTIES), strict=True):
        rates[penalty] = word_errors(references, [[one.word for one in words] for words in utterances]).rate
    least = min(rates.values())
    best = [penalty for penalty, rate in rates.items() if rate == least]
    return min(best, key=lambda penalty: abs(penalty - median(best)))
