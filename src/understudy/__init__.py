"""Train small models to stand in for big ones."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.api import compare, distill, evaluate, predict, resume, train
    from understudy.compressing import compress
    from understudy.data import open_source
    from understudy.exporting import export
    from understudy.few_shots import few_shots
    from understudy.models import build
    from understudy.pretraining import pretrain
    from understudy.probing import probe
    from understudy.specialising import specialists
    from understudy.suiting import suite
    from understudy.transferring import transfer

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "build",
    "compare",
    "compress",
    "distill",
    "evaluate",
    "export",
    "few_shots",
    "open_source",
    "predict",
    "pretrain",
    "probe",
    "resume",
    "specialists",
    "suite",
    "train",
    "transfer",
]

_HOMES = {
    **dict.fromkeys(("train", "distill", "compare", "evaluate", "predict", "resume"), "understudy.api"),
    "compress": "understudy.compressing",
    "open_source": "understudy.data",
    "export": "understudy.exporting",
    "build": "understudy.models",
    "probe": "understudy.probing",
    "specialists": "understudy.specialising",
    "pretrain": "understudy.pretraining",
    "few_shots": "understudy.few_shots",
    "suite": "understudy.suiting",
    "transfer": "understudy.transferring",
}


def __getattr__(name: str) -> Any:
    """Bring in what imports torch only when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
