"""Numbers as text, and the definitions of the measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, stdev
from typing import Literal

Tone = Literal["good", "bad", "open", "plain"]

MISSING = "–"

DEFINITIONS = {
    "Accuracy": "share of examples whose most probable class is the true one; mean ± sd over seeds.",
    "Top 5": "share of examples whose true class is among the five most probable.",
    "Errors": "misclassified examples, mean ± sd over seeds.",
    "NLL": "mean negative log-likelihood of the true class, in nats; lower is better.",
    "ECE": "expected calibration error: mean distance between confidence and accuracy, 15 equal-width bins.",
    "Brier": "mean squared distance between the probabilities and the one-hot label, summed over classes.",
    "Agreement": "share of examples for which the model predicts the same class as the teacher.",
    "Correlation Δ": "class correlation difference: the correlation of two classes' logits over the examples, as "
    "absolute difference between the model and the teacher, averaged over all pairs of classes; lower is better.",
    "CKA": "linear centered kernel alignment of the penultimate layers of the model and the teacher; 1 if they are "
    "equal up to rotation and scale.",
    "FLOPs": "floating-point operations per image; a multiply-add counts as two.",
    "Latency": "median time of one forward pass at batch size 1, ± its spread, on the hardware named here.",
    "Gap closed": "errors removed by distillation ÷ errors of the student alone in excess of the teacher's.",
    "p": "probability of a difference at least this large if there were none; adjusted for the number of comparisons.",
    "Training": "time per image of the forward and backward pass and the update; of the teacher, its forward pass.",
    "95% interval": "paired t over seeds; it covers the variation between training runs, not the choice of test "
    "examples.",
}

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, slots=True)
class Headline:
    """A finding: a short verdict, one sentence, and the evidence."""

    tone: Tone
    verdict: str
    sentence: str
    evidence: str = ""


def count(value: float, fixed: bool = False) -> str:
    """A count, or a mean of counts with one decimal; `fixed` keeps a `.0`, so that columns align.

    >>> count(10_000), count(74.3), count(-2), count(2, fixed=True)
    ('10,000', '74.3', '−2', '2.0')
    """
    text = f"{abs(value):,.1f}"
    sign = "−" if value < 0 and text != "0.0" else ""
    return sign + (text if fixed else text.removesuffix(".0"))


def signed(value: float, fixed: bool = False) -> str:
    """A difference.

    >>> signed(2.5), signed(-2.5), signed(0)
    ('+2.5', '−2.5', '0')
    """
    text = count(value, fixed)
    return f"+{text}" if value > 0 and text not in ("0", "0.0") else text


def percent(share: float, decimals: int = 0) -> str:
    """A share as a percentage.

    >>> percent(0.531), percent(0.9992, 2), percent(float("nan"))
    ('53%', '99.92%', '–')
    """
    if not isfinite(share):
        return MISSING
    text = f"{abs(share):.{decimals}%}"
    return f"−{text}" if share < 0 and float(text[:-1]) else text


def compact(value: float, unit: str = "") -> str:
    """Three significant digits and an SI prefix.

    >>> compact(1_234_567), compact(4_800_000, "B"), compact(850)
    ('1.23 M', '4.80 MB', '850')
    """
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.{max(0, 3 - len(str(int(scaled))))}f} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def ratio(value: float, reference: float) -> str:
    """A cost relative to a reference.

    >>> ratio(53, 100), ratio(130, 100), ratio(2000, 100)
    ('53%', '1.3×', '20×')
    """
    share = value / reference
    if share > 1.005:
        return f"{share:.1f}×" if share < 10 else f"{share:.0f}×"
    return percent(share, 0 if share >= 0.095 else 1)


def duration(seconds: float) -> str:
    """A duration.

    >>> duration(48), duration(720), duration(12_000)
    ('48 s', '12 min', '3 h 20 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def moment(ms: float) -> str:
    """A short time with its unit.

    >>> moment(0.045), moment(1.2345), moment(float("nan"))
    ('45 µs', '1.23 ms', '–')
    """
    if not isfinite(ms):
        return MISSING
    value, unit = (1000 * ms, "µs") if ms < 1 else (ms, "ms")
    return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def milliseconds(value: float) -> str:
    if not isfinite(value):
        return MISSING
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def general(value: float) -> str:
    """Two significant digits.

    >>> general(0.00001234), general(float("nan"))
    ('1.2e-05', '–')
    """
    return f"{value:.2g}" if isfinite(value) else MISSING


def p_value(p: float) -> str:
    """
    >>> p_value(0.0004), p_value(0.0123), p_value(0.25)
    ('<0.001', '0.012', '0.25')
    """
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def mean_sd(values: Sequence[float], digits: int = 1) -> str:
    """The mean and, of two or more values, the sample standard deviation.

    >>> mean_sd([12.0, 13.0]), mean_sd([12.0])
    ('12.5 ± 0.7', '12.0')
    """
    sd = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{sd}"


def plural(number: float, noun: str) -> str:
    """
    >>> plural(1, "error"), plural(2.5, "error")
    ('1 error', '2.5 errors')
    """
    return f"{count(number)} {noun}" if count(number) == "1" else f"{count(number)} {noun}s"


def spelled(number: int, noun: str) -> str:
    """
    >>> spelled(1, "seed"), spelled(12, "seed")
    ('one seed', '12 seeds')
    """
    return f"{_NUMBERS[number] if number < len(_NUMBERS) else number} {noun}{'' if number == 1 else 's'}"


def gap_share(share: float) -> str:
    """The share of the gap closed, never rounded up to all of it.

    >>> gap_share(0.999), gap_share(1.2)
    ('over 99%', '120%')
    """
    return "over 99%" if 0.99 < share < 1 else percent(share)
