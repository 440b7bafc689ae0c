"""Hidden Markov models of words, and the best path through them, in log space and many utterances at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SILENCE = "sil"
_EVEN = math.log(0.5)  # of a silence that may be or not, where nothing else is known


@dataclass(frozen=True)
class WordModels:
    """Left-to-right models of words and of silence: each state goes on to itself or to the next.

    Attributes:
        words: W of them, sorted.
        states: of a word; those of word w are w * states, w * states + 1, ...
        silence: states of silence, which come last.
        stay: (S,) the probability of each state's going on to itself.
    """

    words: tuple[str, ...]
    states: int
    silence: int
    stay: Tensor

    @classmethod
    def plain(cls, words: Sequence[str], states: int, silence: int) -> WordModels:
        """As they begin: each state lasts two frames."""
        return cls(tuple(words), states, silence, torch.full((len(words) * states + silence,), 0.5))

    @property
    def names(self) -> tuple[str, ...]:
        """The S states' names, as "seven-3"."""
        spoken = [f"{word}-{k + 1}" for word in self.words for k in range(self.states)]
        return (*spoken, *(f"{SILENCE}-{k + 1}" for k in range(self.silence)))

    def of_word(self, word: str) -> Tensor:
        """The states of a word, or of silence where it is ""."""
        if not word:
            return len(self.words) * self.states + torch.arange(self.silence)
        return self.words.index(word) * self.states + torch.arange(self.states)

    def shortest(self, words: Sequence[str]) -> int:
        """The fewest frames in which some words can be said."""
        return len(words) * self.states


@dataclass(frozen=True)
class Graph:
    """Positions that a path goes through, one a frame. Probabilities are logs.

    Attributes:
        states: (N,) which state each position is.
        sources: (N, P) where a position can be reached from; the first is itself.
        weights: (N, P) how probably; -inf where there are fewer than P ways.
        start, end: (N,) how probably a path begins and ends there.
        leave, enter: (N,) how probably a path leaves there for a junction, and comes from it: the way between any two
            words of a loop, which spares one for each pair of them.
        words: (N,) the word's number, -1 in silence.
        heads: (N,) whether a word begins there.
    """

    states: Tensor
    sources: Tensor
    weights: Tensor
    start: Tensor
    end: Tensor
    leave: Tensor
    enter: Tensor
    words: Tensor
    heads: Tensor


class _Builder:
    """Puts models one after another, each left to right, and then joins their ends and beginnings."""

    def __init__(self, blocks: Sequence[tuple[int, Tensor]], stay: Tensor) -> None:
        """`blocks`: (word's number or -1, its states)."""
        self.states = torch.cat([states for _, states in blocks])
        lengths = torch.tensor([len(states) for _, states in blocks])
        self.last = lengths.cumsum(0) - 1
        self.first = self.last - lengths + 1
        n = len(self.states)
        stay = stay.double()
        self.go = torch.log1p(-stay)[self.states]  # log of leaving
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
        """Let a block come after another."""
        last = int(self.last[after])
        self.ways[int(self.first[block])].append((last, float(self.go[last]) + weight))

    def begin(self, block: int, weight: float) -> None:
        self.start[self.first[block]] = weight

    def finish(self, block: int, weight: float) -> None:
        self.end[self.last[block]] = float(self.go[self.last[block]]) + weight

    def connect(self, block: int, weight: float) -> None:
        """Let a block come after any block, and any after it."""
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


def chain(models: WordModels, words: Sequence[str]) -> Graph:
    """What is said when these words are: each in turn, with or without silence before, between and after them."""
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


def loop(models: WordModels, penalty: float) -> Graph:
    """Any words in any order: at first, and after each, as probably silence as a word, and each word like another.

    Args:
        penalty: what beginning a word costs, in nats; the higher, the fewer words.
    """
    words = [(w, models.of_word(word)) for w, word in enumerate(models.words)]
    built = _Builder([*words, (-1, models.of_word(""))], models.stay)
    for block in range(len(words) + 1):
        weight = _EVEN if block == len(words) else _EVEN - math.log(len(words)) - penalty
        built.begin(block, weight)
        built.connect(block, weight)
        built.finish(block, 0.0)
    return built.graph()


def viterbi(scores: Sequence[Tensor], graphs: Sequence[Graph]) -> tuple[list[Tensor], Tensor]:
    """The best path through a graph for each of some utterances, all at once (Viterbi 1967).

    `delta_1(j) = start(j) + b_j(1)`, `delta_t(j) = max_i [delta_{t-1}(i) + a_ij] + b_j(t)`, the best end
    `max_j [delta_T(j) + end(j)]`, and back from there.

    Args:
        scores: (T, S) of each utterance, how well each frame suits each state, in nats.
        graphs: one for each, or one for all.

    Returns:
        (T,) int64 positions in the graph of each utterance, and (B,) float64 scores of these paths; where no path
        fits an utterance, -inf and an empty path.
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
    back = torch.zeros(longest, batch, n, dtype=torch.int16)  # the way; `ways` is the one through the junction
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
