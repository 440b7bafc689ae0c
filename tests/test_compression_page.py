"""The page of a compression: the verdict and its warnings, the candidates, and what is forecast."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

import understudy
from understudy.evaluation import packed
from understudy.evaluation.facts import CompressionFacts, ScalingForecast
from understudy.reporting import console, render
from understudy.reporting.candidates import candidates, non_dominated
from understudy.reporting.forecast import forecast_sentence
from understudy.reporting.rivals import Network, duel, duels
from understudy.reporting.verdict import handed_over, verdict, warnings

N = 200  # test images

Right = dict[int, list[bool]]  # by seed


def first(count: int, of: int = N) -> list[bool]:
    """The first `count` examples right; of two such networks, one is right wherever the other is."""
    return [i < count for i in range(of)]


def row(role: str, right: Right, **more: Any) -> dict[str, Any]:
    seeds = [
        {"seed": i, "accuracy": sum(r) / len(r), "errors": len(r) - sum(r), "right": packed(torch.tensor(r))}
        for i, r in right.items()
    ]
    return {"name": role, "role": role, "model": f"{role}-net", "seeds": seeds} | more


def candidate(role: str = "student", precision: str = "fp32", **more: Any) -> dict[str, Any]:
    return {
        "model": f"{role}-net", "role": role, "size": 64, "precision": precision, "latency_ms": 1.0, "bytes": 10**6
    } | more  # fmt: skip


def facts_of(rows: list[dict[str, Any]], **more: Any) -> CompressionFacts:
    file = {"file": "model.onnx", "format": "onnx", "bytes": 2000, "accuracy": 0.9, "latency_ms": 0.5, "agreement": 1,
            "worst_difference": 0}  # fmt: skip
    original = {"bytes": 4000, "accuracy": 0.9, "latency_ms": 0.1}
    return CompressionFacts.from_json(
        {"name": "small", "rows": rows, "latency_ms": {"teacher": 4.0, "student": 1.0}, "seconds": {"teacher": 60},
         "run": {"name": "student", "kind": "distill", "data": {"name": "photos", "examples": N}},
         "export": {"folder": "export", "original": original, "files": [file]}} | more
    )  # fmt: skip


def student(teacher: int, alone: int, distilled: int, **more: Any) -> CompressionFacts:
    """One seed of each, by how many of the test images are right."""
    rights = {"teacher": teacher, "alone": alone, "distilled": distilled}
    return facts_of([row(role, {0: first(count)}) for role, count in rights.items()], **more)


def given_of(**accuracy: int) -> dict[str, Any]:
    names = {"linear_probe": "linear probe", "k_nn": "k-NN"}
    routes = {names[name]: count for name, count in accuracy.items()}
    return {
        "backbone": "big-net", "seconds": 16,
        "accuracy": {name: count / N for name, count in routes.items()},
        "right": {name: packed(torch.tensor(first(count))) for name, count in routes.items()},
    }  # fmt: skip


def printed(facts: CompressionFacts) -> str:
    file = io.StringIO()
    for part in console(facts):
        Console(file=file, width=100).print(part)
    return " ".join(file.getvalue().split())


def page(facts: CompressionFacts) -> str:
    return render(facts, Path())


# --- the verdict --------------------------------------------------------------------------------------------


def test_a_gain_on_one_seed_is_tested_by_image() -> None:
    found = verdict(student(190, 150, 170))
    p = stats.binomtest(20, 20).pvalue  # 20 images that only the distilled student has right
    assert p < 0.001
    assert (found.tone, found.verdict) == ("good", "Distillation helped")
    assert found.sentence == (
        "85.0% against 75.0% trained alone (+10 points, p < 0.001, McNemar's exact test, one seed)."
    )
    assert "3 seeds" not in found.sentence


def test_three_seeds_are_paired_and_two_are_not() -> None:
    alone, distilled = [150, 154, 149], [170, 168, 172]
    for seeds in (1, 2, 3):
        rows = [
            row(role, {i: first(count) for i, count in enumerate(counts[:seeds])})
            for role, counts in (("alone", alone), ("distilled", distilled))
        ]
        (found,) = duels(facts_of(rows))
        if seeds < 3:
            expected = max(stats.binomtest(b - a, b - a).pvalue for a, b in zip(alone, distilled[:seeds], strict=False))
            assert found.interval is None
            assert "McNemar" in found.test
        else:
            test = stats.ttest_rel(distilled, alone)
            expected = test.pvalue
            assert found.test == "paired over three seeds"
            interval = test.confidence_interval(0.95)
            assert found.interval == pytest.approx((interval.low / N, interval.high / N))
        assert found.p == pytest.approx(expected)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=80))
def test_one_seed_is_judged_by_the_sign_test_of_the_images_that_differ(both: list[tuple[bool, bool]]) -> None:
    alone, distilled = ([pair[i] for pair in both] for i in (0, 1))
    facts = facts_of([row("alone", {0: alone}), row("distilled", {0: distilled})])
    wins = sum(b and not a for a, b in both)
    losses = sum(a and not b for a, b in both)
    p = min(1.0, 2 * sum(math.comb(wins + losses, k) for k in range(min(wins, losses) + 1)) / 2 ** (wins + losses))
    (found,) = duels(facts)
    assert (found.wins, found.losses) == (wins, losses)
    assert found.p == pytest.approx(p)
    expected = (
        "Distillation did not help" if wins <= losses
        else "Distillation helped" if p <= 0.05 else "No gain could be shown"
    )  # fmt: skip
    assert verdict(facts).verdict == expected
    assert any(one.bad for one in warnings(facts)) is (wins <= losses)


def test_without_images_there_is_no_test_and_without_a_rival_no_verdict() -> None:
    rows = [row("alone", {0: first(150)}), row("distilled", {0: first(170)})]
    for seed in (rows[0]["seeds"][0], rows[1]["seeds"][0]):
        seed["right"] = ""
    assert verdict(facts_of(rows)).verdict == "Not tested"
    assert "untested" in verdict(facts_of(rows)).sentence
    assert verdict(facts_of(rows[1:])).verdict == "No baseline"
    assert verdict(facts_of([row("teacher", {0: first(170)})])).verdict == "No student was distilled"


def test_a_teacher_of_one_seed_is_compared_with_each_seed_of_the_student() -> None:
    rows = [row("teacher", {0: first(160)}), row("distilled", {i: first(n) for i, n in enumerate((150, 140, 158))})]
    (found,) = duels(facts_of(rows))
    assert found.seeds == (0, 1, 2)
    assert found.p == pytest.approx(stats.binomtest(0, 2).pvalue)  # of the seed that differs least
    assert found.points == pytest.approx(100 * ((150 + 140 + 158) / 3 - 160) / N)


def test_networks_without_a_common_seed_are_not_tested() -> None:
    found = duel(Network("a", {0: 0.5}, {0: "ff"}), Network("b", {1: 0.4}, {1: "0f"}))
    assert (found.seeds, found.p, found.test) == ((), None, "")
    assert found.accuracy == (0.5, 0.4)


# --- warnings -----------------------------------------------------------------------------------------------


@given(st.integers(0, N), st.integers(0, N), st.integers(0, N))
def test_a_teacher_is_warned_of_exactly_if_its_backbone_was_worth_more(teacher: int, probe: int, knn: int) -> None:
    facts = student(teacher, 0, 10, given=[given_of(linear_probe=probe, k_nn=knn)])
    best = max(probe, knn)
    found = [one for one in warnings(facts) if "is worse than" in one.text]
    assert bool(found) is (teacher < best)
    if found:
        chance = bool(stats.binomtest(0, best - teacher).pvalue > 0.05)
        assert found[0].bad is not chance
        assert ("chance" in found[0].text) is chance
        assert f"({100 * best / N:.1f}%)" in found[0].text


def test_the_warning_names_what_to_try_and_is_red() -> None:
    facts = student(126, 126, 130, given=[given_of(linear_probe=186, k_nn=170)])
    text = (
        "The teacher (63.0%) is worse than a linear probe on the frozen backbone (93.0%). Try --teacher with a better "
        "network, more --budget, or a smaller --crop-size."
    )
    assert [one.text for one in warnings(facts) if one.bad] == [text]
    assert f'<p class="warning">{text}</p>' in re.sub(r"</?span[^>]*>", "", page(facts))
    assert text in printed(facts)
    assert '<p class="warning">' not in page(student(190, 150, 170, given=[given_of(linear_probe=186)]))


def test_distillation_that_did_not_help_is_red_and_says_what_to_try() -> None:
    (plain,) = warnings(student(190, 150, 140))
    assert plain.bad
    assert "--budget" in plain.text
    (weak,) = warnings(student(120, 150, 140))
    assert weak.bad
    assert "more accurate than its teacher (60.0%)" in weak.text
    (lucky,) = warnings(student(120, 130, 170))
    assert not lucky.bad
    assert warnings(student(190, 150, 170)) == []


@given(
    st.floats(0.5, 2), st.integers(1, 4), st.floats(0, 1), st.floats(0.5, 2), st.integers(1, 4), st.floats(0, 1),
    st.sampled_from(["backbone", "student", "alone"]),
)  # fmt: skip
def test_a_student_that_loses_to_the_backbone_in_everything_is_told_so(
    ms: float, size: int, right: float, other_ms: float, other_size: int, other_right: float, role: str
) -> None:
    made = [
        candidate(latency_ms=ms, bytes=size, accuracy=right, chosen=True),
        candidate(role, "int8", latency_ms=other_ms, bytes=other_size, accuracy=other_right),
    ]
    found = [one for one in warnings(student(190, 150, 170, candidates=made)) if "use it" in one.text]
    assert bool(found) is (role == "backbone" and other_ms < ms and other_size < size and other_right > right)
    assert all(one.bad for one in found)


def test_the_backbone_in_int8_is_recommended_in_words() -> None:
    made = [
        candidate(latency_ms=2.9, bytes=4_200_000, accuracy=0.88, chosen=True),
        candidate("backbone", latency_ms=3.9, bytes=13_500_000, accuracy=0.929),
        candidate("backbone", "int8", latency_ms=2.7, bytes=3_800_000, accuracy=0.917),
    ]
    text = (
        "The backbone in int8 at 64 px is more accurate (91.7%), smaller (3.80 MB) and faster (2.7 ms) than this "
        "student: use it."
    )
    assert text in [one.text for one in warnings(student(190, 150, 170, candidates=made))]
    chosen = [made[0] | {"chosen": False}, made[1], made[2] | {"chosen": True}]
    facts = student(190, 150, 170, candidates=chosen)
    assert warnings(facts) == []
    assert handed_over(facts) == "Handed over: the backbone backbone-net at 64 px (int8 91.7%, 3.80 MB, 2.7 ms)."


@pytest.mark.parametrize(("ms", "slower"), [(2.0, True), (1.0, False), (0.5, False)])
def test_int8_that_is_not_faster_here_is_said_to_be_so(ms: float, slower: bool) -> None:
    made = [
        candidate(latency_ms=1.0, bytes=200, accuracy=0.9, chosen=True),
        candidate("student", "int8", latency_ms=ms, bytes=60, accuracy=0.9, chosen=True),
    ]
    assert ("smaller but not faster" in handed_over(student(190, 150, 170, candidates=made))) is slower


# --- candidates ---------------------------------------------------------------------------------------------

points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(points)
def test_what_is_not_dominated_leaves_no_room_for_another(found: list[tuple[int, int]]) -> None:
    """By definition: a point is beaten by one that is at least as cheap and as good, and not equal to it."""
    kept = non_dominated([cost for cost, _ in found], [score for _, score in found])
    for (cost, score), stays in zip(found, kept, strict=True):
        better = [(c, s) for c, s in found if c <= cost and s >= score and (c < cost or s > score)]
        assert stays is (not better)
    front = sorted({point for point, stays in zip(found, kept, strict=True) if stays})
    assert [score for _, score in front] == sorted({score for _, score in front})  # rises with the cost


def test_both_precisions_share_a_number_and_tests_are_not_mixed_with_validations() -> None:
    made = [
        candidate("student", accuracy=0.8, chosen=True, latency_ms=2),
        candidate("student", "int8", accuracy=0.79, chosen=True, latency_ms=1),
        candidate("backbone", accuracy=0.9, latency_ms=3),
        candidate(model="other", validation=0.99, latency_ms=1),
        candidate(model="unscored", latency_ms=1),
    ]
    found = candidates(student(190, 150, 170, candidates=made))
    shown = [(one.number, one.facts.model, one.facts.precision, one.score, one.fast) for one in found]
    assert shown == [
        (1, "other", "fp32", 0.99, True),
        (2, "backbone-net", "fp32", 0.9, True),
        (3, "student-net", "fp32", 0.8, True),
        (3, "student-net", "int8", 0.79, True),
        (4, "unscored", "fp32", None, False),
    ]


def test_all_candidates_are_in_the_table_and_the_chosen_one_is_marked() -> None:
    names = ["<b>evil</b>", "second", "third"]
    made = [
        candidate(model=name, precision=precision, accuracy=0.8 - i / 50, latency_ms=1.25 + i, bytes=10**6 * (i + 1),
                  chosen=name == "second", stands=name != "third")
        for i, name in enumerate(names)
        for precision in ("fp32", "int8")
    ]  # fmt: skip
    facts = student(190, 150, 170, candidates=made, limits={"latency_ms": 2.5, "bytes": 2e6})
    html = page(facts)
    table = html[html.index('class="closest candidates"') :]
    table = table[: table.index("</table>")]
    assert "&lt;b&gt;evil&lt;/b&gt;" in table
    assert table.count('<tr class="') == 6
    assert len(re.findall(r'<tr class="chosen', table)) == 2
    assert len(re.findall(r"beyond", table)) == 2
    assert {"1.25", "2.25", "3.25", "1.00", "2.00", "3.00"} <= set(re.findall(r"<td>([\d.]+)</td>", table))
    assert html.count("<figcaption>Accuracy, %, against") == 2
    assert "latency of at most 2.5 ms, file of at most 2.00 MB" in html
    assert "latency of at most 2.5 ms" in printed(facts)


def test_shares_of_latencies_are_within_one_runtime() -> None:
    """The file's 0.5 ms are of ONNX Runtime, the teacher's 4 ms of PyTorch; the backbone's 2.5 ms of ONNX Runtime."""
    facts = student(190, 150, 170)
    assert "500 µs 12%" not in printed(facts)
    assert "1 ms 25%" in printed(facts)  # the student's, in PyTorch
    made = [candidate(accuracy=0.85, chosen=True), candidate("backbone", accuracy=0.95, latency_ms=2.5)]
    assert "500 µs 20%" in printed(student(190, 150, 170, candidates=made))


