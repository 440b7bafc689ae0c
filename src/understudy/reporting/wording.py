"""Numbers and sentences: what the run found, in plain words that hold in every case."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from understudy.reporting.facts import Row, RunFacts
from understudy.reporting.gain import Gain, gain

Tone = Literal["good", "bad", "open", "plain"]

MISSING = "–"

DEFINITIONS = {
    "Accuracy": "share of examples whose most probable class is the true one; mean ± sd over seeds.",
    "Top 5": "share of examples whose true class is among the five most probable.",
    "Errors": "examples classified wrongly, mean ± sd over seeds.",
    "NLL": "mean negative log-likelihood of the true class, in nats; lower is better.",
    "ECE": "expected calibration error: mean distance between confidence and accuracy, 15 equal-width bins.",
    "Brier": "mean squared distance between the probabilities and the one-hot truth, summed over classes.",
    "Agreement": "share of examples where the model names the same class as the teacher.",
    "Correlation Δ": "class correlation difference: mean distance between the model's and the teacher's correlations "
    "of two classes' logits over the examples, over all pairs of different classes; lower is better.",
    "CKA": "linear centred kernel alignment of the model's and the teacher's penultimate layers over the examples: 1 "
    "where they are alike but for a rotation and a scale.",
    "FLOPs": "floating-point operations for one image; a multiply-add counts two.",
    "Latency": "median time of one forward pass at batch 1, ± its spread, on the hardware named here.",
    "Gap closed": "errors that distillation removed ÷ errors of the student alone beyond its teacher's.",
    "p": "the chance of a difference at least as large were there none; adjusted for the number of comparisons.",
    "Training": "time of one image's forward and backward pass and update; for the teacher, of its pass.",
    "95% interval": "paired t over seeds; it covers chance in training, not the choice of test examples.",
}


@dataclass(frozen=True, slots=True)
class Headline:
    """The finding: a verdict of a few words, the sentence itself, and how sure one can be of it."""

    tone: Tone
    verdict: str
    sentence: str
    evidence: str = ""


def count(value: float, fixed: bool = False) -> str:
    """`10,000`, or `74.3` for a mean that is not whole; `fixed` keeps a `.0` too, so that columns align."""
    text = f"{abs(value):,.1f}"
    sign = "−" if value < 0 and text != "0.0" else ""
    return sign + (text if fixed else text.removesuffix(".0"))


def signed(value: float, fixed: bool = False) -> str:
    """A difference: `+2.5`, `−2.5`, `0`."""
    text = count(value, fixed)
    return f"+{text}" if value > 0 and text not in ("0", "0.0") else text


def percent(share: float, decimals: int = 0) -> str:
    if not isfinite(share):
        return MISSING
    text = f"{abs(share):.{decimals}%}"
    return f"−{text}" if share < 0 and float(text[:-1]) else text


def compact(value: float, unit: str = "") -> str:
    """Three significant digits and an SI prefix: `1.2 M`, `4.8 MB`."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.{max(0, 3 - len(str(int(scaled))))}f} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def ratio(value: float, reference: float) -> str:
    """A cost beside the teacher's: `53%`, or `1.3×` for more."""
    share = value / reference
    if share > 1.005:
        return f"{share:.1f}×" if share < 10 else f"{share:.0f}×"
    return percent(share, 0 if share >= 0.095 else 1)


