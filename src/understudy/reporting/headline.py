"""The findings of a run in sentences, which hold for every outcome."""

from __future__ import annotations

from collections.abc import Sequence

from understudy.evaluation.facts import Row, RunFacts
from understudy.reporting.contrast import Contrast, contrasts, is_comparison, reference, title
from understudy.reporting.gain import Gain, gain
from understudy.reporting.representation import headline as represented
from understudy.reporting.significance import MIN_SEEDS
from understudy.reporting.wording import Headline, Tone, count, gap_share, percent, plural, ratio, spelled

_MAX_NAMED = 4  # methods that a clause names; more are counted


def headline(facts: RunFacts) -> Headline:
    """The finding of a run. Nothing is chosen by its test score: of several methods all are named or counted."""
    if facts.representation is not None:
        return represented(facts.representation)
    if is_comparison(facts):
        return _comparison(facts)
    if distilled := facts.of("distilled"):
        found = gain(facts, distilled[0])
        return _compared(facts, distilled[0], found) if found else _no_baseline(facts, distilled[0])
    if rows := facts.of("model", "alone", "teacher", "member"):
        return _measured(facts, rows[0])
    return Headline("plain", "Not evaluated", f"The run {facts.name} has not been evaluated yet.")


# --- one student --------------------------------------------------------------------------------------------


def _measured(facts: RunFacts, row: Row) -> Headline:
    accuracy = percent(row.mean("accuracy") or 0, 2)
    sentence = f"{row.name} makes {plural(row.errors, 'error')}{_out_of(facts)}, an accuracy of {accuracy}."
    sd = row.sd("errors")
    evidence = "One seed." if sd is None else f"Mean of {len(row.seeds)} seeds, sd {count(sd)}."
    return Headline("plain", "Measured", sentence, evidence)


def _no_baseline(facts: RunFacts, row: Row) -> Headline:
    teacher = f", its teacher {count(facts.teacher.errors)}" if facts.teacher else ""
    makes = f"The distilled student makes {plural(row.errors, 'error')}{_out_of(facts)}"
    evidence = "The same student was not trained alone, so the effect of distillation is unknown."
    return Headline("open", "No baseline", f"{makes}{teacher}{_size(facts, row)}.", evidence)


def _compared(facts: RunFacts, row: Row, found: Gain) -> Headline:
    teacher = "" if found.teacher_errors is None else f" and its teacher {count(found.teacher_errors)}"
    tone, verdict, outcome = _outcome(found)
    makes = f"The distilled student makes {plural(found.distilled_errors, 'error')}{_out_of(facts)}"
    alone = f"the same student trained alone makes {count(found.alone_errors)}{teacher}"
    size = _size(facts, row) if found.mean > 0 and found.verdict != "unclear" else ""
    return Headline(tone, verdict, f"{makes} where {alone}: {outcome}{size}.", evidence(found))


def _outcome(found: Gain) -> tuple[Tone, str, str]:
    """Tone, verdict, and the clause that interprets the numbers."""
    if found.verdict == "unclear":
        return "open", "No clear gain", "the difference is not significant"
    outcome = f"{count(-found.mean)} more with distillation than without" if found.mean else "no difference"
    if found.mean > 0:
        outcome = _gained(found)
    if found.verdict == "untested":
        return "open", _untested([found]), outcome
    return ("good", "A clear gain", outcome) if found.verdict == "gain" else ("bad", "A clear loss", outcome)


def _untested(found: Sequence[Gain]) -> str:
    seeds = min(len(one.seeds) for one in found)
    if not seeds:
        return "No seed in common, untested"
    if seeds < MIN_SEEDS:
        return f"{spelled(seeds, 'seed').capitalize()}, untested"
    return "The same difference in every seed, untested"


def _gained(found: Gain) -> str:
    if found.teacher_errors is None:
        return f"{percent(found.mean / found.alone_errors)} fewer"
    beyond = found.teacher_errors - found.distilled_errors
    if found.gap_closed is None:
        return f"there was no gap to close, yet distillation removes {plural(found.mean, 'error')}"
    if beyond > 0:
        return f"the whole gap closed, with {count(beyond)} fewer than the teacher"
    return "the whole gap closed" if beyond == 0 else f"{gap_share(found.gap_closed)} of the gap closed"


def evidence(found: Gain) -> str:
    """The paired test over seeds, or why there is none."""
    if found.interval is None:
        return _why_untested(len(found.seeds), f"All {len(found.seeds)} seeds differ by the same {count(found.mean)}")
    low, high = found.interval
    return (
        f"Errors removed, paired over {len(found.seeds)} seeds: {count(found.mean)} on average, "
        f"sd {count(found.sd or 0)}, 95% interval {count(low)} to {count(high)}."
    )


def _why_untested(seeds: int, constant: str) -> str:
    if seeds >= MIN_SEEDS:
        return f"{constant}, so there is no variance to test against."
    shared = spelled(seeds, "seed").capitalize() if seeds else "No seed in common"
    return f"{shared}: too few seeds to test; use --seeds {MIN_SEEDS} or more."


