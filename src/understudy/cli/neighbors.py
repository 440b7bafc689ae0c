"""`understudy neighbors`: a table or JSON, and a page."""

from __future__ import annotations

import json

from understudy.cli.flags import AsJson, TrustCode, Whole
from understudy.errors import UnderstudyError
from understudy.terminal import Terminal


def neighbors(
    target: str,
    images: str,
    /,
    *queries: str,
    top: Whole = 8,
    out: str = "neighbors.html",
    as_json: AsJson = False,
    trust_code: TrustCode = False,
) -> int:
    """List the images nearest to others by a network's embedding. The exit code is 1 if a query could not be read.

    Parameters
    ----------
    target
        A run folder or a weights file.
    images
        A folder of the images to search, or an image file.
    queries
        Image files, or folders of them.
    top
        Number of images to list for each query.
    out
        The page to write.
    as_json
        Print a JSON list with an object for each query.
    """
    if not queries:
        raise UnderstudyError("no query; write understudy neighbors RUN photos/ query.jpg")
    from understudy.reporting import console
    from understudy.verbs.neighbors import neighbors as verb

    found = verb(target, images, list(queries), top=top, out=out, trust_code=trust_code)
    if as_json:
        shown = [
            one.model_dump(exclude={"picture": True, "neighbors": {"__all__": {"picture"}}}) for one in found.queries
        ]
        print(json.dumps(shown, indent=2))
    else:
        terminal = Terminal()
        for part in console(found):
            terminal.print(part)
        terminal.say(f"page: {out}")
    return int(any(one.error is not None for one in found.queries))
