"""The comparison in sentences: every method is named or counted, whichever way it came out."""

from __future__ import annotations

from collections.abc import Sequence

from understudy.reporting.contrast import FEWEST, Contrast, contrasts, reference, title
from understudy.reporting.facts import Row, RunFacts
from understudy.reporting.wording import Headline, Tone, count, plural

_NAMED = 4  # rows that a sentence names in one breath; more are counted
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def headline(facts: RunFacts) -> Headline:
    """What the comparison found: which methods are clearly better or worse, and for which chance can explain it."""
    of, found = reference(facts), contrasts(facts)
    methods = facts.of("distilled")
    if of is None:
        makes = ", ".join(f"{row.name} {count(row.errors)}" for row in methods)
        return Headline(
            "open",
            f"{len(methods)} methods, nothing to hold them against",
            f"Errors{_out_of(facts)}: {makes}.",
            "Neither plain kd nor the student alone was trained, so no difference was tested.",
        )
    tested = any(one.adjusted is not None for one in found)
    tone, verdict = _verdict(of, [one for one in found if one.row.role == "distilled"], tested, found)
    teacher = f" (its teacher {count(facts.teacher.errors)})" if facts.teacher else ""
    beside = f"Beside {title(of)} with {plural(of.errors, 'error')}{_out_of(facts)}{teacher}"
    return Headline(tone, verdict, f"{beside}, {_outcomes(found)}.", how_tested(facts))


def _verdict(of: Row, methods: Sequence[Contrast], tested: bool, found: Sequence[Contrast]) -> tuple[Tone, str]:
    if not tested:
        seeds = min((len(one.paired.seeds) for one in found), default=0)
        on = f"on {_number(seeds, 'seed')}" if seeds else "without a seed in common"
        return "open", f"Compared {on}, untested" if seeds < FEWEST else f"Compared {on}, with nothing to test"
    better = sum(one.verdict == "better" for one in methods)
    worse = sum(one.verdict == "worse" for one in methods)
    many = f"{len(methods)} methods" if len(methods) > 1 else "one method"
    also = f", {worse} clearly worse" if worse else ""
    if better:
        return "plain" if worse else "good", f"{better} of {many} clearly better than {title(of)}{also}"
    return "bad" if worse else "open", f"No method clearly better than {title(of)}{also}"


def _outcomes(found: Sequence[Contrast]) -> str:
    """One clause for each way it came out, all rows among them; the verb stands in the first."""
    clearly = "clearly " if any(one.adjusted is not None for one in found) else ""
    constant = [one for one in found if one.constant]
    untested = [one for one in found if one.verdict == "untested" and not one.constant]
    clauses = [
        ([one for one in found if one.verdict == "better"] + [one for one in untested if one.mean < 0],
         f"{clearly}fewer"),
        ([one for one in found if one.verdict == "worse"] + [one for one in untested if one.mean > 0],
         f"{clearly}more"),
        ([one for one in untested if one.mean == 0], "as many"),
        *(([one], f"{count(abs(one.mean))} {'fewer' if one.mean < 0 else 'more'} in every seed" if one.mean
           else "as many in every seed") for one in constant),
    ]  # fmt: skip
    said: list[str] = []
    for rows, outcome in clauses:
        if rows:
            verb = "" if said else " make" if len(rows) > 1 else " makes"
            said.append(f"{_listed(rows)}{verb} {outcome}")
    unclear = [one for one in found if one.verdict == "unclear"]
    if unclear:
        said.append(f"for {_listed(unclear)} chance can explain the difference")
    return said[0] if len(said) == 1 else ", ".join(said[:-1]) + f", and {said[-1]}"


def _listed(found: Sequence[Contrast]) -> str:
    """`crd (21.3) and dkd (22)`; of many only the count, and the student alone always by name."""
    alone = [one for one in found if one.row.role == "alone"]
    methods = [one for one in found if one.row.role != "alone"]
    if len(methods) > _NAMED:
        names = [f"{len(methods)} methods", *map(_named, alone)]
    else:
        names = [*map(_named, methods), *map(_named, alone)]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"


def _named(one: Contrast) -> str:
    return f"{title(one.row)} ({count(one.row.errors)})"


def how_tested(facts: RunFacts) -> str:
    """The test by its name, over what, and what it does not cover; or why there is none."""
    found = contrasts(facts)
    tests = [one for one in found if one.adjusted is not None]
    if tests:
        numbers = sorted({len(one.differences) for one in tests})
        few = " So few seeds find large effects only." if numbers[0] < 5 else ""
        return (
            f"Errors paired over {' to '.join(map(str, numbers))} seeds, two-sided paired t test at 5%, "
            f"Holm-adjusted over {_number(len(tests), 'comparison')}.{few}"
        )
    seeds = min((len(one.differences) for one in found), default=0)
    if seeds >= FEWEST:
        return "No difference varies from seed to seed, so there is nothing for a test to go by."
    shared = _number(seeds, "seed").capitalize() if seeds else "No seed in common"
    return f"{shared}: too few for a test over seeds; --seeds {FEWEST} or more allows one." if found else ""


COVERS = (
    "Differences are errors less those of {of}, paired by seed; under them the 95% paired t interval of each by "
    "itself. p is for all of them together. Both cover chance in the first weights; the order and the views of the "
    "samples, the teacher and the choice of test examples are the same for all and not covered."
)


def table_note(facts: RunFacts) -> str:
    """What stands below the table."""
    of, found = reference(facts), contrasts(facts)
    if of is None or not found:
        return ""
    said = [COVERS.format(of=title(of))] if any(one.p is not None for one in found) else []
    if not said:
        said.append(f"Differences are errors less those of {title(of)}, paired by seed. {how_tested(facts)}")
    elif any(one.constant for one in found):
        said.append("Where every seed differs by the same number there is no spread, and no test.")
    return " ".join(said)


def _number(n: int, noun: str) -> str:
    return f"{_NUMBERS[n] if n < len(_NUMBERS) else n} {noun}{'' if n == 1 else 's'}"


def _out_of(facts: RunFacts) -> str:
    return f" in {facts.data.examples:,}" if facts.data else ""