def _out_of(facts: RunFacts) -> str:
    return f" in {facts.data.examples:,}" if facts.data else ""


def _size(facts: RunFacts, row: Row) -> str:
    """`, with 53% of the teacher's parameters`, if both are known."""
    if not (facts.teacher and facts.teacher.parameters and row.parameters):
        return ""
    times = ratio(row.parameters, facts.teacher.parameters).replace("×", " times")
    return f", with {times} {'' if 'times' in times else 'of '}the teacher's parameters"


# --- several methods ----------------------------------------------------------------------------------------


def _comparison(facts: RunFacts) -> Headline:
    of, found = reference(facts), contrasts(facts)
    methods = facts.of("distilled")
    if of is None:
        makes = ", ".join(f"{row.name} {count(row.errors)}" for row in methods)
        evidence = "Neither plain kd nor the student alone was trained, so no difference was tested."
        return Headline("open", f"{len(methods)} methods, no reference", f"Errors{_out_of(facts)}: {makes}.", evidence)
    tone, verdict = _verdict(of, found)
    teacher = f", teacher {count(facts.teacher.errors)}" if facts.teacher else ""
    beside = f"Compared with {title(of)} ({plural(of.errors, 'error')}{_out_of(facts)}{teacher})"
    return Headline(tone, verdict, f"{beside}, {_outcomes(found)}.", how_tested(facts))


def _verdict(of: Row, found: Sequence[Contrast]) -> tuple[Tone, str]:
    if all(one.adjusted is None for one in found):
        return "open", _untested([one.paired for one in found]) if found else "Nothing to compare"
    methods = [one for one in found if one.row.role == "distilled"]
    better = sum(one.verdict == "better" for one in methods)
    worse = sum(one.verdict == "worse" for one in methods)
    many = f"{len(methods)} methods" if len(methods) > 1 else "one method"
    also = f", {worse} clearly worse" if worse else ""
    if better:
        return "plain" if worse else "good", f"{better} of {many} clearly better than {title(of)}{also}"
    return "bad" if worse else "open", f"No method clearly better than {title(of)}{also}"


def _outcomes(found: Sequence[Contrast]) -> str:
    """One clause per outcome, which together name or count all rows; the first one has the verb."""
    clearly = "clearly " if any(one.adjusted is not None for one in found) else ""
    constant = [one for one in found if one.constant]
    untested = [one for one in found if one.verdict == "untested" and not one.constant]
    groups = [
        ([one for one in found if one.verdict == "better"] + [one for one in untested if one.mean < 0],
         f"{clearly}fewer"),
        ([one for one in found if one.verdict == "worse"] + [one for one in untested if one.mean > 0],
         f"{clearly}more"),
        ([one for one in untested if one.mean == 0], "as many"),
        *(([one], f"{count(abs(one.mean))} {'fewer' if one.mean < 0 else 'more'} in every seed" if one.mean
           else "as many in every seed") for one in constant),
    ]  # fmt: skip
    clauses: list[str] = []
    for rows, outcome in groups:
        if rows:
            verb = "" if clauses else " make" if len(rows) > 1 else " makes"
            clauses.append(f"{_listed(rows)}{verb} {outcome}")
    if unclear := [one for one in found if one.verdict == "unclear"]:
        clauses.append(f"for {_listed(unclear)} the difference is not significant")
    return clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + f", and {clauses[-1]}"


def _listed(found: Sequence[Contrast]) -> str:
    """`crd (21.3) and dkd (22)`; many methods are only counted, the student alone is always named."""
    ordered = sorted(found, key=lambda one: one.row.role == "alone")
    names = [f"{title(one.row)} ({count(one.row.errors)})" for one in ordered]
    methods = sum(one.row.role != "alone" for one in found)
    if methods > _MAX_NAMED:
        names[:methods] = [f"{methods} methods"]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"


def how_tested(facts: RunFacts) -> str:
    """The test of a comparison, or why there is none."""
    found = contrasts(facts)
    if tests := [one for one in found if one.adjusted is not None]:
        numbers = sorted({len(one.differences) for one in tests})
        few = " So few seeds detect only large effects." if numbers[0] < 5 else ""
        return (
            f"Errors paired over {' to '.join(map(str, numbers))} seeds, two-sided paired t test at 5%, "
            f"Holm-adjusted over {spelled(len(tests), 'comparison')}.{few}"
        )
    if not found:
        return ""
    return _why_untested(min(len(one.differences) for one in found), "All differences are the same in every seed")


def table_note(facts: RunFacts) -> str:
    """The note below the table of methods."""
    of, found = reference(facts), contrasts(facts)
    if of is None or not found:
        return ""
    differences = f"Differences are errors minus those of {title(of)}, paired by seed"
    if all(one.p is None for one in found):
        return f"{differences}. {how_tested(facts)}"
    note = (
        f"{differences}; below them is the 95% paired t interval of each by itself, while p is adjusted over all of "
        "them. Both cover the variation from initial weights only: the order and augmentation of the samples, the "
        "teacher and the test examples are the same for all methods."
    )
    if any(one.constant for one in found):
        note += " Where all seeds differ by the same number, there is no variance and no test."
    return note
