"""The comparison of several methods: facts in, numbers and sentences out."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from scipy import stats

from test_report import page, printed
from understudy.evaluation.facts import RunFacts
from understudy.reporting.bars import bars
from understudy.reporting.comparison import Point, costs, front_note, measures, points
from understudy.reporting.comparison_figures import draw_front, drawn
from understudy.reporting.contrast import contrasts, reference
from understudy.reporting.figures import drawing
from understudy.reporting.headline import headline, how_tested, table_note
from understudy.reporting.significance import holm
from understudy.reporting.summary import columns
from understudy.reporting.wording import p_value

ALONE, KD = [30, 33, 31, 35, 29], [20, 22, 19, 24, 21]
CRD, DKD, AT = [12, 15, 11, 15, 13], [21, 20, 22, 23, 20], [31, 29, 33, 38, 30]


def row(name: str, errors: list[int], train_ms: float | None = None, **more: Any) -> dict[str, Any]:
    role = {"teacher": "teacher", "student alone": "alone"}.get(name, "distilled")
    seeds = [
        {"seed": i, "accuracy": 1 - e / 360, "errors": e, "nll": e / 300, "ece": e / 2000, "agreement": 1 - e / 400}
        | ({} if train_ms is None else {"train_ms": train_ms * (1 + i / 100)})
        for i, e in enumerate(errors)
    ]
    return {"name": name, "role": role, "model": "big" if role == "teacher" else "small", "seeds": seeds, **more}


def facts(rows: list[dict[str, Any]], **more: Any) -> RunFacts:
    data = {"name": "digits", "examples": 360}
    return RunFacts.from_json({"name": "run", "kind": "distill", "data": data, "rows": rows, **more})


def five(seeds: int = 5, **more: Any) -> RunFacts:
    rows = [
        row("teacher", [7], 0.005, parameters=9000),
        row("student alone", ALONE[:seeds], 0.010, parameters=500),
        row("crd", CRD[:seeds], 0.040, parameters=500),
        row("kd", KD[:seeds], 0.012, parameters=500),
        row("dkd", DKD[:seeds], 0.013, parameters=500),
        row("at", AT[:seeds], 0.020, parameters=500),
    ]
    return facts(rows, **more)


def test_p_values_and_intervals_are_scipys() -> None:
    found = {one.row.name: one for one in contrasts(five())}
    assert list(found) == ["student alone", "crd", "dkd", "at"], "in the order given"
    for name, errors in (("student alone", ALONE), ("crd", CRD), ("dkd", DKD), ("at", AT)):
        expected = stats.ttest_rel(errors, KD)
        interval = expected.confidence_interval(0.95)
        one = found[name]
        assert one.p == pytest.approx(expected.pvalue)
        assert one.interval == pytest.approx((interval.low, interval.high))
        assert one.differences == tuple(np.subtract(errors, KD))
        assert one.mean == pytest.approx(np.mean(errors) - np.mean(KD))
    raw = [one.p for one in found.values() if one.p is not None]
    assert [one.adjusted for one in found.values()] == holm(raw)
    assert [one.verdict for one in found.values()] == ["worse", "better", "unclear", "worse"]


def test_holms_method_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_the_reference_is_plain_kd_else_the_student_alone_else_nothing() -> None:
    found = reference(five())
    assert found is not None
    assert found.name == "kd"
    alone = facts([row("student alone", ALONE), row("crd", CRD), row("dkd", DKD)])
    found = reference(alone)
    assert found is not None
    assert found.role == "alone"
    assert [one.row.name for one in contrasts(alone)] == ["crd", "dkd"]
    assert headline(alone).verdict == "2 of 2 methods clearly better than the student alone"
    neither = facts([row("crd", CRD), row("dkd", DKD)])
    assert reference(neither) is None
    assert contrasts(neither) == []
    assert headline(neither).sentence == "Errors in 360: crd 13.2, dkd 21.2."
    assert "no difference was tested" in headline(neither).evidence


def test_the_headline_names_every_method() -> None:
    found = headline(five())
    assert found.verdict == "1 of 3 methods clearly better than plain kd, 1 clearly worse"
    assert found.tone == "plain"
    assert found.sentence == (
        "Compared with plain kd (21.2 errors in 360, teacher 7), crd (13.2) makes clearly fewer, "
        "at (32.2) and the student alone (31.6) clearly more, and for dkd (21.2) the difference is not significant."
    )
    assert found.evidence == (
        "Errors paired over 5 seeds, two-sided paired t test at 5%, Holm-adjusted over four comparisons."
    )


def test_many_methods_are_counted_not_chosen() -> None:
    rows = [row("kd", KD), *(row(f"m{i}", [e + i for e in DKD]) for i in range(7))]
    assert re.search(r"for \d methods the difference is not|, \d methods", headline(facts(rows)).sentence)


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "One seed, untested"), (2, "Two seeds, untested")])
def test_too_few_seeds_make_no_test(seeds: int, verdict: str) -> None:
    some = five(seeds)
    found = headline(some)
    assert (found.tone, found.verdict) == ("open", verdict)
    assert "clearly" not in found.sentence
    assert "too few seeds to test; use --seeds 3 or more" in found.evidence
    assert all(one.p is None and one.interval is None for one in contrasts(some))
    assert [line.label for line in measures(some)][2:4] == ["vs kd", "Training"], "there is no column of p"
    page(some)


def test_three_seeds_are_tested_with_a_word_on_their_power() -> None:
    assert how_tested(five(3)).endswith("So few seeds detect only large effects.")


def test_equal_differences_have_no_test_and_say_so() -> None:
    rows = [row("kd", KD), row("same", KD), row("two", [e - 2 for e in KD])]
    found = headline(facts(rows))
    assert found.verdict == "The same difference in every seed, untested"
    assert "same (21.2) makes as many in every seed, and two (19.2) 2 fewer in every seed" in found.sentence
    assert "no variance to test against" in found.evidence
    assert all(one.constant and one.adjusted is None for one in contrasts(facts(rows)))
    mixed = facts([*rows, row("crd", CRD)])
    assert "one comparison" in how_tested(mixed)
    assert "no variance and no test" in table_note(mixed)
    page(mixed)


def test_seeds_apart_are_not_paired() -> None:
    rows = [row("kd", KD[:1]), row("crd", CRD)]
    rows[1]["seeds"] = rows[1]["seeds"][2:]
    assert headline(facts(rows)).verdict == "No seed in common, untested"
    page(facts(rows))


def test_another_student_is_not_held_against_the_reference() -> None:
    rows = [row("kd", KD), row("crd", CRD), row("dkd", DKD) | {"model": "larger"}]
    assert [one.row.name for one in contrasts(facts(rows))] == ["crd"]


def test_the_table_has_a_line_for_each_measure() -> None:
    some = five()
    lines = {line.label: line for line in measures(some)}
    assert list(lines)[:5] == ["Accuracy", "Errors", "vs kd", "p", "Training"]
    assert {"Agreement", "NLL", "ECE"} <= set(lines)
    assert [one.name for one in columns(some)] == ["teacher", "student alone", "crd", "kd", "dkd", "at"]
    assert [cell.value for cell in lines["vs kd"].cells] == ["–", "+10.4", "−8.0", "–", "0.0", "+11.0"]
    assert lines["vs kd"].cells[3].spread == "reference"
    crd = stats.ttest_rel(CRD, KD)
    assert lines["p"].cells[2].value == p_value(4 * float(crd.pvalue))
    assert lines["Training"].unit == "µs/image"
    assert [cell.value for cell in lines["Training"].cells] == ["5.0", "10.2", "40.8", "12.2", "13.3", "20.4"]
    assert lines["Training"].cells[0].spread == "shared"
    few, used = costs(some)
    assert [one.name for one in few] == ["teacher", "student alone"]
    assert [cell.value for cell in used[0].cells] == ["9.00 k", "500"]


def test_the_front_is_what_nothing_beats_in_both() -> None:
    some = five()
    found = {point.row.name: point for point in points(some)}
    assert [name for name, point in found.items() if point.front] == ["student alone", "crd", "kd"]
    assert found["dkd"].accuracy == pytest.approx(found["kd"].accuracy), "as accurate, but dearer"
    assert found["crd"].cost == pytest.approx(0.0408)
    assert found["crd"].sd == pytest.approx(100 * np.std(CRD, ddof=1) / 360)
    assert "(student alone, kd, crd)" in front_note(some)
    assert "the teacher's forward pass, 5 µs per image, which all methods of this run share" in front_note(some)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.floats(1, 9), st.floats(80, 99)), min_size=1, max_size=14))
def test_labels_cover_neither_points_nor_one_another(places: list[tuple[float, float]]) -> None:
    """In the figure as it is drawn, whatever the points."""
    some = [Point(columns(five())[1], cost, accuracy, 0.5, i % 2 == 0) for i, (cost, accuracy) in enumerate(places)]
    with drawing("front", "front", (4.5, 3.4)) as (figure, _):
        axes = figure.subplots()
        draw_front(axes, some)
        figure.draw_without_rendering()
        labels = [text for text in axes.texts if text.get_text()]
        boxes = [Text.get_window_extent(label) for label in labels]
        points_drawn = axes.transData.transform([(x, y) for x, y in places])
    assert len(boxes) == len(places)
    for i, box in enumerate(boxes):
        assert not any(box.padded(-1).overlaps(other.padded(-1)) for other in boxes[:i])
        assert not any(box.padded(4).contains(x, y) for x, y in points_drawn)
        assert figure.bbox.padded(2).containsx(box.x1)


def test_without_costs_there_is_no_front() -> None:
    some = facts([row("kd", KD), row("crd", CRD)])
    assert points(some) == []
    assert "Training" not in [line.label for line in measures(some)]
    assert "against training cost" not in page(some)


def test_page_and_terminal_show_the_table() -> None:
    curve = {"epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "accuracy": [0.5, 0.8, 0.9]}
    names = [("student alone", "alone"), *((name, "distilled") for name in ("crd", "kd", "dkd", "at"))]
    some = five(
        curves=[{"name": name, "role": role, "seed": seed, **curve} for name, role in names for seed in range(3)]
    )
    html, text = page(some), printed(some, 80)
    assert "…" not in text, "it fits 80 columns"
    for line in measures(some):
        if line.label in ("Accuracy", "Errors", "vs kd", "p", "Training", "Agreement", "NLL", "ECE"):
            assert all(cell.value in text and cell.value in html.replace("&lt;", "<") for cell in line.cells)
    assert [bar.row.name for bar in bars(some)] == ["teacher", "student alone", "crd", "kd", "dkd", "at"]
    curves = html[html.index('<section id="curves"') :]
    assert curves.count("<figcaption>") == 4, "a panel for each method"
    assert 'id="side-by-side"' not in html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_hostile_names_are_escaped_and_never_drawn() -> None:
    evil = '<script>alert("$x$")</script>'
    some = facts([row("kd", KD, 0.01), row(evil, CRD, 0.02), row("a" * 99, DKD, 0.03)])
    html = page(some)
    assert "<script" not in html
    drawn_text = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "alert(&quot" not in drawn_text
    assert drawn(evil) == "?script?alert(??x…"
    assert "a" * 18 not in drawn_text


def test_p_values_as_shown() -> None:
    assert [p_value(p) for p in (0.0004, 0.0123, 0.0994, 0.0996, 1.0)] == ["<0.001", "0.012", "0.099", "0.10", "1.00"]
