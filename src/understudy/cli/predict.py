"""`understudy predict`: a table, JSON or CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from understudy.cli.flags import AsJson, TrustCode, Whole
from understudy.errors import UnderstudyError
from understudy.escaping import csv_cell
from understudy.terminal import Terminal, cell

if TYPE_CHECKING:
    from understudy.verbs.predict import Prediction


def predict(
    target: str,
    /,
    *images: str,
    top: Whole = 5,
    as_json: AsJson = False,
    as_csv: Annotated[bool, Parameter(name="--csv", negative=())] = False,
    trust_code: TrustCode = False,
) -> int:
    """Classify images, with probabilities. The exit code is 1 if any image could not be read.

    Parameters
    ----------
    target
        A run folder or a weights file.
    images
        Image files, or folders of them.
    top
        Number of classes to show for each image.
    as_json
        Print a JSON list with an object for each image.
    as_csv
        Print CSV with a row for each image and class.
    """
    if not images:
        raise UnderstudyError("no images; write understudy predict RUN photo.jpg, or name a folder of images")
    if top < 1:
        raise UnderstudyError(f"--top must be at least 1, not {top}")
    if as_json and as_csv:
        raise UnderstudyError("--json and --csv are two formats; choose one")
    from understudy.verbs.predict import predict as verb

    predictions = verb(target, list(images), top=top, trust_code=trust_code)
    show = _print_json if as_json else _print_csv if as_csv else _print_table
    show(predictions)
    return int(any(prediction.error for prediction in predictions))


def _print_json(predictions: Sequence[Prediction]) -> None:
    objects = [
        {
            "path": one.path,
            "classes": [
                {"class": name, "probability": probability}
                for name, probability in zip(one.classes, one.probabilities, strict=True)
            ],
            "error": one.error,
        }
        for one in predictions
    ]
    print(json.dumps(objects, indent=2))


def _print_csv(predictions: Sequence[Prediction]) -> None:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["path", "rank", "class", "probability", "error"])
    for one in predictions:
        if one.error:
            rows.writerow([csv_cell(one.path), "", "", "", csv_cell(one.error)])
        for rank, (name, probability) in enumerate(zip(one.classes, one.probabilities, strict=True), 1):
            rows.writerow([csv_cell(one.path), rank, csv_cell(name), f"{probability:.6g}", ""])


def _print_table(predictions: Sequence[Prediction]) -> None:
    table = Table("image", "class", "probability", box=None, pad_edge=False)
    for one in predictions:
        if one.error:
            table.add_row(cell(one.path), cell(one.error, "red"), "")
        for row, (name, probability) in enumerate(zip(one.classes, one.probabilities, strict=True)):
            table.add_row(cell("" if row else one.path), cell(name), f"{probability:.1%}")
    Terminal().print(table)
