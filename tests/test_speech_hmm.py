"""Hidden Markov models: the best path against all paths and against hmmlearn, alignment, decoding."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.speech.alignment import Aligner, Utterance, train_aligner
from understudy.speech.decoding import Decoder, state_priors, word_errors
from understudy.speech.features import Features
from understudy.speech.gaussians import Mixtures, fit_mixtures, fit_single
from understudy.speech.hmm import Graph, WordModels, transcript_graph, viterbi, word_loop


def best_of_all(scores: Tensor, graph: Graph) -> float:
    """The highest score over every sequence of positions there is."""
    n, best = len(graph.states), -math.inf
    arcs = {
        (int(source), j): float(weight)
        for j in range(n)
        for source, weight in zip(graph.sources[j], graph.weights[j], strict=True)
        if weight > -math.inf
    }
    for i, j in itertools.product(range(n), range(n)):
        through = float(graph.leave[i] + graph.enter[j])
        arcs[i, j] = max(through, arcs.get((i, j), -math.inf))
    for path in itertools.product(range(n), repeat=len(scores)):
        total = float(graph.start[path[0]]) + float(graph.end[path[-1]])
        total += sum(arcs.get(pair, -math.inf) for pair in itertools.pairwise(path))
        total += sum(float(scores[t, graph.states[j]]) for t, j in enumerate(path))
        best = max(best, total)
    return best


def score_of(path: Tensor, scores: Tensor, graph: Graph) -> float:
    total = float(graph.start[path[0]] + graph.end[path[-1]])
    for before, at in itertools.pairwise(path.tolist()):
        ways = graph.weights[at][graph.sources[at] == before]
        total += max([*ways.tolist(), float(graph.leave[before] + graph.enter[at])])
    return total + sum(float(scores[t, graph.states[j]]) for t, j in enumerate(path.tolist()))


small = st.tuples(st.integers(2, 5), st.integers(0, 10_000))


@given(small, st.sampled_from([("a",), ("b",)]))
@settings(max_examples=25, deadline=None)
def test_the_best_path_of_a_chain_is_the_best_of_all(case: tuple[int, int], words: tuple[str, ...]) -> None:
    frames, seed = case
    random = torch.Generator().manual_seed(seed)
    models = WordModels(("a", "b"), 2, 1, torch.rand(5, generator=random) * 0.8 + 0.1)
    graph = transcript_graph(models, words)
    scores = torch.randn(frames, 5, generator=random, dtype=torch.float64) * 3
    (path,), total = viterbi([scores], [graph])
    assert float(total) == pytest.approx(best_of_all(scores, graph))
    assert float(total) == pytest.approx(score_of(path, scores, graph))


@given(small, st.floats(-3, 3))
@settings(max_examples=25, deadline=None)
def test_the_best_path_of_a_word_loop_is_the_best_of_all(case: tuple[int, int], penalty: float) -> None:
    frames, seed = case
    random = torch.Generator().manual_seed(seed)
    models = WordModels(("a", "b"), 2, 1, torch.rand(5, generator=random) * 0.8 + 0.1)
    graph = word_loop(models, penalty)
    scores = torch.randn(frames, 5, generator=random, dtype=torch.float64) * 3
    (path,), total = viterbi([scores], [graph])
    assert float(total) == pytest.approx(best_of_all(scores, graph))
    assert float(total) == pytest.approx(score_of(path, scores, graph))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_utterances_at_once_are_utterances_one_by_one(lengths: list[int], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    models = WordModels.initial(("a", "b", "c"), 2, 2)
    scores = [torch.randn(n, 8, generator=random) for n in lengths]
    graphs = [transcript_graph(models, ["a", "b", "c"][: 1 + i % 3]) for i in range(len(lengths))]
    paths, totals = viterbi(scores, graphs)
    for score, graph, path, total in zip(scores, graphs, paths, totals, strict=True):
        (alone,), own = viterbi([score], [graph])
        assert torch.equal(alone, path)
        assert float(own) == float(total)


def test_no_path_fits_too_few_frames() -> None:
    models = WordModels.initial(("a",), 4, 1)
    (path,), total = viterbi([torch.zeros(3, 5)], [transcript_graph(models, ("a",))])
    assert len(path) == 0
    assert float(total) == -math.inf


def test_the_same_path_as_hmmlearn() -> None:
    """On a left-to-right chain whose end is free, which is all that hmmlearn knows of."""
    hmm = pytest.importorskip("hmmlearn.hmm")
    random = np.random.default_rng(0)
    means = random.normal(size=(3, 2)) * 3
    x = np.concatenate([means[k] + random.normal(size=(5, 2)) for k in range(3)])
    theirs = hmm.GaussianHMM(3, covariance_type="diag")
    theirs.startprob_ = np.array([1.0, 0, 0])
    theirs.transmat_ = np.array([[0.6, 0.4, 0], [0, 0.7, 0.3], [0, 0, 1.0]])
    theirs.means_, theirs.covars_ = means, np.ones((3, 2))
    expected, states = theirs.decode(x)
    mixtures = Mixtures(torch.ones(3, 1).double(), torch.tensor(means)[:, None], torch.ones(3, 1, 2).double())
    minus = -math.inf
    graph = Graph(
        torch.arange(3),
        torch.tensor([[0, 0], [1, 0], [2, 1]]),
        torch.tensor([[0.6, 0], [0.7, 0.4], [1.0, 0.3]], dtype=torch.float64).log(),
        torch.tensor([0, minus, minus], dtype=torch.float64),
        torch.zeros(3, dtype=torch.float64),
        torch.full((3,), minus, dtype=torch.float64),
        torch.full((3,), minus, dtype=torch.float64),
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(3, dtype=torch.bool),
    )
    (path,), total = viterbi([mixtures.log_likelihood(torch.tensor(x))], [graph])
    assert path.tolist() == states.tolist()
    assert float(total) == pytest.approx(expected)


# ---- Gaussians


def test_a_mixtures_likelihood_is_scikit_learns() -> None:
    from sklearn.mixture import GaussianMixture

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, dtype=torch.float64, generator=generator) * torch.tensor([1.0, 3, 0.5]) + 2
    single = fit_single(x, torch.zeros(200).long(), 1)
    fitted = fit_mixtures(x, torch.zeros(200).long(), 1, 2, single)
    theirs = GaussianMixture(2, covariance_type="diag")
    theirs.weights_, theirs.means_ = fitted.weights[0].numpy(), fitted.means[0].numpy()
    theirs.covariances_ = fitted.variances[0].numpy()
    theirs.precisions_cholesky_ = theirs.covariances_**-0.5
    np.testing.assert_allclose(fitted.log_likelihood(x)[:, 0], theirs.score_samples(x.numpy()), rtol=1e-9)
    assert fitted.log_likelihood(x).mean() >= single.log_likelihood(x).mean()


def test_one_gaussian_is_the_mean_and_variance_of_its_frames() -> None:
    x = torch.tensor([[0.0, 1], [2, 1], [10, 0], [14, 4]])
    found = fit_single(x, torch.tensor([0, 0, 1, 1]), 3)
    assert found.means[:2, 0].tolist() == [[1, 1], [12, 2]]
    assert found.variances[1, 0].tolist() == [4, 4]
    assert found.means[2, 0].tolist() == [6.5, 1.5], "a state without frames has those of all"


# ---- alignment


def said(words: str, seed: int, silence: int = 4) -> tuple[Utterance, Tensor]:
    """An utterance of words a and b, of two states each and silence, with its true states."""
    random = np.random.default_rng(seed)
    states: list[int] = [4] * silence
    for word in words:
        for k in range(2):
            states += [2 * "ab".index(word) + k] * int(random.integers(3, 7))
    states += [4] * silence
    true = torch.tensor(states)
    means = torch.tensor([[1.0, 3, 0, 0], [1, 0, 3, 0], [1, -3, 0, 0], [1, 0, 0, 3], [-3, 0, 0, 0]])
    frames = means[true] + 0.5 * torch.from_numpy(random.normal(size=(len(true), 4)))
    return Utterance(words, frames.double(), tuple(words)), true


@pytest.mark.parametrize("mixtures", [1, 2])
def test_a_flat_start_finds_the_states_and_the_likelihood_only_rises(mixtures: int) -> None:
    texts = ["a", "b", "ab", "ba", "abb", "baa", "a", "b"] * 3
    made = [said(text, seed) for seed, text in enumerate(texts)]
    aligner = train_aligner([one for one, _ in made], WordModels.initial(("a", "b"), 2, 1), mixtures)
    states, _ = aligner.align([one for one, _ in made])
    right = torch.cat(states) == torch.cat([true for _, true in made])
    assert right.double().mean() > 0.97
    rises = np.diff(aligner.history)
    assert (rises > -1e-2).all()
    assert aligner.history[-1] > aligner.history[0] + 0.5
    assert len(aligner.history) < 40, "it settled"


def test_alignment_says_what_it_cannot_align() -> None:
    one, _ = said("ab", 0)
    models = WordModels.initial(("a", "b"), 2, 1)
    aligner = Aligner(models, fit_single(one.frames, torch.zeros(len(one.frames)).long(), 5))
    with pytest.raises(UnderstudyError, match=r"transcript of x has the unknown word 'c'; the vocabulary is a, b"):
        aligner.align([Utterance("x", one.frames, ("a", "c"))])
    with pytest.raises(UnderstudyError, match="3 frames, but its words need at least 4"):
        aligner.align([Utterance("x", one.frames[:3], ("a", "b"))])


# ---- decoding


def decoder(words: tuple[str, ...] = ("a", "b")) -> Decoder:
    models = WordModels.initial(words, 2, 1)
    return Decoder(Features(), models, torch.full((len(models.stay),), 1 / len(models.stay)), {})


def certain(states: list[int], count: int = 5) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(states), count).double().mul(0.96).add(0.01).log()


def test_words_and_their_times() -> None:
    states = [4] * 10 + [0] * 5 + [1] * 5 + [4] * 10 + [2] * 5 + [3] * 5 + [2] * 5 + [3] * 5
    ((words,),) = decoder().paths([certain(states)], [0.0])
    assert [(w.word, round(w.start, 3), round(w.end, 3)) for w in words] == [
        ("a", 0.1, 0.215), ("b", 0.3, 0.415), ("b", 0.4, 0.515),
    ]  # fmt: skip


def test_a_higher_penalty_never_hears_more_words() -> None:
    random = torch.Generator().manual_seed(0)
    scores = [torch.randn(60, 5, generator=random).log_softmax(1) for _ in range(5)]
    counts = [[len(words) for words in heard] for heard in decoder().paths(scores, [-5.0, 0.0, 5.0, 50.0])]
    for fewer, more in itertools.pairwise(reversed(counts)):
        assert all(low <= high for low, high in zip(fewer, more, strict=True))
    assert sum(counts[0]) > sum(counts[-1])


def test_posteriors_are_divided_by_priors() -> None:
    """What is frequent is not heard for that alone."""
    shares = torch.tensor([[0.25, 0.05, 0.24, 0.4, 0.06]] * 2 + [[0.05, 0.3, 0.1, 0.5, 0.05]] * 4).log()
    common = state_priors(torch.tensor([0] * 10 + [1] * 10 + [2] * 10 + [3] * 100 + [4] * 10), 5)
    even = decoder()
    notes = Decoder(even.features, even.models, common, {})
    assert [w.word for w in even.paths([shares], [0.0])[0][0]] == ["b"]
    assert [w.word for w in notes.paths([shares], [0.0])[0][0]] == ["a"]


def test_priors_are_shares_of_frames_and_never_zero() -> None:
    priors = state_priors(torch.tensor([0, 0, 0, 1, 1, 1, 1]), 3)
    torch.testing.assert_close(priors, torch.tensor([3, 4, 1]).double() / 8)


def test_word_errors_of_a_known_example() -> None:
    found = word_errors([("one", "two", "three"), ("four",)], [("one", "three", "three"), ()])
    assert (found.insertions, found.deletions, found.substitutions) == (0, 1, 1)
    assert found.rate == 0.5
    assert word_errors([("one",)], [("one", "one")]).insertions == 1
