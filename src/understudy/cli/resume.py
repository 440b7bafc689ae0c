"""`understudy resume`."""

from __future__ import annotations

from understudy.cli.flags import TrustCode
from understudy.cli.show import show


def resume(run: str, /, *, trust_code: TrustCode = False) -> int:
    """Continue a run, or a folder of runs, where it was stopped; the result is as if it had not been stopped.

    Parameters
    ----------
    run
        The folder of a run, or of several.
    """
    from understudy.verbs import resume as verb

    return show(verb.resume(run, trust_code=trust_code))
