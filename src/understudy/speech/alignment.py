"""Which frame is in which state: models and alignment improved in turn, from a flat start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.speech.gaussians import Mixtures, fit_mixtures, fit_single
from understudy.speech.hmm import WordModels, chain, viterbi

_SETTLED = 0.02  # nats a frame
_ROUNDS = 30
_BATCH = 128  # utterances


@dataclass(frozen=True)
class Utterance:
    """What is aligned: (T, D) frames, the first dimension of which is loudness, and the words said in them."""

    name: str
    frames: Tensor
    words: tuple[str, ...]


@dataclass(frozen=True)
class Aligner:
    """Trained models.

    Attributes:
        history: mean log-likelihood of a frame on its best path, before each re-estimation.
    """

    models: WordModels
    mixtures: Mixtures
    history: tuple[float, ...] = ()

    def align(self, utterances: Sequence[Utterance]) -> tuple[list[Tensor], float]:
        """(T,) int64 states of each utterance's frames on the best path through its words, and their score in all.

        Raises:
            UnderstudyError: an utterance with a word that there is no model of, or with too few frames for its words.
        """
        for one in utterances:
            check_words(one, self.models)
        chains = {words: chain(self.models, words) for words in {one.words for one in utterances}}
        states: list[Tensor] = [torch.empty(0)] * len(utterances)
        total = 0.0
        for rows in _of_a_length(utterances):
            chosen = [utterances[i] for i in rows]
            graphs = [chains[one.words] for one in chosen]
            scores = self.mixtures.log_likelihood(torch.cat([one.frames for one in chosen]))
            paths, totals = viterbi(scores.split([len(one.frames) for one in chosen]), graphs)
            total += float(totals.sum())
            for i, graph, path in zip(rows, graphs, paths, strict=True):
                states[i] = graph.states[path]
        return states, total


def check_words(utterance: Utterance, models: WordModels) -> None:
    """Complain of what cannot be aligned."""
    for word in utterance.words:
        if word not in models.words:
            raise UnderstudyError(
                f"the transcript of {utterance.name} has the word {word!r}, of which there is no model; "
                f"the words are {', '.join(models.words)}"
            )
    least = models.shortest(utterance.words)
    if len(utterance.frames) < least:
        raise UnderstudyError(
            f"{utterance.name} has {len(utterance.frames)} frames, and its words need {least} at least; "
            "mend its transcript, or take fewer states a word"
        )


def train_aligner(utterances: Sequence[Utterance], models: WordModels, mixtures: int = 1) -> Aligner:
    """Flat start, then alignment and re-estimation in turn until the likelihood settles (segmental k-means).

    Flat start: silence begins with the quiet frames, and the loud ones of each utterance are cut into equal stretches
    for its words' states. Single Gaussians settle first, then, where more are asked for, mixtures.
    """
    frames = torch.cat([one.frames for one in utterances]).double()
    fitted = _flat_start(utterances, frames, models)
    aligner = Aligner(models, fitted)
    for parts in dict.fromkeys((1, mixtures)):
        if parts > 1:
            states, _ = aligner.align(utterances)
            joined = torch.cat(states)
            aligner = replace(
                aligner,
                mixtures=fit_mixtures(frames, joined, len(models.stay), parts, aligner.mixtures),
            )
        aligner = _settled(aligner, utterances, frames, parts)
    return aligner


def _settled(aligner: Aligner, utterances: Sequence[Utterance], frames: Tensor, parts: int) -> Aligner:
    previous = -float("inf")
    for _ in range(_ROUNDS):
        states, total = aligner.align(utterances)
        likelihood = total / len(frames)
        aligner = replace(aligner, history=(*aligner.history, likelihood))
        if likelihood - previous < _SETTLED:
            break
        previous = likelihood
        joined, count = torch.cat(states), len(aligner.models.stay)
        fitted = (
            fit_single(frames, joined, count, aligner.mixtures)
            if parts == 1
            else fit_mixtures(frames, joined, count, parts, aligner.mixtures)
        )
        stay = _stays(states, aligner.models.stay)
        aligner = replace(aligner, models=replace(aligner.models, stay=stay), mixtures=fitted)
    return aligner


def _stays(states: Sequence[Tensor], before: Tensor) -> Tensor:
    """The share of each state's frames that are followed by the same state, away from 0 and 1."""
    count = len(before)
    frames = torch.bincount(torch.cat(list(states)), minlength=count)
    stayed = torch.cat([path[1:][path[1:] == path[:-1]] for path in states])
    share = torch.bincount(stayed, minlength=count) / frames.clamp_min(1)
    return torch.where(frames > 0, share.clamp(0.05, 0.98), before)


def _flat_start(utterances: Sequence[Utterance], frames: Tensor, models: WordModels) -> Mixtures:
    border = _border(frames[:, 0])
    states = torch.cat([_evenly(one, one.frames[:, 0] < border, models) for one in utterances])
    fitted = fit_single(frames, states, len(models.stay))
    own = models.of_word("")
    fitted.means[own], fitted.variances[own] = fitted.means[own[0]].clone(), fitted.variances[own[0]].clone()
    return fitted


def _border(loud: Tensor) -> float:
    """What tells loud from quiet: the middle between the means of the two, as 2-means finds them."""
    border = float(loud.min() + loud.max()) / 2
    for _ in range(20):
        quiet = loud < border
        if not bool(quiet.any()) or bool(quiet.all()):
            break
        border = float(loud[quiet].mean() + loud[~quiet].mean()) / 2
    return border


def _evenly(utterance: Utterance, quiet: Tensor, models: WordModels) -> Tensor:
    """(T,) states: what is loud cut into equal stretches, what is quiet in the first of silence."""
    states = torch.cat([models.of_word(word) for word in utterance.words])
    count = int((~quiet).sum())
    place = ((~quiet).cumsum(0) - 1).clamp_min(0) * len(states) // max(count, 1)
    return torch.where(quiet, models.of_word("")[0], states[place.clamp_max(len(states) - 1)])


def _of_a_length(utterances: Sequence[Utterance]) -> Iterator[list[int]]:
    """Numbers of utterances in batches of about the same length, which waste little on padding."""
    order = sorted(range(len(utterances)), key=lambda i: len(utterances[i].frames))
    for start in range(0, len(order), _BATCH):
        yield order[start : start + _BATCH]
