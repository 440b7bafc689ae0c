"""Accuracy of students by the number of views that the teacher answered, against a teacher that answers every epoch.

    python benchmarks/views.py DATA --teacher runs/teacher --student cifar:resnet8 --epochs 40 --seeds 3

Labels the data with some numbers of views, and trains the same students on each, for as many epochs. Prints a line
after each. What is done is found in the --run folder when the command is repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import understudy

VIEWS = (1, 4, 10, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", default="cifar:resnet8")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fraction", type=float, default=1.0)
    parser.add_argument("--views", type=int, nargs="*", default=VIEWS)
    parser.add_argument("--run", type=Path, default=Path("runs/views"))
    typed = parser.parse_args()
    options: dict[str, Any] = {
        "epochs": typed.epochs, "seeds": typed.seeds, "fraction": typed.fraction, "baseline": False, "batch_size": 64,
        "optimizer": "sgd", "lr": 0.05, "weight_decay": 5e-4,
    }  # fmt: skip
    for views in (*typed.views, None):
        where = typed.run / ("live" if views is None else f"views-{views}")
        run = understudy.Run(where)
        if run.exists and not run.finished:
            understudy.resume(where)
        elif not run.finished and views is None:
            understudy.distill(typed.data, typed.teacher, typed.student, run=where, **options)
        elif not run.finished and views is not None:
            targets = understudy.label(
                typed.data, typed.teacher, out=typed.run / f"targets-{views}", views=views, fraction=typed.fraction
            )
            understudy.distill(typed.data, None, typed.student, targets=targets.path, run=where, **options)
        (row,) = run.facts.of("distilled")
        each = ", ".join(f"{100 * (seed.accuracy or 0):.2f}" for seed in row.seeds)
        print(
            f"{'live' if views is None else views:>4}  {100 * (row.mean('accuracy') or 0):6.2f}%  ({each})", flush=True
        )


if __name__ == "__main__":
    main()
