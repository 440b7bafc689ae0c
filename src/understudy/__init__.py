"""Train small models to stand in for big ones."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from understudy.version import __version__

if TYPE_CHECKING:
    from understudy.data import open_source
    from understudy.models import build
    from understudy.runs import Run, RunCollection
    from understudy.verbs.benchmark import benchmark
    from understudy.verbs.compress import compress
    from understudy.verbs.distill import compare, distill
    from understudy.verbs.evaluate import evaluate
    from understudy.verbs.export import export
    from understudy.verbs.few_shots import few_shots
    from understudy.verbs.label import label
    from understudy.verbs.neighbors import neighbors
    from understudy.verbs.predict import predict
    from understudy.verbs.pretrain import pretrain
    from understudy.verbs.probe import probe
    from understudy.verbs.push import push
    from understudy.verbs.registry import dry_run, run_config
    from understudy.verbs.resume import resume
    from understudy.verbs.specialists import specialists
    from understudy.verbs.suite import suite
    from understudy.verbs.train import train
    from understudy.verbs.transfer import transfer

_MODULES = {
    "Run": "runs",
    "RunCollection": "runs",
    "benchmark": "verbs.benchmark",
    "build": "models",
    "compare": "verbs.distill",
    "compress": "verbs.compress",
    "distill": "verbs.distill",
    "dry_run": "verbs.registry",
    "evaluate": "verbs.evaluate",
    "export": "verbs.export",
    "few_shots": "verbs.few_shots",
    "label": "verbs.label",
    "neighbors": "verbs.neighbors",
    "open_source": "data",
    "predict": "verbs.predict",
    "pretrain": "verbs.pretrain",
    "probe": "verbs.probe",
    "push": "verbs.push",
    "resume": "verbs.resume",
    "run_config": "verbs.registry",
    "specialists": "verbs.specialists",
    "suite": "verbs.suite",
    "train": "verbs.train",
    "transfer": "verbs.transfer",
}

__all__ = [
    "Run",
    "RunCollection",
    "__version__",
    "benchmark",
    "build",
    "compare",
    "compress",
    "distill",
    "dry_run",
    "evaluate",
    "export",
    "few_shots",
    "label",
    "neighbors",
    "open_source",
    "predict",
    "pretrain",
    "probe",
    "push",
    "resume",
    "run_config",
    "specialists",
    "suite",
    "train",
    "transfer",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