def duration(seconds: float) -> str:
    """`48 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def moment(ms: float) -> str:
    """A short time with its unit: `45 µs`, `1.2 ms`."""
    value, unit = (1000 * ms, "µs") if ms < 1 else (ms, "ms")
    return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def plural(number: float, noun: str) -> str:
    return f"{count(number)} {noun}" if count(number) == "1" else f"{count(number)} {noun}s"


def gap_share(share: float) -> str:
    """The share of the gap closed; what is not all of it is never rounded up to all."""
    return "over 99%" if 0.99 < share < 1 else percent(share)


def headline(facts: RunFacts) -> Headline:
    """What the run found. The first distilled row speaks: the test split chooses nothing."""
    if distilled := facts.of("distilled"):
        found = gain(facts, distilled[0])
        return _compared(facts, distilled[0], found) if found else _unmatched(facts, distilled[0])
    if rows := facts.of("model", "alone", "teacher", "member"):
        return _measured(facts, rows[0])
    return Headline("plain", "Not evaluated", f"The run {facts.name} has not been evaluated yet.")


def _measured(facts: RunFacts, row: Row) -> Headline:
    sentence = f"{row.name} makes {plural(row.errors, 'error')}{_out_of(facts)}: {_accuracy(row)} right."
    sd = row.sd("errors")
    evidence = "One seed: no error bar." if sd is None else f"Mean of {len(row.seeds)} seeds, sd {count(sd)}."
    return Headline("plain", "Measured", sentence, evidence)


def _unmatched(facts: RunFacts, row: Row) -> Headline:
    teacher = f", its teacher {count(facts.teacher.errors)}" if facts.teacher else ""
    makes = f"{_student(facts, row)} makes {plural(row.errors, 'error')}{_out_of(facts)}"
    return Headline(
        "open",
        "No baseline",
        f"{makes}{teacher}{_size(facts, row)}.",
        "The same student was not trained alone, so what distillation adds is not known.",
    )


def _compared(facts: RunFacts, row: Row, found: Gain) -> Headline:
    teacher = "" if found.teacher_errors is None else f" and its teacher {count(found.teacher_errors)}"
    tone, verdict, outcome = _outcome(found)
    makes = f"{_student(facts, row)} makes {plural(found.distilled_errors, 'error')}{_out_of(facts)}"
    alone = f"the same student trained alone makes {count(found.alone_errors)}{teacher}"
    size = _size(facts, row) if found.mean > 0 and found.verdict != "unclear" else ""
    return Headline(tone, verdict, f"{makes} where {alone}: {outcome}{size}.", evidence(found))


def _outcome(found: Gain) -> tuple[Tone, str, str]:
    """Tone, verdict and the half-sentence that says what the numbers amount to."""
    one = len(found.seeds) == 1
    if found.verdict == "unclear":
        return "open", "No clear gain", "a difference that chance in training can explain"
    if found.mean == 0:
        return "open", "No gain", "no difference"
    if found.mean < 0:
        more = f"{count(-found.mean)} more with distillation than without"
        return ("bad", "A clear loss", more) if found.verdict == "loss" else ("open", _unproven("A loss", one), more)
    if found.verdict == "gain":
        return "good", "A clear gain", _gained(found)
    return "open", _unproven("A gain", one), _gained(found)


def _unproven(verdict: str, one_seed: bool) -> str:
    return f"{verdict}, on one seed" if one_seed else f"{verdict}, without an error bar"


def _gained(found: Gain) -> str:
    if found.teacher_errors is None:
        return f"{percent(found.mean / found.alone_errors)} fewer"
    beyond = found.teacher_errors - found.distilled_errors
    if found.gap_closed is None:
        return f"there was no gap to close, and distillation still removes {plural(found.mean, 'error')}"
    if beyond > 0:
        return f"the whole gap closed, with {count(beyond)} fewer than the teacher"
    return "the whole gap closed" if beyond == 0 else f"{gap_share(found.gap_closed)} of the gap closed"


def evidence(found: Gain) -> str:
    """How sure one can be: the paired difference over seeds."""
    if not found.seeds:
        return "The two share no seed: no paired error bar."
    if len(found.seeds) == 1:
        return "One seed: no error bar."
    if found.interval is None:
        return f"All {len(found.seeds)} seeds differ by the same {count(found.mean)}: no error bar can be given."
    low, high = found.interval
    return (
        f"Errors removed, paired over {len(found.seeds)} seeds: {count(found.mean)} on average, "
        f"sd {count(found.sd or 0)}, 95% interval {count(low)} to {count(high)}."
    )


def _out_of(facts: RunFacts) -> str:
    return f" in {facts.data.examples:,}" if facts.data else ""


def _student(facts: RunFacts, row: Row) -> str:
    return f"The distilled student ({row.name})" if len(facts.of("distilled")) > 1 else "The distilled student"


def _accuracy(row: Row) -> str:
    return percent(row.mean("accuracy") or 0, 2)


def _size(facts: RunFacts, row: Row) -> str:
    """`, at 53% of the teacher's parameters`, where both are known."""
    if not (facts.teacher and facts.teacher.parameters and row.parameters):
        return ""
    times = ratio(row.parameters, facts.teacher.parameters).replace("×", " times")
    return f", at {times} {'' if 'times' in times else 'of '}the teacher's parameters"
