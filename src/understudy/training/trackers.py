"""Experiment trackers by name: where metrics go besides `metrics.jsonl`. None sends anything by default."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from understudy.errors import UnderstudyError
from understudy.files import write_whole

PROJECT = "understudy"
"""The project, or experiment, of trackers that have such."""


class Tracker(Protocol):
    """What Fabric's loggers have, too."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None: ...
    def finalize(self, status: str) -> None: ...


class CsvTracker:
    """`metrics.csv`: a line for each value, with its step and name.

    >>> tracker = CsvTracker(tmp)
    >>> tracker.log_metrics({"model-0/train/loss": 0.5}, step=100)
    >>> (tmp / "metrics.csv").read_text().splitlines()
    ['step,name,value', '100,model-0/train/loss,0.5']
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.csv"
        if not self.path.exists():
            write_whole(self.path, _lines([("step", "name", "value")]))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(_lines([(step, name, value) for name, value in metrics.items()]))

    def finalize(self, status: str) -> None:
        """Nothing is left to write."""


def _lines(rows: Sequence[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


class WandbTracker:
    """Weights & Biases, offline unless $WANDB_MODE says otherwise: `wandb sync` uploads what is in the run folder."""

    def __init__(self, folder: Path) -> None:
        with _installed("wandb"):
            import wandb  # type: ignore[import-not-found]
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=folder.resolve().name, dir=folder,
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, save_code=False),
        )  # fmt: skip

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.run.log({**metrics, "step": step})

    def finalize(self, status: str) -> None:
        self.run.finish(exit_code=0 if status == "success" else 1)


class MlflowTracker:
    """MLflow, in `mlflow.db` of the run folder unless $MLFLOW_TRACKING_URI names a server or a file."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        with _installed("mlflow"):
            from mlflow.entities import Metric  # type: ignore[import-not-found]
            from mlflow.tracking import MlflowClient  # type: ignore[import-not-found]
        self.metric: Any = Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').absolute()}"
        self.client: Any = MlflowClient(tracking_uri=uri)
        known = self.client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else self.client.create_experiment(PROJECT)
        self.id: str = self.client.create_run(experiment, run_name=folder.resolve().name).info.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = int(1000 * time.time())
        self.client.log_batch(self.id, [self.metric(name, value, now, step) for name, value in metrics.items()])

    def finalize(self, status: str) -> None:
        self.client.set_terminated(self.id, "FINISHED" if status == "success" else "FAILED")


class TrackioTracker:
    """trackio, in its folder on this machine ($TRACKIO_DIR) unless $TRACKIO_SPACE_ID names a space."""

    def __init__(self, folder: Path) -> None:
        with _installed("trackio"):
            import trackio  # type: ignore[import-not-found]
        self.trackio: Any = trackio
        trackio.init(
            project=PROJECT, name=folder.resolve().name, resume="allow", embed=False, auto_log_gpu=False,
            auto_log_cpu=False,
        )  # fmt: skip

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.trackio.log(dict(metrics), step=step)

    def finalize(self, status: str) -> None:
        self.trackio.finish()


def tensorboard(folder: Path) -> Tracker:
    """TensorBoard's files in `tensorboard/` of the run folder."""
    with _installed("tensorboard"):
        return TensorBoardLogger(folder, name="tensorboard", version="")


TRACKERS: dict[str, Callable[[Path], Tracker]] = {
    "tensorboard": tensorboard,
    "csv": CsvTracker,
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "trackio": TrackioTracker,
}
"""Name -> a tracker for a run folder."""


@contextmanager
def _installed(name: str) -> Iterator[None]:
    """Say how to install a package that is missing."""
    try:
        yield
    except ImportError as error:
        raise UnderstudyError(f"{name} is not installed; pip install 'understudy[{name}]'") from error
