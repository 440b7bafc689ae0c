"""The report: what it says, that it holds in every case, and that nothing in it can run or call home."""

from __future__ import annotations

import io
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy import stats

from understudy.errors import UnderstudyError
from understudy.evaluation.facts import CompressionFacts, FewShotFacts, RunFacts
from understudy.reporting import console, figures, render
from understudy.reporting.confusions import confusion_lists
from understudy.reporting.gain import gain
from understudy.reporting.headline import headline
from understudy.reporting.summary import columns, lines
from understudy.reporting.template import command_line
from understudy.reporting.wording import compact, count, duration, gap_share, percent, ratio

EVIL = '<script>alert("1")</script>'
RUN = TemporaryDirectory()  # with the image of `whole`


def page(facts: RunFacts) -> str:
    return render(facts, Path(RUN.name))


def printed(facts: RunFacts, width: int = 120) -> str:
    """What the terminal shows."""
    file = io.StringIO()
    for part in console(facts):
        Console(file=file, width=width).print(part)
    return file.getvalue()


def row(role: str, errors: list[int], model: str = "small", parameters: int | None = None, **more: Any) -> dict:
    seeds = [
        {"seed": i, "accuracy": 1 - e / 10_000, "errors": e, "nll": e / 3000, "ece": e / 20_000}
        for i, e in enumerate(errors)
    ]
    name = more.pop("name", role)
    return {"name": name, "role": role, "model": model, "seeds": seeds, "parameters": parameters, **more}


def compared(alone: list[int], distilled: list[int], teacher: list[int] | None = None, **more: Any) -> RunFacts:
    rows = [row("alone", alone, parameters=530), row("distilled", distilled, parameters=530)]
    if teacher is not None:
        rows.append(row("teacher", teacher, "big", parameters=1000))
    data = {"name": "mnist", "examples": 10_000}
    return RunFacts.from_json({"name": "run", "kind": "distill", "data": data, "rows": rows, **more})


def png(folder: Path, size: int, seed: int = 0) -> str:
    """Write an image; its path in the folder."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    (folder / "gallery").mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / "gallery" / f"{seed}.png")
    return f"gallery/{seed}.png"


def whole(**changes: Any) -> dict[str, Any]:
    """Facts that have everything."""
    classes = ["cat", EVIL, "dog"]
    curve = {
        "epoch": [1, 2, 3],
        "loss": [3.0, None, 1.0],
        "accuracy": [0.5, 0.8, 0.9],
        "agreement": [0.5, 0.6, 0.7],
    }
    belief = {"teacher": [0.7, 0.2, 0.1], "alone": [0.9, 0.05, 0.05], "distilled": [0.6, 0.3, 0.1]}
    facts = {
        "name": "a run",
        "kind": "distill",
        "created": "2025-03-07T14:22:10+00:00",
        "duration_seconds": 4212,
        "hardware": "one GPU",
        "command": ["understudy", "distill", "mnist", "--name", "two words"],
        "versions": {"torch": "2.11"},
        "recipe_yaml": f"student: {EVIL}",
        "notes": ["3 images were set aside: truncated"],
        "cautions": [f"careful {EVIL}"],
        "data": {"name": "mnist", "split": "test", "examples": 10_000, "classes": classes},
        "rows": [
            row(
                "teacher",
                [67],
                "big",
                2000,
                flops=4_000_000,
                bytes=8000,
                latency_ms=0.4,
                latency_spread_ms=0.1,
            ),
            row("alone", [146, 150], parameters=1000, flops=2_000_000, bytes=4000, latency_ms=0.1),
            row("distilled", [74, 70], parameters=1000, flops=2_000_000, bytes=4000, latency_ms=0.1, name=EVIL),
        ],
        "curves": [
            {"name": name, "role": role, "seed": seed, **curve}
            for name, role in ((EVIL, "distilled"), ("alone", "alone"))
            for seed in (0, 1)
        ],
        "confusions": {
            "classes": classes,
            "alone": [[90, 8, 2], [1, 99, 0], [0, 0, 100]],
            "distilled": [[95.5, 2.5, 2], [0, 100, 0], [3, 0, 97]],
        },
        "gallery": [{"image": png(Path(RUN.name), 8), "label": 1, "temperature": 4, **belief}],
    }
    return {**facts, **changes}


class Audit(HTMLParser):
    """Collects what a browser would run or fetch, and checks that tags nest."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_nothing_untrusted_becomes_markup_and_nothing_is_fetched() -> None:
    html = page(RunFacts.from_json(whole()))
    audit = Audit(html)
    assert "script" not in audit.tags
    assert "&lt;script&gt;" in html
    assert not audit.handlers
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert all(link.startswith(("#", "data:image/")) for link in audit.links)
    assert len(audit.ids) == len(set(audit.ids))
    assert {link[1:] for link in audit.links if link.startswith("#")} <= set(audit.ids)


