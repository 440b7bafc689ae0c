"""Weights files: ours, and checkpoints of others. They are read without running anything in them, and checked."""

from __future__ import annotations

import json
import re
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.models.contract import InputContract

# Where training scripts keep the weights in a checkpoint, averaged ones first: timm, DeiT, Lightning, Composer, ...
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
_ENTRIES = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "module")
# Classifiers that torchvision's GoogLeNet and Inception have beside their own, for training from scratch.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")

_TYPES = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """The tensors of a weights file.

    Attributes:
        spec, contract: of the network, in files that `Network.save` wrote; else None.
        int8: whether the network computes as its int8 file will, so that ranges of activations are among the tensors.
        averaged: the entry that held the averaged weights (EMA), where a checkpoint had them beside the last ones.
    """

    path: Path
    tensors: dict[str, Tensor]
    spec: str | None = None
    contract: InputContract | None = None
    averaged: str = ""
    int8: bool = False

    @property
    def origin(self) -> str:
        """Where the weights come from, for the console and the page."""
        return f"{self.path} (its averaged weights, {self.averaged})" if self.averaged else str(self.path)


class _Metadata(BaseModel):
    """What `Network.save` writes beside the tensors."""

    model_config = ConfigDict(extra="forbid", strict=True)

    spec: str
    contract: InputContract
    int8: bool = False


def read_weights(path: Path) -> Weights:
    """Read a safetensors file, a state dict or a training checkpoint; what it is is decided by its content.

    Of a checkpoint with averaged weights (EMA) these are taken. Objects other than tensors are not restored, and no
    code that a file names is ever run.

    Raises:
        UnderstudyError: the file is missing, damaged, or holds no weights.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except FileNotFoundError:
        raise UnderstudyError(f"there is no weights file {path}; check the path") from None
    except OSError as error:
        raise UnderstudyError(f"{path} cannot be read ({error.strerror}); name a weights file") from None
    if path.suffix == ".npz":
        raise UnderstudyError(f"{path} is a NumPy archive; official weights of Big Transfer are loaded as bit:{path}")
    safetensors = start[8:] == b"{" or path.suffix == ".safetensors"
    weights = _read_safetensors(path) if safetensors else _read_checkpoint(path)
    for name, x in weights.tensors.items():
        if x.dtype not in _TYPES or x.layout != torch.strided or x.device.type != "cpu":
            raise UnderstudyError(f"{path}: {name} is {_kind(x)}; save the weights of the unquantized model")
    return weights


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, "pt") as file:
            written = (file.metadata() or {}).get("understudy")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UnderstudyError(
            f"{path} is not a complete safetensors file ({_first_line(error)}); copy or download it again"
        ) from None
    if written is None:
        return Weights(path, tensors)
    try:
        metadata = _Metadata.model_validate_json(written)
        metadata.contract.check()
    except (ValidationError, ValueError) as error:
        raise UnderstudyError(
            f"{path} was written by another version of understudy, or its metadata is damaged ({_problem(error)}); "
            "train the network again"
        ) from None
    return Weights(path, tensors, metadata.spec, metadata.contract, int8=metadata.int8)


def _problem(error: ValueError) -> str:
    """The first thing that is wrong with the metadata."""
    if not isinstance(error, ValidationError):
        return _first_line(error)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


class _NotRestored:
    """Stands for every object in a checkpoint that is no tensor, number or container: its class is never imported."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...


def _read_checkpoint(path: Path) -> Weights:
    _refuse_programs(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins(path)):
            warnings.simplefilter("ignore")  # about the pickle protocol
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several types for pickled code and for damaged files
        raise UnderstudyError(
            f"{path} could not be loaded: it is damaged or holds pickled objects, which are never run; "
            f"save its state_dict() as safetensors ({type(error).__name__})"
        ) from None
    if not isinstance(content, Mapping):
        kind = "model" if isinstance(content, _NotRestored) else type(content).__name__
        raise UnderstudyError(
            f"{path} holds a pickled {kind}, which is never run; where it was made, save its weights: "
            "torch.save(model.state_dict(), PATH)"
        )
    found, averaged = _weights_in(content)
    tensors = {str(name): x.detach() for name, x in found.items() if isinstance(x, Tensor)}
    if not tensors or len(tensors) < len(found):
        other = next((name for name, x in found.items() if not isinstance(x, Tensor)), None)
        raise UnderstudyError(
            f"{path} holds {'no tensors' if not tensors else f'more than tensors ({other!r})'}, and pickled objects "
            "are never run; save only the model's state_dict()"
        )
    return Weights(path, tensors, averaged=averaged)


