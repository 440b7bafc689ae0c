"""`understudy reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from understudy.cli.flags import DataRoot, Download, Size, whole_number
from understudy.cli.show import print_rows
from understudy.errors import UnderstudyError, nearest
from understudy.files import new_folder, path_of


def reproduce(
    name: str | None = None,
    /,
    *,
    quick: Annotated[bool, Parameter(negative=())] = False,
    pair: tuple[str, ...] = (),
    method: tuple[str, ...] = (),
    epochs: Annotated[int | None, Parameter(converter=whole_number)] = None,
    seeds: Annotated[int | None, Parameter(converter=whole_number)] = None,
    data: str | None = None,
    size: Size = None,
    backbone: str | None = None,
    groups: str | None = None,
    held_out: tuple[str, ...] = (),
    probe: tuple[str, ...] = (),
    run: str | None = None,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Run a paper's experiment and show its numbers next to the paper's; without a name, list them.

    Parameters
    ----------
    name
        The experiment.
    quick
        A short version, with the same order of results.
    pair
        For experiments on pairs of networks: TEACHER:STUDENT, as in wrn_40_2:wrn_16_2.
    method
        For tables of several distillation methods: those to run, as in crd or crd+kd; default: all.
    epochs
        Epochs of the networks trained, in place of the paper's.
    seeds
        Number of seeds of each network.
    data
        Another data set in place of the paper's.
    backbone
        For experiments on transfer: a pre-trained network, as for understudy transfer.
    groups
        For experiments on groups of classes: a YAML file of known groups, as in dogs: [beagle, pug].
    held_out
        Classes that are probed only: their number, or their names.
    probe
        Data sets to probe the representations on, in place of the paper's.
    run
        The folder for its runs; default: runs/NAME.
    """
    from understudy.papers import EXPERIMENTS, Bench

    if name is None:
        heads = ("experiment", "shows", "minutes", "--quick")
        rows = ((n, e.summary, _minutes(e.minutes), _minutes(e.quick_minutes)) for n, e in EXPERIMENTS.items())
        print_rows(rows, heads)
        return
    if name not in EXPERIMENTS:
        raise UnderstudyError(f"there is no experiment {name!r}{nearest(name, EXPERIMENTS)}")
    for flag, number, most in (("--epochs", epochs, 1_000_000), ("--seeds", seeds, 1000)):
        if number is not None and not 1 <= number <= most:
            raise UnderstudyError(f"{flag} must be from 1 to {most:,}, not {number}")
    for path, what in ((groups, "the --groups file"), (data_root, "the data root"), (data, "the data")):
        if path is not None:
            path_of(path, what)
    folder = Path("runs") / name if run is None else new_folder(run, "the --run folder")
    bench = Bench(
        folder, quick, data_root, download=download,
        pairs=pair, methods=method, chosen_epochs=epochs, seeds=seeds, data=data, size=size,
        backbone=backbone, groups=groups, held_out=held_out, probes=probe,
    )  # fmt: skip
    EXPERIMENTS[name].run(bench)


def _minutes(minutes: float | None) -> str:
    return "hours, GPU" if minutes is None else f"{minutes:g}"
