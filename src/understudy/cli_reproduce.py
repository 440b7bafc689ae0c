"""`understudy reproduce` on the command line. Loaded when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from understudy.cli import print_rows
from understudy.cli_flags import DataRoot, Download, Size
from understudy.errors import UnderstudyError, nearest


def reproduce(
    name: str | None = None,
    /,
    *,
    quick: Annotated[bool, Parameter(negative=())] = False,
    pair: tuple[str, ...] = (),
    scale: float = 1.0,
    data: str | None = None,
    size: Size = None,
    groups: str | None = None,
    held_out: tuple[str, ...] = (),
    probe: tuple[str, ...] = (),
    run: Path | None = None,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Run a paper's experiment and set its numbers beside the paper's; without a name, list them.

    Parameters
    ----------
    name
        The experiment.
    quick
        A short version, which shows the same order of results.
    pair
        Of an experiment on pairs of nets: TEACHER:STUDENT, as in wrn_40_2:wrn_16_2.
    scale
        Share of the paper's epochs.
    data
        Another set in place of the paper's.
    groups
        Of an experiment on groups of classes: a YAML file of those that are known, as in dogs: [beagle, pug].
    held_out
        Classes to train nobody on and to probe: how many, or their names.
    probe
        Sets to probe the representations on, in place of the paper's.
    run
        The folder for its runs; runs/NAME where unset.
    """
    from understudy.papers import EXPERIMENTS, Bench

    if name is None:
        heads = ("experiment", "what it shows", "minutes", "--quick")
        rows = ((n, e.summary, _minutes(e.minutes), _minutes(e.quick_minutes)) for n, e in EXPERIMENTS.items())
        print_rows(rows, heads)
        return
    if name not in EXPERIMENTS:
        raise UnderstudyError(f"no experiment is called {name!r}{nearest(name, EXPERIMENTS)}")
    if not 0 < scale <= 1:
        raise UnderstudyError(f"--scale is a share of the paper's epochs, above 0 and at most 1; it is {scale:g}")
    folder = run or Path("runs") / name
    bench = Bench(
        folder, quick, data_root, download=download,
        pairs=pair, scale=scale, data=data, size=size, groups=groups, held_out=held_out, probes=probe,
    )  # fmt: skip
    EXPERIMENTS[name].run(bench)


def _minutes(minutes: float | None) -> str:
    return "hours, GPU" if minutes is None else f"{minutes:g}"