def test_figures_take_the_colors_of_the_page() -> None:
    drawn = "".join(re.findall(r"<figure>.*?</figure>", page(RunFacts.from_json(whole())), re.DOTALL))
    assert set(re.findall(r"var\((--\w+)\)", drawn)) >= {
        "--ink",
        "--rule",
        "--alone",
        "--distilled",
        "--teacher",
    }
    assert not re.findall(r"#[0-9a-f]{6}\b", drawn)
    assert "font-family" not in drawn


def test_the_same_facts_give_the_same_bytes() -> None:
    facts = RunFacts.from_json(whole())
    assert page(facts) == page(facts)


OPTIONAL = ("data", "rows", "curves", "confusions", "gallery", "command", "recipe_yaml", "notes")


@pytest.mark.parametrize("seeds", [1, 2])
def test_every_section_may_be_missing(seeds: int) -> None:
    anchors = {"rows": "side-by-side", "curves": "curves", "confusions": "confusions", "gallery": "gallery"}
    facts = whole(curves=whole()["curves"][:: 3 - seeds])
    for absent in [set(), {"data"}, {"rows", "data"}, *({key} for key in anchors), {*OPTIONAL}]:
        html = page(RunFacts.from_json({key: value for key, value in facts.items() if key not in absent}))
        Audit(html)
        for key, anchor in anchors.items():
            assert (f'<section id="{anchor}"' in html) is (key not in absent)


def test_every_combination_of_missing_sections_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = whole()
    panel = figures.Panel("drawn once", Markup("<svg></svg>"))  # drawing takes nearly all of a page's time
    monkeypatch.setattr(figures, "pairs", lambda found: [panel])
    monkeypatch.setattr(figures, "curves", lambda facts: [panel] if facts.curves else [])
    for size in range(len(OPTIONAL) + 1):
        for absent in itertools.combinations(OPTIONAL, size):
            Audit(page(RunFacts.from_json({k: v for k, v in facts.items() if k not in absent})))


def test_rows_may_be_any_subset_of_roles() -> None:
    rows = [*whole()["rows"], row("member", [80], "big"), row("model", [99, 98], "other")]
    for size in range(len(rows) + 1):
        for some in itertools.combinations(rows, size):
            facts = RunFacts.from_json({"name": "run", "kind": "train", "rows": some})
            Audit(page(facts))
            table, *_ = console(facts)
            assert isinstance(table, Table)
            assert table.columns[1:] or not some


def test_a_train_run_has_a_page() -> None:
    rows = [row("model", [7, 9], name="net")]
    confusions = {"classes": ["a", "b"], "model": [[10, 3], [1, 10]]}
    facts = {"name": "run", "kind": "train", "rows": rows, "confusions": confusions}
    html = page(RunFacts.from_json(facts))
    assert "net makes 8 errors, an accuracy of 99.92%." in html
    assert "Most frequent confusions" in html
    assert "Gap closed" not in html


