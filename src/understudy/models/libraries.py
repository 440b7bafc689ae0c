"""Nets of timm and torchvision, with the weights that come with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from understudy.errors import UnderstudyError, nearest
from understudy.models.bit import use_official_eps, zero
from understudy.models.contract import InputContract
from understudy.models.network import load_weights, read_weights
from understudy.models.spec import Spec, call, needs_images
from understudy.models.stages import find_head


def from_timm(spec: Spec, contract: InputContract) -> tuple[nn.Module, InputContract]:
    """Any net of timm, and the contract that it needs.

    Options of ours: `pretrained=true` fetches its weights, `pretrained=FILE` takes them from a file, with a new head
    where the classes are others; `weights=FILE` loads all of a file's. The rest go to timm.
    """
    import timm
    from timm.data.config import resolve_model_data_config

    needs_images(spec, contract)
    options = dict(spec.options)
    weights = options.pop("weights", None)
    pretrained = options.pop("pretrained", False)
    repository = _timm_repository(spec, wanted=pretrained is True)
    # of other modalities than its own it gets as many channels, the first layer's weights fitted to them by timm
    own = bool(pretrained) and contract.sees_images
    channels = 3 if own else contract.shape[0]
    with _fetching(
        spec,
        lambda: (
            f"run where there is: hf download {repository}; bring the file, and name it as "
            f"{spec}?pretrained=PATH/model.safetensors"
        ),
    ):
        module = call(
            timm.create_model,
            spec,
            spec.name,
            pretrained=pretrained is True,
            num_classes=len(contract.classes),
            in_chans=channels,
            **options,
        )
    config = resolve_model_data_config(module)
    facts: dict[str, Any] = getattr(module, "pretrained_cfg", {})
    if pretrained and pretrained is not True:
        _load_but_head(module, read_weights(Path(pretrained))[0], facts.get("first_conv"), str(pretrained))
    if spec.name.startswith("resnetv2_") and "_bit" in spec.name:
        use_official_eps(module)
        if not pretrained or facts.get("num_classes") != len(contract.classes):
            zero(module.get_submodule(find_head(module)))
    size = tuple(config["input_size"][1:])
    if "img_size" in options:
        size = (options["img_size"],) * 2
    if pretrained:
        contract = replace(contract, shape=(channels, *size), interpolation=_interpolation(config["interpolation"]))
        if own:
            contract = replace(contract, mean=tuple(config["mean"]), std=tuple(config["std"]))
    elif config.get("fixed_input_size") or facts.get("fixed_input_size"):
        contract = replace(contract, shape=(channels, *size))
    if weights is not None:
        load_weights(module, read_weights(Path(weights))[0], str(weights))
    return module, contract


def _interpolation(name: str) -> Literal["bilinear", "bicubic"]:
    """The library's word as the contract's: whatever else there is, as "random" or "lanczos", is taken for bilinear."""
    return "bicubic" if name == "bicubic" else "bilinear"


def _timm_repository(spec: Spec, *, wanted: bool) -> str:
    """Where the Hugging Face hub has the weights of a net of timm; "" where it has none and none are wanted."""
    import timm
    from timm.models import get_pretrained_cfg

    architecture, _, tag = spec.name.partition(".")
    if not timm.is_model(architecture):
        raise UnderstudyError(f"timm has no model {spec.name!r}{nearest(spec.name, timm.list_models())}")
    known = timm.list_pretrained(f"{architecture}.*")
    try:
        facts = get_pretrained_cfg(spec.name)
    except RuntimeError:
        raise UnderstudyError(f"timm has no weights {tag!r} of {architecture}{nearest(spec.name, known)}") from None
    if wanted and (facts is None or not facts.has_weights):
        others = f"those of {', '.join(known)}" if known else "other nets'; understudy models lists the names"
        raise UnderstudyError(f"timm has no pre-trained weights of {spec.name}, only {others}")
    return str(facts.hf_hub_id or facts.url) if facts is not None else ""


@contextmanager
def _fetching(spec: Spec, advice: Callable[[], str]) -> Iterator[None]:
    """Say in one sentence what to do where weights are neither here nor to be had."""
    try:
        yield
    except Exception as error:
        # the hub's client lets its HTTP library's own errors through
        if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):
            raise
        raise UnderstudyError(
            f"the weights of {spec} are not on this machine, and there is no network to fetch them "
            f"({type(error).__name__}); {advice()}"
        ) from None


def _load_but_head(module: nn.Module, state: dict[str, Tensor], first: str | None, where: str) -> None:
    """Load weights strictly, but for a head of other classes, and with the first layer's fitted to its channels."""
    from timm.models import adapt_input_conv

    own, head = module.state_dict(), f"{find_head(module)}."
    kept = {name: x for name, x in own.items() if name.startswith(head)}
    if any(name not in state or state[name].shape != x.shape for name, x in kept.items()):
        state = state | kept
    kernel = f"{first}.weight"
    if kernel in own and kernel in state and own[kernel].shape[1] != state[kernel].shape[1]:
        state = state | {kernel: adapt_input_conv(own[kernel].shape[1], state[kernel])}
    load_weights(module, state, where)


