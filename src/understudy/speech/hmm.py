"""Hidden Markov models of words, and batched Viterbi decoding in log space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SILENCE = "sil"
_EVEN = math.log(0.5)  # optional silence: as probable as not


@dataclass(frozen=True)
class WordModels:
    """Left-to-right HMMs of words and of silence, with self-loops and no skips.

    Example:
        >>> models = WordModels.initial(("no", "yes"), states=2, silence=1)
        >>> models.names
        ('no-1', 'no-2', 'yes-1', 'yes-2', 'sil-1')
        >>> models.of_word("yes").tolist(), models.of_word("").tolist()
        ([2, 3], [4])
    """

    words: tuple[str, ...]  # the vocabulary, sorted
    states: int  # per word; those of word w are w * states, w * states + 1, ...
    silence: int  # number of states of silence, which come last
    stay: Tensor  # (S,) self-loop probabilities

    @classmethod
    def initial(cls, words: Sequence[str], states: int, silence: int) -> WordModels:
        """Models with self-loop probabilities of 0.5, an expected duration of two frames per state."""
        return cls(tuple(words), states, silence, torch.full((len(words) * states + silence,), 0.5))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the S states, such as "seven-3"."""
        spoken = [f"{word}-{k + 1}" for word in self.words for k in range(self.states)]
        return (*spoken, *(f"{SILENCE}-{k + 1}" for k in range(self.silence)))

    def of_word(self, word: str) -> Tensor:
        """States of a word, or of silence if `word` is empty."""
        if not word:
            return len(self.words) * self.states + torch.arange(self.silence)
        return self.words.index(word) * self.states + torch.arange(self.states)


@dataclass(frozen=True)
class Graph:
    """A decoding graph of N nodes; a path visits one per frame. All weights are log-probabilities.

    A shared junction connects all words of a loop without an arc for each pair of them.
    """

    states: Tensor  # (N,) HMM state of each node
    sources: Tensor  # (N, P) predecessors of each node, the first being itself
    weights: Tensor  # (N, P) weights of these arcs; -inf for padding
    start: Tensor  # (N,) initial weights
    end: Tensor  # (N,) final weights
    leave: Tensor  # (N,) weights to the junction
    enter: Tensor  # (N,) weights from the junction
    words: Tensor  # (N,) word index, -1 for silence
    heads: Tensor  # (N,) whether a word starts at the node


class _Builder:
    """Lays out left-to-right models as blocks of nodes, (word index or -1, states) each, then connects their ends."""

    def __init__(self, blocks: Sequence[tuple[int, Tensor]], stay: Tensor) -> None:
        self.states = torch.cat([states for _, states in blocks])
        lengths = torch.tensor([len(states) for _, states in blocks])
        self.last = lengths.cumsum(0) - 1
        self.first = self.last - lengths + 1
        n = len(self.states)
        stay = stay.double()
        self.go = torch.log1p(-stay)[self.states]  # log-probability of leaving a state
        self.ways: list[list[tuple[int, float]]] = [[(i, float(x))] for i, x in enumerate(stay.log()[self.states])]
        heads = set(self.first.tolist())
        for i in range(1, n):
            if i not in heads:
                self.ways[i].append((i - 1, float(self.go[i - 1])))
        self.start, self.end, self.leave, self.enter = torch.full((4, n), -math.inf, dtype=torch.float64)
        numbers = torch.tensor([number for number, _ in blocks])
        self.words = numbers.repeat_interleave(lengths)
        self.heads = torch.zeros(n, dtype=torch.bool)
        self.heads[self.first] = numbers >= 0

    def follow(self, block: int, after: int, weight: float) -> None:
        """Connect the end of block `after` to the start of `block`."""
        last = int(self.last[after])
        self.ways[int(self.first[block])].append((last, float(self.go[last]) + weight))

    def begin(self, block: int, weight: float) -> None:
        self.start[self.first[block]] = weight

    def finish(self, block: int, weight: float) -> None:
        self.end[self.last[block]] = float(self.go[self.last[block]]) + weight

    def connect(self, block: int, weight: float) -> None:
        """Connect a block to the junction in both directions."""
        last = int(self.last[block])
        self.leave[last] = self.go[last]
        self.enter[self.first[block]] = weight

    def graph(self) -> Graph:
        most = max(map(len, self.ways))
        padded = [ways + [(0, -math.inf)] * (most - len(ways)) for ways in self.ways]
        sources = torch.tensor([[source for source, _ in ways] for ways in padded])
        weights = torch.tensor([[weight for _, weight in ways] for ways in padded], dtype=torch.float64)
        return Graph(
            self.states, sources, weights, self.start, self.end, self.leave, self.enter, self.words, self.heads
        )