def test_sixteen_large_images_stay_below_two_megabytes(tmp_path: Path) -> None:
    picture = whole()["gallery"][0]
    gallery = [{**picture, "image": png(tmp_path, 400, seed)} for seed in range(16)]
    html = render(RunFacts.from_json(whole(gallery=gallery)), tmp_path)
    assert len(html.encode()) < 2_000_000
    assert 'class="tiny"' not in html
    assert 'class="tiny"' in page(RunFacts.from_json(whole()))


@pytest.mark.parametrize(
    "path",
    ["../outside.png", "/etc/hosts", "gallery/link.png", "gallery/none.png", "gallery/text.png", "gallery/short.png",
     "gallery/photo.png", "gallery", "gallery/\0.png"],
)  # fmt: skip
def test_only_png_files_of_the_run_are_embedded(path: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    good = run / png(run, 8)
    (tmp_path / "outside.png").write_bytes(good.read_bytes())
    (run / "gallery" / "link.png").symlink_to(tmp_path / "outside.png")
    (run / "gallery" / "text.png").write_text(EVIL)
    (run / "gallery" / "short.png").write_bytes(good.read_bytes()[:60])
    Image.new("RGB", (8, 8)).save(run / "gallery" / "photo.png", "JPEG")
    facts = RunFacts.from_json(whole(gallery=[{**whole()["gallery"][0], "image": path}]))
    with pytest.raises(UnderstudyError, match="is not a PNG file in") as error:
        render(facts, run)
    assert "\n" not in str(error.value)


def test_the_headline_counts_what_was_gained() -> None:
    found = headline(compared([146, 146, 147, 145], [74, 73, 76, 73], [67]))
    assert found.tone == "good"
    assert found.verdict == "A clear gain"
    share = round(100 * (146 - 74) / (146 - 67))
    assert found.sentence == (
        "The distilled student makes 74 errors in 10,000 where the same student trained alone makes 146 and "
        f"its teacher 67: {share}% of the gap closed, with 53% of the teacher's parameters."
    )


@pytest.mark.parametrize(
    ("alone", "distilled", "teacher", "tone", "verdict", "said"),
    [
        ([146], [74], [67], "open", "One seed, untested", "91% of the gap closed"),
        ([100], [150], [67], "open", "One seed, untested", "50 more with distillation than without"),
        ([100], [100], [67], "open", "One seed, untested", "no difference"),
        ([100, 102], [50, 53], [67], "open", "Two seeds, untested", "the whole gap closed, with 15.5 fewer than"),
        ([100, 102], [150, 149], [67], "open", "Two seeds, untested", "48.5 more with distillation than without"),
        ([100, 102, 98], [150, 149, 152], [67], "bad", "A clear loss", "more with distillation than without"),
        ([100, 102, 98], [99, 101, 103], [67], "open", "No clear gain", "the difference is not significant"),
        ([100, 102, 104], [50, 53, 53], [67], "good", "A clear gain", "the whole gap closed, with 15 fewer than"),
        ([100, 101, 102], [66, 68, 67], [67], "good", "A clear gain", "the whole gap closed, with 53%"),
        ([60, 61, 62], [50, 52, 51], [67], "good", "A clear gain", "no gap to close, yet distillation removes"),
        ([100, 102, 101], [75, 76, 76], None, "good", "A clear gain", "makes 101: 25% fewer."),
        ([100, 101, 102], [90, 91, 92], [67], "open", "The same difference in every seed", "29% of the gap closed"),
        ([200, 210, 205], [0, 1, 1], [0], "good", "A clear gain", "over 99% of the gap closed"),
    ],
)
def test_the_headline_is_honest(
    alone: list[int], distilled: list[int], teacher: list[int] | None, tone: str, verdict: str, said: str
) -> None:
    found = headline(compared(alone, distilled, teacher))
    assert (found.tone, found.verdict.removesuffix(", untested")) == (tone, verdict.removesuffix(", untested"))
    assert found.verdict.endswith("untested") is (len(alone) < 3 or verdict.startswith("The same"))
    assert said in found.sentence


def test_the_headline_without_baseline_or_measurement() -> None:
    rows = [row("distilled", [74]), row("alone", [146], model="another"), row("teacher", [67], "big")]
    found = headline(RunFacts.from_json({"name": "run", "kind": "distill", "rows": rows}))
    assert found.verdict == "No baseline"
    assert found.sentence == "The distilled student makes 74 errors, its teacher 67."
    assert "unknown" in found.evidence
    assert headline(RunFacts.from_json({"name": "run", "kind": "train"})).verdict == "Not evaluated"


def test_evidence_names_its_seeds() -> None:
    too_few = "too few seeds to test; use --seeds 3 or more."
    assert headline(compared([146], [74])).evidence == f"One seed: {too_few}"
    assert headline(compared([146, 150], [74, 70])).evidence == f"Two seeds: {too_few}"
    assert "differ by the same 10" in headline(compared([100, 101, 102], [90, 91, 92])).evidence
    facts = compared([100, 101], [90, 95])
    apart = [seed.model_copy(update={"seed": 7 + seed.seed}) for seed in facts.rows[0].seeds]
    rows = [facts.rows[0].model_copy(update={"seeds": apart}), *facts.rows[1:]]
    assert headline(facts.model_copy(update={"rows": rows})).evidence == f"No seed in common: {too_few}"


def test_the_paired_interval_is_scipys() -> None:
    alone, distilled = [146, 139, 151, 148, 144], [74, 80, 79, 60, 70]
    facts = compared(alone, distilled, [67])
    found = gain(facts, facts.of("distilled")[0])
    assert found is not None
    assert found.interval is not None
    expected = stats.ttest_rel(alone, distilled).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.sd == pytest.approx(np.std(np.subtract(alone, distilled), ddof=1))
    assert found.gap_closed == pytest.approx((145.6 - 72.6) / (145.6 - 67))


def test_only_common_seeds_are_paired() -> None:
    facts = compared([146, 139, 500], [74, 80])
    found = gain(facts, facts.of("distilled")[0])
    assert found is not None
    assert found.seeds == (0, 1)
    assert found.alone_errors == pytest.approx((146 + 139) / 2)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_no_claim_about_seeds_is_made_below_three(seeds: int) -> None:
    """In the headline, the page and the colors of the table alike."""
    facts = compared([146, 139, 151][:seeds], [74, 80, 79][:seeds], [67])
    html = page(facts)
    table, verdict, *_ = console(facts)
    assert isinstance(table, Table)
    assert ("untested" in str(verdict)) is (seeds < 3)
    cell = [*table.columns[3].cells][-1]  # the gap closed
    assert isinstance(cell, Text)
    colors = {str(span.style) for span in cell.spans}
    tested = seeds >= 3
    assert ("bold green" in colors) is tested
    assert ("clear gain" in html) is ("95% interval" in html) is tested
    assert ("untested" in html) is not tested


def test_confusions_removed_and_added() -> None:
    confusions = RunFacts.from_json(whole()).confusions
    assert confusions is not None
    removed, added = confusion_lists(confusions)
    assert [(item.true, item.predicted, item.change) for item in removed.items] == [
        ("cat", EVIL, -5.5),
        (EVIL, "cat", -1),
    ]
    assert [(item.true, item.predicted, item.change) for item in added.items] == [("dog", "cat", 3)]
    assert removed.total == "6.5 errors over 2 pairs of classes"


def test_table_and_page_show_the_same_numbers() -> None:
    facts = RunFacts.from_json(whole())
    text, html = printed(facts), page(facts)
    assert "\x1b" not in text
    for line in lines(facts):
        assert len(line.cells) == len(columns(facts))
        for cell in line.cells:
            assert cell.value in text
            assert cell.value in html
    assert re.search(r"Errors  of 10,000 +67 +148 ± 2.8 +72 ± 2.8", text)
    assert re.search(r"Gap closed +– +– +94%", text)  # (148 - 72) / (148 - 67)
    assert text.lower().count("student alone") == 1, "a row whose name is its kind is headed once"


def test_numbers() -> None:
    assert [count(x) for x in (74, 74.3, 10_000, -2.5, -0.01)] == ["74", "74.3", "10,000", "−2.5", "0"]
    assert [compact(x) for x in (850, 999.7, 1_276_810, 25_557_032)] == ["850", "1.00 k", "1.28 M", "25.6 M"]
    assert compact(4_800_000, "B") == "4.80 MB"
    assert [ratio(x, 100) for x in (53, 0.4, 100, 130, 2000)] == ["53%", "0.4%", "100%", "1.3×", "20×"]
    assert [percent(x) for x in (-0.001, -0.05, float("nan"))] == ["0%", "−5%", "–"]
    assert [gap_share(x) for x in (0.999, 1, 1.2)] == ["over 99%", "100%", "120%"]
    assert [duration(x) for x in (48, 720, 12_000)] == ["48 s", "12 min", "3 h 20 min"]
    assert command_line(["a", "b c"]) == "a 'b c'"
    assert command_line(["a b"]) == "a b"
    assert command_line(["x" * 90, "--flag", "1"]) == f"{'x' * 90} \\\n  --flag 1"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"rows": [{**row("alone", [1]), "seeds": []}]}, "rows.0.seeds"),
        ({"rows": [{**row("alone", [1]), "role": "lead"}]}, "rows.0.role"),
        ({"confusions": {"classes": ["a", "b"], "model": [[1, 2]]}}, "confusions"),
        ({"curves": [{"name": "a", "role": "alone", "seed": 0, "epoch": [1], "loss": [1, 2]}]}, "curves.0"),
        ({"gallery": [{"label": 0, "teacher": [1.0]}]}, "gallery.0"),
        ({"gallery": [{"image": "a.png", "label": 0, "teacher": [1.0], "alone": [0.5, 0.5]}]}, "gallery.0"),
    ],
)
def test_wrong_facts_are_named(change: dict[str, Any], where: str) -> None:
    with pytest.raises(UnderstudyError, match=where):
        RunFacts.from_json(whole(**change))