def from_torchvision(spec: Spec, contract: InputContract) -> tuple[nn.Module, InputContract]:
    """Any classifier of torchvision, and the contract that it needs.

    Options of ours: `weights` names a set of torchvision's, fetched, or a file. The rest go to torchvision.
    """
    from torchvision import models

    needs_images(spec, contract)
    names = models.list_models(module=models)
    if spec.name not in names:
        raise UnderstudyError(f"torchvision has no classifier {spec.name!r}{nearest(spec.name, names)}")
    options = dict(spec.options)
    weights = options.pop("weights", None)
    if weights is not None and Path(str(weights)).exists():
        module = call(models.get_model, spec, spec.name, num_classes=len(contract.classes), **options)
        load_weights(module, read_weights(Path(weights))[0], str(weights))
    elif weights is not None:
        known = models.get_model_weights(spec.name).__members__
        if weights not in known:
            raise UnderstudyError(
                f"{spec} has no weights {weights!r}, and there is no such file{nearest(weights, known)}"
            )
        url = known[weights].url
        place = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
        with _fetching(spec, lambda: f"fetch {url} where there is, and put it at {place}"):
            module = call(models.get_model, spec, spec.name, weights=weights, **options)
        _replace_head(module, len(contract.classes))
        preset = known[weights].transforms()
        shape, how = (contract.shape[0], *preset.crop_size * 2), _interpolation(preset.interpolation.value)
        contract = replace(contract, shape=shape, interpolation=how)
        if contract.sees_images:
            contract = replace(contract, shape=(3, *contract.shape[1:]), mean=tuple(preset.mean), std=tuple(preset.std))
    else:
        module = call(models.get_model, spec, spec.name, num_classes=len(contract.classes), **options)
    if contract.shape[0] == 1:
        # torchvision's nets read three channels; a single one is repeated by the network's input contract
        contract = replace(contract, shape=(3, *contract.shape[1:]), mean=contract.mean * 3, std=contract.std * 3)
    elif contract.shape[0] != 3:
        _replace_stem(module, contract.shape[0])
    return module, contract


def _replace_stem(module: nn.Module, channels: int) -> None:
    """Have the first convolution read some channels, its weights fitted to them as timm does."""
    from timm.models import adapt_input_conv

    old = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        old.weight = nn.Parameter(adapt_input_conv(channels, old.weight))
    old.in_channels = channels


def _replace_head(module: nn.Module, classes: int) -> None:
    path = find_head(module)
    parent, _, name = path.rpartition(".")
    old = module.get_submodule(path)
    if isinstance(old, nn.Conv2d):
        new: nn.Module = nn.Conv2d(old.in_channels, classes, 1)
    else:
        assert isinstance(old, nn.Linear), path
        new = nn.Linear(old.in_features, classes)
    setattr(module.get_submodule(parent), name, new)
