"""Models of timm and torchvision, with their pre-trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from understudy.errors import UnderstudyError, nearest
from understudy.models.bit import use_official_eps, zero_init
from understudy.models.contract import InputContract
from understudy.models.network import load_weights, read_weights
from understudy.models.spec import Spec, call
from understudy.models.stages import find_head


def from_timm(spec: Spec, contract: InputContract) -> tuple[nn.Module, InputContract]:
    """A timm model and its input contract.

    The options `pretrained=true` (download the weights), `pretrained=FILE` (load them from a file, with a new head for
    another number of classes) and `weights=FILE` (load all of them) are ours; others are passed to timm.
    """
    import timm
    from timm.data.config import resolve_model_data_config

    options = dict(spec.options)
    weights = options.pop("weights", None)
    pretrained = options.pop("pretrained", False)
    repository = _timm_repository(spec, required=pretrained is True)
    # for other modalities timm adapts the first layer to their number of channels
    original = bool(pretrained) and contract.is_image
    channels = 3 if original else contract.shape[0]
    sizes = {"num_classes": len(contract.classes), "in_chans": channels}
    file = f"{spec}?pretrained=PATH/model.safetensors"
    with _downloading(spec, f"on another machine, run hf download {repository}, and load the file as {file}"):
        module = call(timm.create_model, spec, spec.name, pretrained=pretrained is True, **sizes, **options)
    config = resolve_model_data_config(module)
    pretrained_cfg: dict[str, Any] = getattr(module, "pretrained_cfg", {})
    if pretrained and pretrained is not True:
        _load_pretrained(module, read_weights(Path(pretrained))[0], pretrained_cfg.get("first_conv"), str(pretrained))
    if spec.name.startswith("resnetv2_") and "_bit" in spec.name:
        use_official_eps(module)
        if not pretrained or pretrained_cfg.get("num_classes") != len(contract.classes):
            zero_init(module.get_submodule(find_head(module)))
    size = tuple(config["input_size"][1:])
    if "img_size" in options:
        size = (options["img_size"],) * 2
    if pretrained:
        contract = replace(contract, shape=(channels, *size), interpolation=_interpolation(config["interpolation"]))
        if original:
            contract = replace(contract, mean=tuple(config["mean"]), std=tuple(config["std"]))
    elif config.get("fixed_input_size") or pretrained_cfg.get("fixed_input_size"):
        contract = replace(contract, shape=(channels, *size))
    if weights is not None:
        load_weights(module, read_weights(Path(weights))[0], str(weights))
    return module, contract


def _interpolation(name: str) -> Literal["bilinear", "bicubic"]:
    """The library's interpolation for our contract; others, such as "random" or "lanczos", become bilinear."""
    return "bicubic" if name == "bicubic" else "bilinear"


def _timm_repository(spec: Spec, *, required: bool) -> str:
    """The Hugging Face repository of a timm model's weights; "" if it has none and none are required."""
    import timm
    from timm.models import get_pretrained_cfg

    architecture, _, tag = spec.name.partition(".")
    if not timm.is_model(architecture):
        raise UnderstudyError(f"timm has no model {spec.name!r}{nearest(spec.name, timm.list_models())}")
    known = timm.list_pretrained(f"{architecture}.*")
    try:
        cfg = get_pretrained_cfg(spec.name)
    except RuntimeError:
        raise UnderstudyError(f"timm has no weights {tag!r} for {architecture}{nearest(spec.name, known)}") from None
    if required and (cfg is None or not cfg.has_weights):
        others = f"it has {', '.join(known)}" if known else "run understudy models for the names of other models"
        raise UnderstudyError(f"timm has no pre-trained weights for {spec.name}; {others}")
    return str(cfg.hf_hub_id or cfg.url) if cfg is not None else ""


@contextmanager
def _downloading(spec: Spec, advice: str) -> Iterator[None]:
    """Turn network errors into advice on how to obtain the weights."""
    try:
        yield
    except Exception as error:
        # huggingface_hub does not wrap the errors of httpx
        if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):
            raise
        raise UnderstudyError(
            f"the weights of {spec} are not on this machine and could not be downloaded "
            f"({type(error).__name__}); {advice}"
        ) from None


def _load_pretrained(module: nn.Module, state: dict[str, Tensor], first_conv: str | None, source: str) -> None:
    """Load weights strictly, except for a head of other classes; adapt the first convolution to the input channels."""
    from timm.models import adapt_input_conv

    own, prefix = module.state_dict(), f"{find_head(module)}."
    head = {name: x for name, x in own.items() if name.startswith(prefix)}
    if any(name not in state or state[name].shape != x.shape for name, x in head.items()):
        state = state | head
    kernel = f"{first_conv}.weight"
    if kernel in own and kernel in state and own[kernel].shape[1] != state[kernel].shape[1]:
        state = state | {kernel: adapt_input_conv(own[kernel].shape[1], state[kernel])}
    load_weights(module, state, source)


def from_torchvision(spec: Spec, contract: InputContract) -> tuple[nn.Module, InputContract]:
    """A torchvision classifier and its input contract.

    The option `weights` names pre-trained weights of torchvision, which are downloaded, or a file. Others are passed to
    torchvision.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if spec.name not in names:
        raise UnderstudyError(f"torchvision has no classifier {spec.name!r}{nearest(spec.name, names)}")
    options = dict(spec.options)
    weights = options.pop("weights", None)
    if weights is None or Path(str(weights)).exists():
        module = call(models.get_model, spec, spec.name, num_classes=len(contract.classes), **options)
        if weights is not None:
            load_weights(module, read_weights(Path(weights))[0], str(weights))
    else:
        known = models.get_model_weights(spec.name).__members__
        if weights not in known:
            raise UnderstudyError(
                f"{spec} has no weights {weights!r}, and there is no such file{nearest(weights, known)}"
            )
        url = known[weights].url
        cache = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
        with _downloading(spec, f"download {url} on another machine and copy it to {cache}"):
            module = call(models.get_model, spec, spec.name, weights=weights, **options)
        _replace_head(module, len(contract.classes))
        preset = known[weights].transforms()
        shape = (contract.shape[0], *preset.crop_size * 2)
        contract = replace(contract, shape=shape, interpolation=_interpolation(preset.interpolation.value))
        if contract.is_image:
            contract = replace(contract, shape=(3, *contract.shape[1:]), mean=tuple(preset.mean), std=tuple(preset.std))
    if contract.shape[0] == 1:
        # torchvision's models take three channels; the input contract repeats a single one
        contract = replace(contract, shape=(3, *contract.shape[1:]), mean=contract.mean * 3, std=contract.std * 3)
    elif contract.shape[0] != 3:
        _replace_stem(module, contract.shape[0])
    return module, contract


def _replace_stem(module: nn.Module, channels: int) -> None:
    """Adapt the first convolution to a number of input channels, as timm does."""
    from timm.models import adapt_input_conv

    old = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        old.weight = nn.Parameter(adapt_input_conv(channels, old.weight))
    old.in_channels = channels


def _replace_head(module: nn.Module, classes: int) -> None:
    path = find_head(module)
    old: Any = module.get_submodule(path)
    new = nn.Conv2d(old.in_channels, classes, 1) if isinstance(old, nn.Conv2d) else nn.Linear(old.in_features, classes)
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)