def _weights_in(content: Mapping[Any, Any], depth: int = 3) -> tuple[Mapping[Any, Any], str]:
    """The innermost state dict of a checkpoint, and the entry of the averaged weights if it was taken."""
    for entry in (*_AVERAGED, *_ENTRIES) if depth else ():
        inner = content.get(entry)
        if isinstance(inner, Mapping):
            found, averaged = _weights_in(inner, depth - 1)
            if any(isinstance(x, Tensor) for x in found.values()):
                return found, entry if entry in _AVERAGED else averaged
    return content, ""


def _refuse_programs(path: Path) -> None:
    """Raise for zip archives that hold no checkpoint, with what to do instead."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, struct.error):
        return  # `torch.load` says so
    if any(name.endswith("/constants.pkl") for name in names):
        raise UnderstudyError(
            f"{path} is a TorchScript program, which is never run; save the weights of the model that it was made "
            "from: torch.save(model.state_dict(), PATH)"
        )


def _stand_ins(path: Path) -> list[Any]:
    """What to take for the classes and functions that a checkpoint names beside those that tensors need."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an older format, or damaged, which `torch.load` says in many ways
        return []
    return [(_NotRestored, name) for name in names]


def _kind(x: Tensor) -> str:
    return f"a {x.device.type} tensor of {str(x.dtype).removeprefix('torch.')}, {str(x.layout).removeprefix('torch.')}"


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict strictly, whatever wrapper the names are prefixed by (`module.`, `_orig_mod.`, `model.`).

    Raises:
        UnderstudyError: names, shapes or types differ, or values are NaN or infinite; nothing was loaded.
    """
    expected = module.state_dict()
    state = unwrapped(state, expected)
    # files of early PyTorch versions lack these counters, which nothing but BatchNorm without momentum reads
    counters = {name: x for name, x in expected.items() if name.endswith("num_batches_tracked") and name not in state}
    state = dict(state) | counters
    check_match(expected, state, source)
    module.load_state_dict(state)


def unwrapped(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the names of the module itself, where a wrapper or an attribute of a trainer prefixed them.

    Tensors beside the prefixed ones, of a loss or a wrapper, are left out, and so are auxiliary classifiers that the
    module does not have.

    >>> weight = torch.zeros(1)
    >>> list(unwrapped({"module._orig_mod.fc.weight": weight, "n_averaged": weight}, {"fc.weight": weight}))
    ['fc.weight']
    """
    found: Counter[str] = Counter({"": 0})
    for key in state:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", key))]
        found.update(key[:start] for start in starts if key[start:] in expected)
    best = max(found, key=lambda prefix: (found[prefix], -len(prefix), prefix))
    names = {key.removeprefix(best): x for key, x in state.items() if key.startswith(best)}
    if not any(name.startswith(_AUXILIARY) for name in expected):
        names = {name: x for name, x in names.items() if not name.startswith(_AUXILIARY)}
    return names


def check_match(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise unless `state` has exactly the keys and shapes of `expected`, of the same kind, with finite values."""
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is unexpected" for name in state if name not in expected]
    problems += [_difference(name, x, state[name]) for name, x in expected.items() if name in state]
    problems = [text for text in problems if text]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UnderstudyError(f"{source} does not fit the model: {'; '.join(problems[:3])}{more}")
    broken = [name for name, x in state.items() if x.is_floating_point() and not bool(x.float().isfinite().all())]
    if broken:
        more = f" and {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise UnderstudyError(
            f"{source} has values that are NaN or infinite, in {broken[0]}{more}; the training diverged or the file is "
            "damaged, so use an earlier checkpoint"
        )


def _difference(name: str, expected: Tensor, found: Tensor) -> str:
    if found.shape != expected.shape:
        return f"{name} is {tuple(found.shape)} instead of {tuple(expected.shape)}"
    if found.is_floating_point() != expected.is_floating_point():
        kinds = (str(x.dtype).removeprefix("torch.") for x in (found, expected))
        return f"{name} is {' instead of '.join(kinds)}"
    return ""


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names in the order of the logits, from a file: one a line, or JSON: a list, or each name with its index.

    Raises:
        UnderstudyError: the file is missing or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        found: Any = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except FileNotFoundError:
        raise UnderstudyError(f"there is no file of classes {path}") from None
    except (OSError, ValueError) as error:
        raise UnderstudyError(f"{path} is not a list of classes ({_first_line(error)}); write one a line") from None
    if isinstance(found, dict) and sorted(map(str, found.values())) == sorted(map(str, range(len(found)))):
        found = sorted(found, key=lambda name: int(found[name]))
    names = [name for name in found if name] if isinstance(found, list) else []
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise UnderstudyError(f"{path} is not a list of distinct classes; write one a line, in the order of the logits")
    return tuple(names)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