def compression() -> CompressionFacts:
    rows = [row("teacher", [67], "big", 2000, bytes=8000, flops=40), row("distilled", [74], EVIL, 1000, bytes=4000)]
    file = {
        "file": f"{EVIL}.onnx",
        "bytes": 2000,
        "accuracy": 0.99,
        "latency_ms": 0.1,
        "agreement": 1,
        "worst_difference": 0,
    }
    original = {"bytes": 4000, "accuracy": 0.99, "latency_ms": 0.1}
    return CompressionFacts.from_json(
        {"name": EVIL, "run": whole(), "rows": rows, "latency_ms": {"teacher": 0.4, "student": 0.1}, "notes": [EVIL],
         "export": {"folder": "export", "original": original, "files": [file], "page": EVIL},
         "seconds": {"teacher": 60, EVIL: 1},
         "forecast": {"pilot_steps": 10, "steps": 80, "pilot_error": 0.2, "error": 0.1}, "command": ["a", EVIL]}
    )  # fmt: skip


def few_shot_transfer() -> FewShotFacts:
    results = [
        {"shots": 5, "examples": 50, "accuracies": [0.25, 0.5, 0.75]},
        {"shots": 9, "examples": 90, "accuracies": []},
    ]
    return FewShotFacts.from_json({"name": EVIL, "data": EVIL, "backbone": EVIL, "results": results})


@pytest.mark.parametrize(
    ("facts", "shown"),
    [(compression(), ("50%", "2.00 kB", "99.26%")),
     (few_shot_transfer(), ("50.00%", "25.00%", "75.00%"))],
)  # fmt: skip
def test_page_and_terminal_of_other_facts_agree(facts: Any, shown: tuple[str, ...]) -> None:
    html, file = render(facts, Path(RUN.name)), io.StringIO()
    for part in console(facts):
        Console(file=file, width=120).print(part)
    assert "script" not in Audit(html).tags
    assert type(facts).from_json(facts.model_dump(mode="json")) == facts
    for text in shown:
        assert text in html
        assert text in file.getvalue()
