"""The verdict on a compression: whether distillation helped, what is handed over, and warnings with what to try."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from understudy.evaluation.facts import CandidateFacts, CompressionFacts
from understudy.reporting.rivals import ALONE, TEACHER, Duel, Network, duel, duels, named, of_given
from understudy.reporting.significance import LEVEL
from understudy.reporting.wording import Headline, compact, moment, percent, ratio


@dataclass(frozen=True, slots=True)
class Caveat:
    """A reason not to use the result as it is, and what to try; `bad` ones are shown in red."""

    text: str
    bad: bool = True


def verdict(facts: CompressionFacts) -> Headline:
    """Whether distillation helped: the student distilled and alone on the same test images."""
    row, found = facts.row("distilled"), _main(facts)
    if row is None:
        return Headline("plain", "No student was distilled", handed_over(facts))
    if found is None:
        accuracy = percent(row.mean("accuracy") or 0, 1)
        evidence = "The same student was not trained alone, so the effect of distillation is unknown."
        return Headline("open", "No baseline", f"The distilled student reaches {accuracy}.", evidence)
    mine, theirs = (percent(share, 1) for share in found.accuracy)
    beside = _beside(facts)
    sentence = f"{mine} against {theirs} trained alone ({found.text})."
    if found.points <= 0:
        return Headline("bad", "Distillation did not help", sentence, beside)
    if found.p is None:
        return Headline("open", "Not tested", sentence, beside)
    if found.p > LEVEL:
        more = "More --seeds or more test images would show a difference of this size, if there is one."
        return Headline("open", "No gain could be shown", sentence, f"{beside} {more}".strip())
    return Headline("good", "Distillation helped", sentence, beside)


def _beside(facts: CompressionFacts) -> str:
    """The teacher, and the best that its backbones were worth before."""
    others = [one.second for one in duels(facts) if one.second.name != ALONE]
    given = [one for one in others if one.name != TEACHER]
    best = [max(given, key=lambda one: one.mean)] if given else []
    shown = [f"{one.name} {percent(one.mean, 1)}" for one in others if one.name == TEACHER or one in best]
    return f"For comparison: {', '.join(shown)}." if shown else ""


def handed_over(facts: CompressionFacts) -> str:
    """What is exported: accuracy, size and latency of each precision."""
    if chosen := facts.chosen:
        first = chosen[0]
        each = "; ".join(
            f"{one.precision} " + ", ".join(filter(None, [_share(one.accuracy), compact(one.bytes, "B"), _ms(one)]))
            for one in chosen
        )
        name = {"backbone": "the backbone ", "alone": "the student trained alone, "}.get(first.role, "")
        return f"Handed over: {name}{first.model} at {first.size} px ({each}).{_slower(chosen)}"
    smallest = min(facts.export.files, key=lambda file: file.bytes)
    teacher, row = facts.row("teacher"), facts.row("distilled")
    said = f"Handed over: {f'{row.model}; ' if row else ''}the smallest file has {compact(smallest.bytes, 'B')}"
    if teacher and teacher.bytes:
        said += f", {ratio(smallest.bytes, teacher.bytes)} of the teacher's weights"
    if teacher and teacher.flops and row and row.flops:
        said += f", with {ratio(row.flops, teacher.flops)} of its FLOPs"
    return f"{said}."


def _slower(chosen: Sequence[CandidateFacts]) -> str:
    """That rounding did not make the file faster on this processor, if it did not."""
    times = {one.precision: one.latency_ms for one in chosen}
    if "int8" not in times or times["int8"] <= times.get("fp32", times["int8"]):
        return ""
    return " On this processor int8 is smaller but not faster; measure it on the device."


def warnings(facts: CompressionFacts) -> list[Caveat]:
    """All that speaks against the result, the worst first."""
    return sorted([*_of_teacher(facts), *_of_distillation(facts), *_of_backbone(facts)], key=lambda one: not one.bad)


def _main(facts: CompressionFacts) -> Duel | None:
    return next(iter(duels(facts)), None) if facts.row("alone") else None


def _of_teacher(facts: CompressionFacts) -> Iterator[Caveat]:
    """The teacher against the best that its backbones were worth before."""
    row = facts.row("teacher")
    given = [network for one in facts.given for network in of_given(one, several=len(facts.given) > 1)]
    if row is None or not given:
        return
    best = max(given, key=lambda network: network.mean)
    found = duel(Network.of(row, "teacher"), best)
    if found.accuracy[0] >= found.accuracy[1]:
        return
    tested = "" if found.p is None or found.p <= LEVEL else ", though the difference may be chance"
    yield Caveat(
        f"The teacher ({percent(found.accuracy[0], 1)}) is worse than {named(best)}{tested}. Try --teacher with a "
        "better network, more --budget, or a smaller --crop-size.",
        bad=not tested,
    )


def _of_distillation(facts: CompressionFacts) -> Iterator[Caveat]:
    """A student that gained nothing, or whose teacher knows less than the student finds out alone."""
    found, teacher = _main(facts), facts.row("teacher")
    if found is None:
        return
    failed = found.points <= 0
    if teacher and found.accuracy[1] > (known := teacher.mean("accuracy") or 0.0):
        yield Caveat(
            f"The student alone ({percent(found.accuracy[1], 1)}) is more accurate than its teacher "
            f"({percent(known, 1)}), so distillation cannot be expected to help. Try --teacher with a better network, "
            "a backbone pre-trained on more data, or more --budget.",
            bad=failed,
        )
    elif failed:
        handed = any(one.role == "student" for one in facts.chosen) or not facts.chosen
        start = "Use the student alone, or try" if handed else "Try"
        yield Caveat(f"{start} more --budget, other --methods or another --teacher.")


def _of_backbone(facts: CompressionFacts) -> Iterator[Caveat]:
    """A student that loses to a candidate made of the backbone in everything."""
    chosen = facts.chosen or [one for one in facts.candidates if one.role == "student" and one.accuracy is not None]
    if not chosen or any(one.role == "backbone" for one in chosen):
        return
    if better := [one for one in facts.candidates if one.role == "backbone" and all(beats(one, of) for of in chosen)]:
        best = max(better, key=lambda one: one.accuracy or 0)
        yield Caveat(
            f"The backbone in {best.precision} at {best.size} px is more accurate ({_share(best.accuracy)}), smaller "
            f"({compact(best.bytes, 'B')}) and faster ({_ms(best)}) than this student: use it."
        )


def beats(one: CandidateFacts, other: CandidateFacts) -> bool:
    """Whether a candidate is better in accuracy on the test part, size and latency alike."""
    if one.accuracy is None or other.accuracy is None:
        return False
    return one.accuracy > other.accuracy and one.bytes < other.bytes and one.latency_ms < other.latency_ms


def _share(accuracy: float | None) -> str:
    return "" if accuracy is None else percent(accuracy, 1)


def _ms(one: CandidateFacts) -> str:
    return moment(one.latency_ms)
