"""`understudy probe`: a table or JSON, and a page."""

from __future__ import annotations

import json
import sys
from typing import Annotated

from understudy.cli.flags import FLAG, AsJson, DataRoot, Download, Size, TrustCode
from understudy.files import path_of
from understudy.terminal import Terminal


def probe(
    target: str,
    /,
    *data: str,
    teacher: tuple[str, ...] = (),
    only_classes: tuple[str, ...] = (),
    knn: Annotated[bool, FLAG] = False,
    data_root: DataRoot = None,
    download: Download = False,
    size: Size = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
    out: str | None = None,
) -> None:
    """Fit linear classifiers to the networks' frozen representations, on any data sets.

    Parameters
    ----------
    target
        A run folder, a weights file, or a pre-trained model's name.
    data
        Data sets' names, folders, zips, CSVs or parquet files; their classes need not be the networks'.
    teacher
        Run folders, weights files or pre-trained models' names to probe beside them.
    only_classes
        Classes of the data, by name or index, as in 3 8; default: all.
    knn
        Measure nearest neighbors too: 20, by cosine.
    as_json
        Print a JSON list with an object for each data set.
    out
        Write a page into this folder.
    """
    from understudy.reporting.probe import probe_table
    from understudy.verbs.probe import probe as verb

    found = verb(
        target, *data, teacher=teacher, only_classes=only_classes, knn=knn, data_root=data_root, download=download,
        size=size, trust_code=trust_code, out=out, command=("understudy", *sys.argv[1:]),
    )  # fmt: skip
    if as_json:
        print(json.dumps([one.to_json() for one in found], indent=2))
        return
    terminal = Terminal()
    terminal.print(probe_table(found))
    for one in found:
        for reason, count in one.skipped.items():
            terminal.say(f"{one.data}: {count:,} skipped: {reason}")
    if out is not None:
        terminal.say(f"report: {path_of(out, 'the --out folder') / 'report.html'}")