# --- the forecast -------------------------------------------------------------------------------------------


def forecast(pilot_error: float, error: float, teacher_error: float | None, examples: int | None) -> ScalingForecast:
    return ScalingForecast(
        pilot_steps=100, steps=800, pilot_error=pilot_error, error=error, teacher_error=teacher_error, examples=examples
    )


errors = st.floats(0.001, 0.999)


@given(errors, errors, errors, st.integers(10, 10**6))
def test_no_forecast_is_better_than_the_teacher_or_worse_than_now(
    pilot: float, error: float, teacher: float, n: int
) -> None:
    found = forecast(pilot, error, teacher, n)
    if not found.known:
        assert forecast_sentence(found) == ""
        return
    assert teacher < error < pilot
    for times in (2, 4, 100):
        low, high = found.between(times)
        assert teacher <= low <= found.at(times) <= high <= error
    assert found.at(4) <= found.at(2)
    assert "teacher" in forecast_sentence(found) or found.at(4) > teacher


@given(st.floats(0.02, 0.5), st.floats(1.3, 1.9))
def test_far_from_the_teacher_it_is_a_power_law_through_both_schedules(error: float, worse: float) -> None:
    law = forecast(min(error * worse, 0.99), error, 0.0, 10**6)
    assert law.known
    assert law.at(1) == pytest.approx(error)
    assert law.at(1 / 8) == pytest.approx(law.pilot_error)
    assert law.at(4) / law.at(2) == pytest.approx(law.at(2) / error)


