"""Words from posteriors: each divided by its state's prior, and the best path through a loop of all words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

import torch
from torch import Tensor

from understudy.data.frames import Windows
from understudy.errors import UnderstudyError
from understudy.files import write_whole
from understudy.signals import Batch, Signals
from understudy.speech.audio import need
from understudy.speech.features import Features
from understudy.speech.hmm import WordModels, loop, viterbi
from understudy.speech.preparation import models_from_json, models_to_json

DECODER = "decoder.json"
PENALTIES = tuple(float(p) for p in range(-10, 101, 5))
"""Word insertion penalties that are tried, in nats."""
_BATCH = 256  # utterances


@dataclass(frozen=True)
class Word:
    """A word that was heard, and when, in seconds."""

    word: str
    start: float
    end: float


@dataclass(frozen=True)
class Errors:
    """Word errors of some utterances.

    Attributes:
        words: that were said.
    """

    words: int
    insertions: int
    deletions: int
    substitutions: int

    @property
    def rate(self) -> float:
        """WER, in [0, 1] but for very many insertions."""
        return (self.insertions + self.deletions + self.substitutions) / self.words

    def to_json(self) -> dict[str, float]:
        return asdict(self) | {"wer": self.rate}


@dataclass(frozen=True)
class Decoder:
    """What is needed beside a network to hear words.

    Attributes:
        priors: (S,) each state's share of the training frames.
        penalty: what beginning a word costs, in nats, by the network's name.
    """

    features: Features
    models: WordModels
    priors: Tensor
    penalty: dict[str, float]

    def paths(self, posteriors: Sequence[Tensor], penalties: Sequence[float]) -> list[list[list[Word]]]:
        """The words of each utterance at each of some penalties.

        Args:
            posteriors: (T, S) log-probabilities of the states, of each utterance.
        """
        graphs = [loop(self.models, penalty) for penalty in penalties]
        scaled = [one.double() - self.priors.double().log() for one in posteriors]
        heard: list[list[list[Word]]] = [[[] for _ in scaled] for _ in graphs]
        order = sorted(range(len(scaled)), key=lambda i: len(scaled[i]))
        pairs = [(p, i) for i in order for p in range(len(graphs))]
        for start in range(0, len(pairs), _BATCH):
            part = pairs[start : start + _BATCH]
            found, _ = viterbi([scaled[i] for _, i in part], [graphs[p] for p, _ in part])
            for (p, i), path in zip(part, found, strict=True):
                heard[p][i] = self._words(path, graphs[p].words[path], graphs[p].heads[path])
        return heard

    def _words(self, path: Tensor, words: Tensor, heads: Tensor) -> list[Word]:
        """A word begins where a path comes to a head from elsewhere, and ends before silence or the next word."""
        moved = torch.cat([torch.ones(1, dtype=torch.bool), path[1:] != path[:-1]])
        begins = (heads & moved).nonzero().flatten().tolist() if len(path) else []
        said = []
        for at, after in zip(begins, [*begins[1:], len(path)], strict=False):
            spoken = int((words[at:after] >= 0).sum())
            name = self.models.words[int(words[at])]
            end = self.features.seconds(at + spoken - 1) + self.features.window
            said.append(Word(name, self.features.seconds(at), end))
        return said

    def save(self, folder: Path) -> None:
        facts = {
            "features": asdict(self.features), "models": models_to_json(self.models),
            "priors": self.priors.tolist(), "penalty": self.penalty,
        }  # fmt: skip
        write_whole(folder / DECODER, json.dumps(facts, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises `UnderstudyError` where there is none, or a damaged one."""
        path = folder / DECODER
        try:
            facts: dict[str, Any] = json.loads(path.read_text())
            models = models_from_json(facts["models"])
            return cls(Features(**facts["features"]), models, torch.tensor(facts["priors"]), facts["penalty"])
        except FileNotFoundError:
            raise UnderstudyError(
                f"{folder} holds no {DECODER}, so its networks hear no words; train one with: understudy speech train"
            ) from None
        except (ValueError, KeyError, TypeError) as fault:
            raise UnderstudyError(f"{path} is damaged ({fault}); delete it and decode again") from None


def priors_of(targets: Tensor, states: int) -> Tensor:
    """(S,) shares of the states among training frames, (T,) int64; one that never occurs counts as seen once."""
    counts = torch.bincount(targets, minlength=states).clamp_min(1).double()
    return counts / counts.sum()


def posteriors_of(model: Callable[[Batch], Signals], windows: Windows, size: int = 2_000) -> Tensor:
    """(N, S) float32 log-probabilities of the states for each window; the model is one that only answers."""
    found = []
    for rows in torch.arange(len(windows.rows)).split(size):
        with torch.inference_mode():
            said = model(Batch(rows, torch.zeros_like(rows), windows[rows]))
        found.append(said.logits.float().log_softmax(1))
    return torch.cat(found)


def word_errors(said: Sequence[Sequence[str]], heard: Sequence[Sequence[str]]) -> Errors:
    """Insertions, deletions and substitutions of the best alignments of what was heard with what was said (jiwer)."""
    measured = need("jiwer").process_words([" ".join(one) for one in said], [" ".join(one) for one in heard])
    return Errors(sum(map(len, said)), measured.insertions, measured.deletions, measured.substitutions)


def choose_penalty(decoder: Decoder, posteriors: Sequence[Tensor], said: Sequence[Sequence[str]]) -> float:
    """The penalty of fewest word errors; of several that do alike, the middle one."""
    rates = {}
    for penalty, utterances in zip(PENALTIES, decoder.paths(posteriors, PENALTIES), strict=True):
        rates[penalty] = word_errors(said, [[one.word for one in words] for words in utterances]).rate
    least = min(rates.values())
    best = [penalty for penalty, rate in rates.items() if rate == least]
    return min(best, key=lambda penalty: abs(penalty - median(best)))
