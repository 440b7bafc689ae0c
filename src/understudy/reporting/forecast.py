"""What more training is expected to bring, as far as it can be known."""

from __future__ import annotations

from understudy.evaluation.facts import ScalingForecast
from understudy.reporting.wording import percent


def forecast_sentence(forecast: ScalingForecast) -> str:
    """The accuracy after twice and four times the steps, with its 95% interval; "" if that cannot be known.

    >>> known = ScalingForecast(
    ...     pilot_steps=100, steps=800, pilot_error=0.4, error=0.2, teacher_error=0.15, examples=2_000
    ... )
    >>> print(forecast_sentence(known))
    The student reaches 60.0% after 100 steps and 80.0% after 800. By a power law through both, twice the steps would \
bring 84.1% (83.6 to 84.7%), and four times 85.0% at most, the teacher's accuracy.
    >>> forecast_sentence(known.model_copy(update={"examples": 20}))
    ''
    """
    if not forecast.known or forecast.teacher_error is None:
        return ""
    bound = forecast.teacher_error
    clauses = []
    for times, words in ((2, "twice the steps would bring"), (4, "four times")):
        if forecast.at(times) <= bound:
            clauses.append(f"{words} {percent(1 - bound, 1)} at most, the teacher's accuracy")
            break
        best, worst = (percent(1 - error, 1) for error in forecast.between(times))
        clauses.append(f"{words} {percent(1 - forecast.at(times), 1)} ({worst.removesuffix('%')} to {best})")
    pilot, full = (percent(1 - error, 1) for error in (forecast.pilot_error, forecast.error))
    return (
        f"The student reaches {pilot} after {forecast.pilot_steps:,} steps and {full} after {forecast.steps:,}. "
        f"By a power law through both, {', and '.join(clauses)}."
    )
