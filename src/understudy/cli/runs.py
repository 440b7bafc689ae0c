"""`understudy runs`."""

from __future__ import annotations

import json

from understudy.cli.flags import AsJson
from understudy.cli.show import show_facts
from understudy.terminal import Terminal


def runs(folder: str = "runs", /, *, as_json: AsJson = False) -> None:
    """List the runs of a folder with what each found, and write a page with links to theirs.

    Parameters
    ----------
    folder
        Where the runs are; folders of runs below it are looked into.
    as_json
        Print a JSON list with an object for each run.
    """
    from understudy.verbs.runs import runs as verb

    found = verb(folder)
    if as_json:
        print(json.dumps(found.facts.model_dump(mode="json")["entries"], indent=2))
        return
    show_facts(found.facts)
    Terminal().say(f"page: {found.page}")
