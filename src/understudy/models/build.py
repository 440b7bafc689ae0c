"""From a name to a network: `mlp:1200x2?dropout=0.5`, `cifar:wrn_16_2`, `timm:resnet18`, `pkg.mod:fn`, a file."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from understudy.errors import UnderstudyError, nearest
from understudy.models.cifar import NETS
from understudy.models.cnn import cnn
from understudy.models.contract import InputContract
from understudy.models.mlp import mlp
from understudy.models.network import Network, load_weights, read_weights
from understudy.models.stages import find_head

FAMILIES = {
    "mlp": "mlp:1200x2?dropout=0.5      fully connected: units x layers, or 300-100; options dropout, "
    "input_dropout, batchnorm",
    "cnn": "cnn:32-64-128?depth=2       3x3 convolutions with BatchNorm, a stage a width; options depth, dropout",
    "cifar": "cifar:wrn_40_2              the nets of the CIFAR-100 distillation tables: resnet8x4, vgg8, ...",
    "timm": "timm:resnet18               any model of timm; options go to it, pretrained=true loads its weights",
    "torchvision": "torchvision:mobilenet_v3_small   any classifier of torchvision; weights=DEFAULT loads its weights",
}


@dataclass(frozen=True)
class Spec:
    """A model's name taken apart: `family:name?key=value&key=value`."""

    family: str
    name: str
    options: dict[str, Any]


def parse_spec(text: str) -> Spec:
    """Take a model's name apart; option values are read as YAML scalars."""
    head, _, query = text.partition("?")
    family, colon, name = head.partition(":")
    if not colon or not name:
        raise UnderstudyError(
            f"{text!r} is not a model: write FAMILY:NAME (families: {', '.join(FAMILIES)}), PACKAGE.MODULE:FUNCTION, "
            "or the path of a run folder or weights file"
        )
    options: dict[str, Any] = {}
    for pair in filter(None, re.split("[&,]", query)):
        key, equals, value = pair.partition("=")
        if not equals:
            raise UnderstudyError(f"option {pair!r} of {text!r} has no value; write {key}=VALUE")
        options[key] = yaml.safe_load(value)
    return Spec(family, name, options)


def is_code(text: str) -> bool:
    """Whether a model's name would import a function of the caller's."""
    head = text.partition("?")[0]
    return bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", head)) and head.split(":")[0] not in FAMILIES


