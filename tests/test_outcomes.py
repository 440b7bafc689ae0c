"""What a network gets right, how sure it is, and its surest mistakes: held against slow, plain versions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from understudy.data import ArraySource, open_source
from understudy.evaluation import Predictions, coverage_curve, discordant, mistakes, packed, surest_mistakes
from understudy.evaluation.facts import Confusions, RunFacts
from understudy.evaluation.score import score_models
from understudy.models import InputContract, build
from understudy.pipeline.base import as_teacher
from understudy.reporting.recall import recalls

answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=70)


@given(answers)
def test_counts_of_mcnemar_are_those_of_the_plain_lists(both: list[tuple[bool, bool]]) -> None:
    first, second = (packed(torch.tensor([pair[i] for pair in both])) for i in (0, 1))
    assert discordant(first, second) == (sum(a and not b for a, b in both), sum(b and not a for a, b in both))


def test_unknown_or_other_examples_are_not_compared() -> None:
    some = packed(torch.ones(10) > 0)
    assert discordant("", some) is None
    assert discordant(some, "") is None
    assert discordant(some, packed(torch.ones(30) > 0)) is None


def logits_of(seed: int, n: int, classes: int = 4, coarse: bool = False) -> tuple[torch.Tensor, ...]:
    """Logits of two networks and targets; `coarse` ones are often equal, so that confidences tie."""
    draw = torch.Generator().manual_seed(seed)
    logits, other = torch.randn(2, n, classes, generator=draw) * 2
    targets = torch.randint(classes, (n,), generator=draw)
    return (logits.round() if coarse else logits), other, targets


@given(st.integers(0, 10**6), st.integers(1, 300), st.booleans())
def test_each_threshold_answers_what_is_at_least_as_confident(seed: int, n: int, coarse: bool) -> None:
    logits, other, targets = logits_of(seed, n, coarse=coarse)
    curve = coverage_curve(logits, targets, other)
    confidence, right = logits.double().softmax(1).amax(1).numpy(), (logits.argmax(1) == targets).numpy()
    helped = (other.argmax(1) == targets).numpy()
    for threshold, coverage, accuracy, routed in zip(*(curve[key] for key in curve), strict=True):
        answered = confidence >= threshold
        assert coverage == pytest.approx(answered.mean())
        assert accuracy == pytest.approx(right[answered].mean())
        assert routed == pytest.approx(np.where(answered, right, helped).mean())
    assert curve["coverage"] == sorted(set(curve["coverage"]))
    assert curve["threshold"] == sorted(set(curve["threshold"]), reverse=True)
    assert curve["coverage"][-1] == 1.0
    assert curve["accuracy"][-1] == pytest.approx(right.mean())
    if n >= 100 and not coarse:
        for share in (0.8, 0.9, 0.95):
            assert min(c for c in curve["coverage"] if c >= share - 1e-9) < share + 1 / n


@given(st.integers(0, 10**6), st.integers(1, 100), st.integers(1, 9))
def test_the_surest_mistakes_are_found_by_sorting_all_mistakes(seed: int, n: int, count: int) -> None:
    logits, _, targets = logits_of(seed, n)
    shares = logits.double().softmax(1)
    wrong = [i for i in range(n) if int(logits[i].argmax()) != int(targets[i])]
    expected = sorted(wrong, key=lambda i: -float(shares[i].max()))[:count]
    assert surest_mistakes(logits, targets, count).tolist() == expected


def test_mistakes_show_the_image_and_both_classes(tmp_path: Path) -> None:
    x = torch.randint(256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(1)).byte()
    rows = torch.arange(20)
    source = ArraySource("some", ("cat", "dog", "eel"), rows * 7 + 3, rows % 3, (1, 8, 8), inputs=x)
    wrong = (rows == 4) | (rows == 11)
    chosen = torch.where(wrong, (rows + 1) % 3, rows % 3)
    sharp = torch.where(rows == 11, 9.0, 2.0)
    found = Predictions(source.ids, torch.nn.functional.one_hot(chosen, 3) * sharp[:, None], source.targets)
    teacher = Predictions(source.ids, torch.nn.functional.one_hot(rows % 3, 3).float(), source.targets)
    (tmp_path / "mistakes").mkdir()
    (tmp_path / "mistakes" / "9.png").write_text("of an earlier evaluation")
    first, second = mistakes(source, found, teacher, tmp_path)
    assert (first.label, first.predicted, first.teacher) == ("eel", "cat", "eel")
    assert (second.label, second.predicted) == ("dog", "eel")
    assert first.confidence == pytest.approx(float(np.exp(9) / (np.exp(9) + 2)))
    assert first.of_label == pytest.approx(float(1 / (np.exp(9) + 2)))
    for mistake, row in ((first, 11), (second, 4)):
        assert (np.asarray(Image.open(tmp_path / mistake.image)) == x[row, 0].numpy()).all()
    assert not (tmp_path / "mistakes" / "9.png").exists()
    assert mistakes(source, Predictions(source.ids, found.logits, None), teacher, tmp_path) == []


def test_vectors_have_no_pictures_of_mistakes(tmp_path: Path) -> None:
    source = ArraySource("v", ("a", "b"), torch.arange(6), torch.arange(6) % 2, (2,), inputs=torch.rand(6, 2))
    found = Predictions(source.ids, torch.tensor([[1.0, 0.0]]).repeat(6, 1), source.targets)
    assert mistakes(source, found, None, tmp_path) == []


@given(st.integers(0, 10**6), st.integers(2, 6))
def test_recall_is_the_diagonal_over_the_row(seed: int, classes: int) -> None:
    matrix = np.random.default_rng(seed).integers(0, 5, (classes, classes))
    found = recalls(Confusions(classes=[f"c{i}" for i in range(classes)], model=matrix.astype(float).tolist()))
    expected = {f"c{i}": matrix[i, i] / matrix[i].sum() for i in range(classes) if matrix[i].sum()}
    assert {one.name: pytest.approx(one.share) for one in found} == expected
    assert [one.share for one in found] == sorted(expected.values())


def test_scores_of_digits_keep_what_is_right(tmp_path: Path) -> None:
    """The facts of untrained networks on real images agree with each other."""
    test = open_source("digits").test
    assert test is not None
    assert test.targets is not None
    contract = InputContract(tuple(test.shape), (0.5,), (0.25,), tuple(test.classes))
    networks = {f"distilled-{seed}": build("cnn:4", contract, seed=seed).eval() for seed in (3, 4)}
    teacher = build("cnn:8", contract, seed=1).eval()
    found = score_models(
        test, networks, as_teacher(teacher, torch.device("cpu")), [teacher], 1.0, folder=tmp_path, device="cpu"
    )
    facts = RunFacts.from_json({"name": "run", "kind": "distill"} | found)
    for row in facts.rows:
        for seed in row.seeds:
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(seed.right), np.uint8))[: len(test)]
            assert int(bits.sum()) == len(test) - seed.errors
    student = facts.of("distilled")[0]
    assert facts.confidence is not None
    assert (facts.confidence.role, facts.confidence.seed, facts.confidence.name) == ("distilled", 3, student.name)
    assert facts.confidence.accuracy[-1] == pytest.approx(student.seeds[0].accuracy)
    assert facts.confidence.routed
    assert len(facts.mistakes) == 8
    assert facts.mistakes[0].confidence == max(mistake.confidence for mistake in facts.mistakes)
    assert all((tmp_path / mistake.image).exists() for mistake in facts.mistakes)