@pytest.mark.parametrize("case", [
    (0.4, 0.2, None, 1000),  # no teacher to bound it
    (0.4, 0.2, 0.1, None),  # no number of images to tell the noise from
    (0.4, 0.2, 0.3, 1000),  # already better than the teacher
    (0.4, 0.4, 0.1, 1000),  # no gain
    (0.42, 0.40, 0.1, 240),  # a gain within the noise of 240 images
])  # fmt: skip
def test_what_cannot_be_known_is_not_printed(case: tuple[float, float, float | None, int | None]) -> None:
    assert forecast_sentence(forecast(*case)) == ""
    facts = student(190, 150, 170, forecast=forecast(*case).model_dump())
    assert 'id="forecast"' not in page(facts)
    assert "power law" not in printed(facts)


def test_the_interval_covers_the_slope_of_drawn_errors() -> None:
    """Of 300 draws of both test scores, nearly all intervals hold the error that the true slope gives."""
    rng, n, held = np.random.default_rng(0), 2_000, 0
    true = 0.2 * 2 ** -(math.log(0.4 / 0.2) / math.log(8))
    for _ in range(300):
        pilot, full = rng.binomial(n, 0.4) / n, rng.binomial(n, 0.2) / n
        low, high = forecast(pilot, full, 0.0, n).between(2)
        # relative to today's error, as the level is that of these very images
        held += low / full <= true / 0.2 <= high / full
    assert 0.92 <= held / 300 <= 0.985