def build(spec: str | nn.Module, contract: InputContract, *, seed: int = 0, trust_code: bool = False) -> Network:
    """Make a network whose head fits `contract.classes`.

    Args:
        spec: a model's name, or a module that maps (B, *contract.shape) to logits.
        contract: shape, mean and std of the data, and its classes. A model that has its own size and scale
            (a pre-trained one, one of fixed input size) keeps its own.
        seed: of the initial weights.
        trust_code: whether `pkg.mod:fn` may be imported.

    Raises:
        UnderstudyError: an unknown family, name or option.
    """
    if isinstance(spec, nn.Module):
        return spec if isinstance(spec, Network) else Network(spec, contract)
    parsed = parse_spec(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if parsed.family in _BUILDERS:
            module, contract = _BUILDERS[parsed.family](parsed, contract)
        elif is_code(spec):
            module = _from_code(parsed, contract, trust_code)
        else:
            raise UnderstudyError(f"unknown model family {parsed.family!r}{nearest(parsed.family, FAMILIES)}")
    return Network(module, contract, spec)


def load_network(path: Path, *, trust_code: bool = False) -> Network:
    """Rebuild a network from a weights file that `Network.save` wrote."""
    state, facts = read_weights(path)
    if not facts:
        raise UnderstudyError(
            f"{path} does not say which model it belongs to; name the model with the weights as an option, "
            f"as in timm:resnet18?weights={path}"
        )
    contract = InputContract.from_json(facts["contract"])
    if not facts["spec"]:
        raise UnderstudyError(f"{path} was trained from a module made in Python; build that module and load it there")
    network = build(_without_downloads(facts["spec"]), contract, trust_code=trust_code)
    network.contract, network.spec = contract, facts["spec"]
    if "class_bias" in state:
        network.class_bias = state["class_bias"]
    load_weights(network, state, str(path))
    return network


def start_from(path: Path, classes: tuple[str, ...], *, seed: int = 0) -> Network:
    """A saved network to train on: its head kept where the classes are its own, made anew where they are others."""
    network = load_network(path)
    if network.classes == classes:
        network.began = f"began from {path}, with its head of {len(classes)} classes"
        return network
    contract = replace(network.contract, classes=classes)
    fresh = build(_without_downloads(network.spec), contract, seed=seed)
    fresh.contract, fresh.spec = contract, network.spec
    head = f"module.{find_head(fresh.module)}."
    kept = {name: x for name, x in network.state_dict().items() if not name.startswith(head) and name != "class_bias"}
    load_weights(fresh, fresh.state_dict() | kept, str(path))
    known = len(network.classes)
    fresh.began = f"began from {path}, with a new head of {len(classes)} classes in place of its {known} others"
    return fresh


def _without_downloads(spec: str) -> str:
    """The same architecture without the options that load weights: they are about to be overwritten."""
    head, _, query = spec.partition("?")
    kept = [pair for pair in re.split("[&,]", query) if pair.partition("=")[0] not in ("pretrained", "weights")]
    return f"{head}?{'&'.join(kept)}" if any(kept) else head


def _widths(spec: Spec) -> list[int]:
    match = re.fullmatch(r"(\d+)x(\d+)", spec.name)
    if match:
        return [int(match[1])] * int(match[2])
    if re.fullmatch(r"\d+(-\d+)*", spec.name):
        return [int(units) for units in spec.name.split("-")]
    raise UnderstudyError(
        f"{spec.family}:{spec.name} is not understood: write units x layers as {spec.family}:800x2, "
        f"or each layer as {spec.family}:300-100"
    )


def _call(make: Callable[..., nn.Module], spec: Spec, *args: Any, **options: Any) -> nn.Module:
    """Call a model's constructor; an option it does not take is the user's mistake."""
    parameters = inspect.signature(make).parameters.values()
    if all(one.kind is not one.VAR_KEYWORD for one in parameters):
        known = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
        for name in options:
            if known and name not in {one.name for one in parameters}:
                raise UnderstudyError(f"{spec.family}:{spec.name} has no option {name!r}{nearest(name, known)}")
    try:
        return make(*args, **options)
    except UnderstudyError:
        raise
    except (TypeError, ValueError) as error:
        raise UnderstudyError(f"{spec.family}:{spec.name} does not take these options: {error}") from error


def _mlp(spec: Spec, contract: InputContract) -> tuple[nn.Module, InputContract]:
    return _call(mlp, spec, _widths(spec), contract.shape, len(contract.classes), **spec.options), contract


def _cnn(spec: Spec, contract: InputContract) -> tuple[nn.Module, InputContract]:
    _needs_images(spec, contract)
    return _call(cnn, spec, _widths(spec), contract.shape, len(contract.classes), **spec.options), contract


def _cifar(spec: Spec, contract: InputContract) -> tuple[nn.Module, InputContract]:
    _needs_images(spec, contract)
    if spec.name not in NETS:
        raise UnderstudyError(f"the cifar family has no net {spec.name!r}{nearest(spec.name, NETS)}")
    return _call(NETS[spec.name], spec, contract.shape[0], len(contract.classes), **spec.options), contract


def _needs_images(spec: Spec, contract: InputContract) -> None:
    if len(contract.shape) != 3:
        raise UnderstudyError(f"{spec.family}:{spec.name} reads images; the data is vectors of {contract.shape[0]}")


def _timm(spec: Spec, contract: InputContract) -> tuple[nn.Module, InputContract]:
    import timm
    from timm.data.config import resolve_model_data_config

    _needs_images(spec, contract)
    if not timm.is_model(spec.name.partition(".")[0]):
        raise UnderstudyError(f"timm has no model {spec.name!r}{nearest(spec.name, timm.list_models())}")
    options = dict(spec.options)
    weights = options.pop("weights", None)
    pretrained = bool(options.pop("pretrained", False))
    # of other modalities than its own it gets as many channels, the first layer's weights fitted to them by timm
    own = pretrained and contract.modality in ("", "rgb", "image")
    channels = 3 if own else contract.shape[0]
    module = _call(
        timm.create_model,
        spec,
        spec.name,
        pretrained=pretrained,
        num_classes=len(contract.classes),
        in_chans=channels,
        **options,
    )
    config = resolve_model_data_config(module)
    size = tuple(config["input_size"][1:])
    if "img_size" in options:
        size = (options["img_size"],) * 2
    if pretrained:
        interpolation = "bicubic" if config["interpolation"] == "bicubic" else "bilinear"
        contract = replace(contract, shape=(channels, *size), interpolation=interpolation)
        if own:
            contract = replace(contract, mean=tuple(config["mean"]), std=tuple(config["std"]))
    elif config.get("fixed_input_size") or getattr(module, "pretrained_cfg", {}).get("fixed_input_size"):
        contract = replace(contract, shape=(channels, *size))
    if weights is not None:
        load_weights(module, read_weights(Path(weights))[0], str(weights))
    return module, contract


def _torchvision(spec: Spec, contract: InputContract) -> tuple[nn.Module, InputContract]:
    from torchvision import models

    _needs_images(spec, contract)
    names = models.list_models(module=models)
    if spec.name not in names:
        raise UnderstudyError(f"torchvision has no classifier {spec.name!r}{nearest(spec.name, names)}")
    options = dict(spec.options)
    weights = options.pop("weights", None)
    if weights is not None and Path(str(weights)).exists():
        module = _call(models.get_model, spec, spec.name, num_classes=len(contract.classes), **options)
        load_weights(module, read_weights(Path(weights))[0], str(weights))
    elif weights is not None:
        module = _call(models.get_model, spec, spec.name, weights=weights, **options)
        _replace_head(module, len(contract.classes))
        preset = models.get_weight(f"{models.get_model_weights(spec.name).__name__}.{weights}").transforms()
        contract = replace(contract, shape=(contract.shape[0], *preset.crop_size * 2))
        if contract.modality in ("", "rgb", "image"):
            contract = replace(contract, shape=(3, *contract.shape[1:]), mean=tuple(preset.mean), std=tuple(preset.std))
    else:
        module = _call(models.get_model, spec, spec.name, num_classes=len(contract.classes), **options)
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
    assert isinstance(old, nn.Linear), path
    setattr(module.get_submodule(parent), name, nn.Linear(old.in_features, classes))


def _from_code(spec: Spec, contract: InputContract, trusted: bool) -> nn.Module:
    text = f"{spec.family}:{spec.name}"
    if not trusted:
        hint = nearest(spec.family, FAMILIES) if difflib.get_close_matches(spec.family, FAMILIES, n=1) else ""
        raise UnderstudyError(
            f"{text} is code, and code is run only where you name it yourself: pass it on the command line{hint}"
        )
    try:
        function = getattr(importlib.import_module(spec.family), spec.name)
    except (ImportError, AttributeError) as error:
        raise UnderstudyError(f"{text} could not be imported: {error}") from error
    return _call(function, spec, num_classes=len(contract.classes), **spec.options)


_BUILDERS = {"mlp": _mlp, "cnn": _cnn, "cifar": _cifar, "timm": _timm, "torchvision": _torchvision}
