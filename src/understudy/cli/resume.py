"""`understudy resume`."""

from __future__ import annotations

from typing import Annotated

from understudy.cli.flags import FLAG, TrustCode
from understudy.cli.show import show


def resume(run: str, /, *, accept_changed_data: Annotated[bool, FLAG] = False, trust_code: TrustCode = False) -> int:
    """Continue a run, or a folder of runs, where it was stopped; the result is as if it had not been stopped.

    Parameters
    ----------
    run
        The folder of a run, or of several.
    accept_changed_data
        Go on even if the data is not what it was when the run began.
    """
    from understudy.verbs import resume as verb

    return show(verb.resume(run, accept_changed_data=accept_changed_data, trust_code=trust_code))
