"""From a run folder's or a weights file's path, or the name of a model with its weights, to trained networks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.files import path_of
from understudy.models import InputContract, Network, as_given, is_code, load_network, names_model, parse_spec
from understudy.pipeline.panel_folder import MANIFEST, load_panel, panel_files
from understudy.runs.run import Run, find_run


def weights_of(name: str | Path) -> list[Path]:
    """The weights files of a run folder or of a file's path: the distilled ones where there are any.

    Raises:
        UnderstudyError: there is no such path, or no trained model in it.
    """
    path = path_of(name, "the run folder or weights file")
    if (path / MANIFEST).is_file():
        return [path / MANIFEST]  # a panel of specialists
    if path.is_dir():
        models = Run(path).models
        if not models:
            raise UnderstudyError(f"{name} holds no trained model; finish it with: understudy resume {name}")
        distilled = [file for member, file in models.items() if member.startswith("distilled")]
        return distilled or list(models.values())
    if not path.is_file():
        raise UnderstudyError(f"there is no run folder or weights file {name}")
    return [path]


def networks_of(target: str | Path, *, trust_code: bool = False) -> dict[str, Network]:
    """The networks of a run folder, or of one weights file, by name, as "distilled-0"."""
    path = path_of(target, "the run folder or weights file")
    (file, *_) = weights_of(path)  # raises for what is not there, and for a run without a trained model
    if path.is_dir():
        if file.name == MANIFEST:
            return {"model-0": load_teacher(file)}
        return {name: load_network(file, trust_code=trust_code) for name, file in find_run(path).models.items()}
    name = path.stem if path.stem.rpartition("-")[0] in ("alone", "distilled", "model") else "model-0"
    return {name: load_network(path, trust_code=trust_code)}


def teacher_files(name: str) -> list[Path]:
    """The files that `teachers_of` reads."""
    if names_model(name):
        options = parse_spec(name).options
        named = [Path(str(options[key])) for key in ("weights", "pretrained", "classes") if key in options]
        return [file for file in named if file.is_file()]
    return [part for file in weights_of(name) for part in files_of(file)]


def teachers_of(
    name: str, contract: Callable[[], InputContract], *, size: int | None = None, trust_code: bool = False
) -> dict[str, Network]:
    """The networks of a run folder, of a weights file or of a pre-trained model's name, with their own classes.

    Args:
        contract: gives that of the data, for a model's name.
        size: of the input in pixels, for a model's name; see `as_given`.

    Raises:
        UnderstudyError: there is no such path, or the name loads no weights, so that there is no teacher.
    """
    path_of(name, "the teacher")
    if names_model(name):
        _check_named_teacher(name)
        loaded = name if is_code(name) else pretrained(name)
        return {name: as_given(loaded, contract(), size=size, trust_code=trust_code and is_code(name))}
    return {str(file): load_teacher(file) for file in weights_of(name)}  # code that a file names is never run


def _check_named_teacher(name: str) -> None:
    """Check that a model's name loads weights, without which it is no teacher."""
    spec = parse_spec(name)
    weights = str(spec.options.get("weights", ""))
    ours = spec.family in ("timm", "torchvision") or spec.name.lower().endswith(".npz")
    missing = bool(weights) and not Path(weights).is_file() and not re.fullmatch(r"[A-Z]\w*", weights)
    if not is_code(name) and (missing or not (weights or ours)):
        given = f"weights={weights}, which is no file" if weights else "no weights of its own"
        head = name.partition("?")[0]
        raise UnderstudyError(
            f"the teacher {head} has {given}, and needs a file of weights: write {head}?weights=FILE, or give the run "
            "folder or weights file of a trained model"
        )


def load_teacher(file: Path) -> Network:
    """The network of a weights file, or the panel of a list of specialists."""
    return load_panel(file.parent) if file.name == MANIFEST else load_network(file)


def files_of(file: Path) -> list[Path]:
    """The files that `load_teacher` reads."""
    return panel_files(file.parent) if file.name == MANIFEST else [file]


def pretrained(backbone: str, from_scratch: bool = False) -> str:
    """The name of a model with the option that loads its weights, where its library has them by name.

    Raises:
        UnderstudyError: it would start without pre-trained weights, and `from_scratch` is not set.

    >>> pretrained("timm:resnet50"), pretrained("torchvision:resnet50")
    ('timm:resnet50?pretrained=true', 'torchvision:resnet50?weights=DEFAULT')
    """
    if backbone.endswith(".npz") and ":" not in backbone:
        return f"bit:{backbone}"
    if path_of(backbone, "the backbone").exists() or from_scratch:
        return backbone
    spec = parse_spec(backbone)
    if {"pretrained", "weights"} & spec.options.keys() or spec.name.endswith(".npz") or spec.family == "hf-hub":
        return backbone
    join = "&" if "?" in backbone else "?"
    if spec.family == "torchvision":
        return f"{backbone}{join}weights=DEFAULT"
    if spec.family == "timm":
        return f"{backbone}{join}pretrained=true"
    raise UnderstudyError(
        f"{backbone} has no pre-trained weights by that name; give a run folder, a weights file or a timm: or "
        "torchvision: model that has them, or pass --from-scratch"
    )
