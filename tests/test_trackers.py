"""Trackers: a real run with each that is installed, read back by its own reader; nothing leaves the machine."""

from __future__ import annotations

import csv
import json
import struct
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import understudy
from understudy.config.options import MachineOptions
from understudy.errors import UnderstudyError
from understudy.training.trackers import PROJECT, TRACKERS

Values = dict[tuple[str, int], float]
"""(name, step) -> value"""

WRITTEN = ("metrics.csv", "tensorboard", "mlflow.db", "wandb")


def test_every_tracker_is_an_option() -> None:
    assert set(get_args(get_type_hints(MachineOptions)["tracker"])) == {"none", *TRACKERS}


def of_csv(folder: Path) -> Values:
    with open(folder / "metrics.csv", newline="") as file:
        return {(row["name"], int(row["step"])): float(row["value"]) for row in csv.DictReader(file)}


def of_tensorboard(folder: Path) -> Values:
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-not-found]
        EventAccumulator,
    )

    held = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {(name, one.step): one.value for name in held.Tags()["scalars"] for one in held.Scalars(name)}


def of_mlflow(folder: Path) -> Values:
    from mlflow.tracking import MlflowClient  # type: ignore[import-not-found]

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name(PROJECT).experiment_id])
    assert run.info.status == "FINISHED"
    names = run.data.metrics
    return {(name, one.step): one.value for name in names for one in client.get_metric_history(run.info.run_id, name)}


def of_wandb(folder: Path) -> Values:
    """Of an offline run's own file."""
    from wandb.proto import wandb_internal_pb2 as pb  # type: ignore[import-not-found]

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found = Values()
    for data in leveldb_log(path.read_bytes()):
        record = pb.Record()
        record.ParseFromString(data)
        row = {one.key or ".".join(one.nested_key): json.loads(one.value_json) for one in record.history.item}
        found |= {(name, row["step"]): value for name, value in row.items() if "/" in name}
    return found


def leveldb_log(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format: blocks of 32 KiB with parts of records, after a header of 7."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32_768 - at % 32_768 < 7:
            at += 32_768 - at % 32_768
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def of_trackio(folder: Path) -> Values:
    from trackio.sqlite_storage import SQLiteStorage  # type: ignore[import-not-found]

    rows = SQLiteStorage.get_logs(PROJECT, folder.name)
    return {(name, row["step"]): value for row in rows for name, value in row.items() if name.count("/") == 2}


READERS: dict[str, Callable[[Path], Values]] = {
    "csv": of_csv, "tensorboard": of_tensorboard, "mlflow": of_mlflow, "wandb": of_wandb, "trackio": of_trackio,
}  # fmt: skip


@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_is_read_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name != "csv" and find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    for key in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    folder = tmp_path / f"run-{name}"
    understudy.train("digits", "mlp:8x1", epochs=2, precision="32", threads=1, tracker=name, run=folder)  # type: ignore[arg-type]
    wanted = {
        (f"model-0/{row['part']}/{key}", row["step"]): row[key]
        for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        for key in ("loss", "accuracy")
        if key in row
    }
    assert len(wanted) >= 4
    assert READERS[name](folder) == pytest.approx(wanted, rel=1e-5)
    understudy.train("digits", "mlp:4x1", steps=1, precision="32", threads=1, run=folder, overwrite=True)
    left = [path for name in WRITTEN for path in (folder / name, *(folder / name).rglob("*")) if path.is_file()]
    assert not left, "a new run begins without the old one's"


@pytest.mark.parametrize("name", sorted(set(TRACKERS) - {"csv"}))
def test_a_missing_tracker_is_named_with_its_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name, *(one for one in sys.modules if one.startswith((f"{name}.", "tensorboardX")))]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("lightning_fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning_fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", False)
    with pytest.raises(UnderstudyError, match=rf"{name} is not installed; pip install 'understudy\[{name}\]'"):
        TRACKERS[name](tmp_path)
