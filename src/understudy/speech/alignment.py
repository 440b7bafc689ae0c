"""Forced alignment of frames to HMM states by Viterbi training from a flat start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.speech.gaussians import Mixtures, fit_mixtures, fit_single
from understudy.speech.hmm import WordModels, transcript_graph, viterbi

_TOLERANCE = 0.02  # nats per frame
_MAX_ROUNDS = 30
_BATCH = 128  # utterances


@dataclass(frozen=True)
class Utterance:
    """(T, D) frames, whose first dimension is loudness, and their transcript."""

    name: str
    frames: Tensor
    words: tuple[str, ...]


@dataclass(frozen=True)
class Aligner:
    """Trained HMMs with Gaussian mixture emissions."""

    models: WordModels
    mixtures: Mixtures
    history: tuple[float, ...] = ()  # mean log-likelihood per frame on the best paths, before each re-estimation

    def align(self, utterances: Sequence[Utterance]) -> tuple[list[Tensor], float]:
        """(T,) int64 states on the Viterbi path of each utterance's transcript, and the total log-likelihood.

        Raises:
            UnderstudyError: A transcript has an unknown word, or an utterance too few frames for its words.
        """
        for one in utterances:
            _check(one, self.models)
        chains = {words: transcript_graph(self.models, words) for words in {one.words for one in utterances}}
        states: list[Tensor] = [torch.empty(0)] * len(utterances)
        total = 0.0
        for rows in _length_buckets(utterances):
            chosen = [utterances[i] for i in rows]
            graphs = [chains[one.words] for one in chosen]
            scores = self.mixtures.log_likelihood(torch.cat([one.frames for one in chosen]))
            paths, totals = viterbi(scores.split([len(one.frames) for one in chosen]), graphs)
            total += float(totals.sum())
            for i, graph, path in zip(rows, graphs, paths, strict=True):
                states[i] = graph.states[path]
        return states, total


def _check(utterance: Utterance, models: WordModels) -> None:
    for word in utterance.words:
        if word not in models.words:
            raise UnderstudyError(
                f"the transcript of {utterance.name} has the unknown word {word!r}; "
                f"the vocabulary is {', '.join(models.words)}"
            )
    least = len(utterance.words) * models.states
    if len(utterance.frames) < least:
        raise UnderstudyError(
            f"{utterance.name} has {len(utterance.frames)} frames, but its words need at least {least}; "
            "fix its transcript, or use fewer states per word"
        )


def train_aligner(utterances: Sequence[Utterance], models: WordModels, mixtures: int = 1) -> Aligner:
    """Viterbi training (segmental K-means): alternate alignment and re-estimation until the likelihood converges.

    Flat start: quiet frames are assigned to silence, and the loud frames of each utterance are split evenly among the
    states of its words. Single Gaussians are trained first, then mixtures if more components are requested.
    """
    frames = torch.cat([one.frames for one in utterances]).double()
    aligner = Aligner(models, _flat_start(utterances, frames, models))
    for parts in dict.fromkeys((1, mixtures)):
        if parts > 1:
            states, _ = aligner.align(utterances)
            aligner = replace(aligner, mixtures=_fit(aligner, frames, states, parts))
        aligner = _iterate(aligner, utterances, frames, parts)
    return aligner


def _fit(aligner: Aligner, frames: Tensor, states: Sequence[Tensor], parts: int) -> Mixtures:
    joined, count = torch.cat(list(states)), len(aligner.models.stay)
    if parts == 1:
        return fit_single(frames, joined, count, aligner.mixtures)
    return fit_mixtures(frames, joined, count, parts, aligner.mixtures)


def _iterate(aligner: Aligner, utterances: Sequence[Utterance], frames: Tensor, parts: int) -> Aligner:
    previous = -float("inf")
    for _ in range(_MAX_ROUNDS):
        states, total = aligner.align(utterances)
        likelihood = total / len(frames)
        aligner = replace(aligner, history=(*aligner.history, likelihood))
        if likelihood - previous < _TOLERANCE:
            break
        previous = likelihood
        models = replace(aligner.models, stay=_self_loops(states, aligner.models.stay))
        aligner = replace(aligner, models=models, mixtures=_fit(aligner, frames, states, parts))
    return aligner


def _self_loops(states: Sequence[Tensor], before: Tensor) -> Tensor:
    """(S,) self-loop probabilities, estimated from alignments and kept away from 0 and 1."""
    count = len(before)
    frames = torch.bincount(torch.cat(list(states)), minlength=count)
    stayed = torch.cat([path[1:][path[1:] == path[:-1]] for path in states])
    share = torch.bincount(stayed, minlength=count) / frames.clamp_min(1)
    return torch.where(frames > 0, share.clamp(0.05, 0.98), before)


def _flat_start(utterances: Sequence[Utterance], frames: Tensor, models: WordModels) -> Mixtures:
    threshold = _loudness_threshold(frames[:, 0])
    states = torch.cat([_split_evenly(one, one.frames[:, 0] < threshold, models) for one in utterances])
    fitted = fit_single(frames, states, len(models.stay))
    silence = models.of_word("")
    fitted.means[silence] = fitted.means[silence[0]].clone()
    fitted.variances[silence] = fitted.variances[silence[0]].clone()
    return fitted


def _loudness_threshold(loudness: Tensor) -> float:
    """Midpoint of the quiet and the loud cluster's means (2-means in one dimension)."""
    threshold = float(loudness.min() + loudness.max()) / 2
    for _ in range(20):
        quiet = loudness < threshold
        if not bool(quiet.any()) or bool(quiet.all()):
            break
        threshold = float(loudness[quiet].mean() + loudness[~quiet].mean()) / 2
    return threshold


def _split_evenly(utterance: Utterance, quiet: Tensor, models: WordModels) -> Tensor:
    """(T,) states: loud frames split evenly among the words' states, quiet ones in the first state of silence."""
    states = torch.cat([models.of_word(word) for word in utterance.words])
    count = int((~quiet).sum())
    place = ((~quiet).cumsum(0) - 1).clamp_min(0) * len(states) // max(count, 1)
    return torch.where(quiet, models.of_word("")[0], states[place.clamp_max(len(states) - 1)])


def _length_buckets(utterances: Sequence[Utterance]) -> Iterator[list[int]]:
    """Batches of utterance indices of similar length, to minimize padding."""
    order = sorted(range(len(utterances)), key=lambda i: len(utterances[i].frames))
    for start in range(0, len(order), _BATCH):
        yield order[start : start + _BATCH]