def transcript_graph(models: WordModels, words: Sequence[str]) -> Graph:
    """Graph for forced alignment: the words in order, with optional silence before, between and after them.

    Example:
        >>> models = WordModels.initial(("no", "yes"), states=2, silence=1)
        >>> transcript_graph(models, ["yes"]).states.tolist()
        [4, 2, 3, 4]
    """
    blocks = [(-1, models.of_word(""))]
    for word in words:
        blocks += [(models.words.index(word), models.of_word(word)), (-1, models.of_word(""))]
    built = _Builder(blocks, models.stay)
    built.begin(0, _EVEN)
    built.begin(1, _EVEN)
    for spoken in range(1, len(blocks), 2):
        built.follow(spoken, spoken - 1, 0.0)
        built.follow(spoken + 1, spoken, _EVEN)
        if spoken > 1:
            built.follow(spoken, spoken - 2, _EVEN)
    built.finish(len(blocks) - 1, 0.0)
    built.finish(len(blocks) - 2, _EVEN)
    return built.graph()


def word_loop(models: WordModels, penalty: float) -> Graph:
    """Graph for decoding: any sequence of equiprobable words, with optional silence and a penalty in nats per word."""
    words = [(w, models.of_word(word)) for w, word in enumerate(models.words)]
    built = _Builder([*words, (-1, models.of_word(""))], models.stay)
    for block in range(len(words) + 1):
        weight = _EVEN if block == len(words) else _EVEN - math.log(len(words)) - penalty
        built.begin(block, weight)
        built.connect(block, weight)
        built.finish(block, 0.0)
    return built.graph()


def viterbi(scores: Sequence[Tensor], graphs: Sequence[Graph]) -> tuple[list[Tensor], Tensor]:
    """The best path of each utterance through its graph, batched over utterances (Viterbi 1967).

    `delta_1(j) = start(j) + b_j(1)`, `delta_t(j) = max_i [delta_{t-1}(i) + a_ij] + b_j(t)`, then backtracking from
    `max_j [delta_T(j) + end(j)]`.

    Args:
        scores: (T, S) emission log-likelihoods of each utterance.
        graphs: one per utterance, or a single one for all.

    Returns:
        (T,) int64 nodes of each path, and (B,) float64 path scores; an empty path and -inf where there is no path.

    Example:
        Forced alignment of four frames to silence, the two states of "yes", and silence:

        >>> graph = transcript_graph(WordModels.initial(("yes",), states=2, silence=1), ["yes"])
        >>> (path,), _ = viterbi([torch.tensor([[0., 0, 9], [9, 0, 0], [0, 9, 0], [0, 0, 9]])], [graph])
        >>> graph.states[path].tolist()
        [2, 0, 1, 2]
    """
    lengths = torch.tensor([len(one) for one in scores])
    batch, longest = len(scores), int(lengths.max())
    kept = list(graphs) * batch if len(graphs) == 1 else list(graphs)
    n, ways = max(len(g.states) for g in graphs), max(g.sources.shape[1] for g in graphs)
    start, end, leave, enter = torch.full((4, batch, n), -math.inf, dtype=torch.float64)
    emitted = torch.full((batch, longest, n), -math.inf, dtype=torch.float64)
    sources = torch.zeros(batch, n, ways, dtype=torch.int64)
    weights = torch.full((batch, n, ways), -math.inf, dtype=torch.float64)
    for b, (own, graph) in enumerate(zip(scores, kept, strict=True)):
        size, width = graph.sources.shape
        start[b, :size], end[b, :size] = graph.start, graph.end
        leave[b, :size], enter[b, :size] = graph.leave, graph.enter
        sources[b, :size, :width], weights[b, :size, :width] = graph.sources, graph.weights
        emitted[b, : len(own), :size] = own.double()[:, graph.states]
    flat, joined = sources.flatten(1), bool(torch.isfinite(enter).any())
    best = start + emitted[:, 0]
    back = torch.zeros(longest, batch, n, dtype=torch.int16)  # arc taken; `ways`: junction
    junction = torch.zeros(longest, batch, dtype=torch.int64)
    for t in range(1, longest):
        arriving, which = (best.gather(1, flat).view(batch, n, ways) + weights).max(2)
        if joined:
            passing, junction[t] = (best + leave).max(1)
            through = passing[:, None] + enter
            which = torch.where(through > arriving, ways, which)
            arriving = torch.maximum(through, arriving)
        best = torch.where((t < lengths)[:, None], arriving + emitted[:, t], best)
        back[t] = which
    total, at = (best + end).max(1)
    rows = torch.arange(batch)
    paths = torch.zeros(batch, longest, dtype=torch.int64)
    for t in range(longest - 1, -1, -1):
        paths[:, t] = at
        way = back[t, rows, at].long()
        before = torch.where(way == ways, junction[t], sources[rows, at, way.clamp_max(ways - 1)])
        at = torch.where((t < lengths) & (t > 0), before, at)
    finite = torch.isfinite(total).tolist()
    return [paths[b, : len(own) if finite[b] else 0] for b, own in enumerate(scores)], total