# --- page and terminal --------------------------------------------------------------------------------------


def test_the_verdict_comes_first_and_the_files_last() -> None:
    facts = student(190, 150, 170, given=[given_of(linear_probe=186)], teacher_kept="The probe teaches.")
    text, html = printed(facts), page(facts)
    assert text.startswith("Distillation helped: 85.0% against 75.0% trained alone (+10 points, p < 0.001, McNemar's")
    assert text.endswith("files: export/model.onnx")
    assert html.index("Distillation helped") < html.index("<section")
    assert "For comparison: the teacher 95.0%, a linear probe on the frozen backbone 93.0%." in text
    for shown in ("The probe teaches.", "a linear probe on the frozen backbone", "the same student trained alone"):
        assert shown in text
        assert shown in html
    cells = "".join(f"<td>{cell}</td>" for cell in ("93.0", "−8.0", "&lt;0.001", "0", "16"))
    assert f"linear probe on the frozen backbone</th>{cells}" in html


def test_a_compression_without_a_distilled_student_has_a_page() -> None:
    made = [candidate("backbone", "int8", accuracy=0.9, chosen=True), candidate("backbone", accuracy=0.92)]
    facts = facts_of([row("teacher", {0: first(180)})], candidates=made)
    assert "the backbone backbone-net at 64 px (int8 90.0%, 1.00 MB, 1 ms)" in page(facts)
    assert 'id="rivals"' not in page(facts)
    assert "No student was distilled" in printed(facts)


def test_a_real_run_has_all_sections(tmp_path: Path) -> None:
    """The student's page and that of the compression show the same images, classes and thresholds."""
    found = understudy.compress(
        "digits", "cnn:8-16", "cnn:2", run=tmp_path / "run", format="onnx", from_scratch=True, crop_size=8,
        teacher_steps=20, steps=20, micro_batch=256, workers=0, precision="32",
    )  # fmt: skip
    facts = found.facts
    assert isinstance(facts, CompressionFacts)
    assert verdict(facts).verdict in found.report.read_text()
    assert all(one.p is not None for one in duels(facts))
    run = facts.run
    assert run.data is not None
    (scored,) = run.of("distilled")[0].seeds
    assert bin(int(scored.right, 16)).count("1") == run.data.examples - scored.errors
    for html in (found.report.read_text(), found.runs["student"].report.read_text()):
        for section in ("recall", "confidence", "mistakes"):
            assert f'<section id="{section}">' in html
        shown = html[html.index('id="mistakes"') :].split("</section>")[0]
        assert shown.count("<img ") == len(run.mistakes) > 0
        assert run.mistakes[0].label in shown
