"""From a name to a network: `mlp:1200x2?dropout=0.5`, `bit:R50x1`, `timm:resnet18`, `pkg.mod:fn`, a file."""

from __future__ import annotations

import difflib
import importlib
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import nn

from understudy.errors import UnderstudyError, nearest
from understudy.models.bit import NORMS, OFFICIAL_SIZE, bit
from understudy.models.bit_weights import OfficialWeights, read_official
from understudy.models.cifar import NETS
from understudy.models.cnn import cnn
from understudy.models.contract import InputContract
from understudy.models.libraries import from_timm, from_torchvision
from understudy.models.mlp import mlp
from understudy.models.network import Network, load_weights, read_weights
from understudy.models.spec import Spec, call, needs_images
from understudy.models.stages import find_head

if TYPE_CHECKING:
    from timm.models.resnetv2 import ResNetV2

FAMILIES = {
    "mlp": "mlp:1200x2?dropout=0.5      fully connected: units x layers, or 300-100; options dropout, "
    "input_dropout, batchnorm",
    "cnn": "cnn:32-64-128?depth=2       3x3 convolutions with BatchNorm, a stage a width; options depth, dropout",
    "cifar": "cifar:wrn_40_2              the nets of the CIFAR-100 distillation tables: resnet8x4, vgg8, ...",
    "bit": "bit:R50x1                  Big Transfer's nets, R26x0.5 to R152x4; options norm=gn+ws|gn|bn|bn+ws, "
    "root=imagenet|cifar; bit:PATH/BiT-M-R50x1.npz loads official weights",
    "timm": "timm:resnet18               any model of timm; options go to it, pretrained=true loads its weights",
    "torchvision": "torchvision:mobilenet_v3_small   any classifier of torchvision; weights=DEFAULT loads its weights",
}


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
        if parsed.family == "bit":
            return _bit(parsed, contract, spec)
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


def _mlp(spec: Spec, contract: InputContract) -> tuple[nn.Module, InputContract]:
    return call(mlp, spec, _widths(spec), contract.shape, len(contract.classes), **spec.options), contract


def _cnn(spec: Spec, contract: InputContract) -> tuple[nn.Module, InputContract]:
    needs_images(spec, contract)
    return call(cnn, spec, _widths(spec), contract.shape, len(contract.classes), **spec.options), contract


def _cifar(spec: Spec, contract: InputContract) -> tuple[nn.Module, InputContract]:
    needs_images(spec, contract)
    if spec.name not in NETS:
        raise UnderstudyError(f"the cifar family has no net {spec.name!r}{nearest(spec.name, NETS)}")
    return call(NETS[spec.name], spec, contract.shape[0], len(contract.classes), **spec.options), contract


def _bit(spec: Spec, contract: InputContract, text: str) -> Network:
    """A net of Big Transfer: fresh, or with official weights, whose file a network saved later does not need."""
    needs_images(spec, contract)
    options = dict(spec.options)
    weights = spec.name if spec.name.lower().endswith(".npz") else options.pop("weights", None)
    if weights is not None and str(weights).lower().endswith(".npz"):
        return _official(spec, read_official(Path(weights)), contract, options)
    contract = _in_scale(contract)
    module = _bit_net(spec, contract, options)
    if weights is not None:
        load_weights(module, read_weights(Path(weights))[0], str(weights))
    return Network(module, contract, text)


def _official(spec: Spec, official: OfficialWeights, contract: InputContract, options: dict[str, Any]) -> Network:
    head = options.pop("head", "new" if contract.classes else "own")
    if head not in ("new", "own"):
        raise UnderstudyError(
            f"{spec}: head={head} is not understood; write head=own for the file's, head=new for zeros"
        )
    if options.get("norm", NORMS[0]) != NORMS[0]:
        raise UnderstudyError(
            f"{official.path} has weights for norm={NORMS[0]} alone; leave norm={options['norm']} out"
        )
    own, found = head == "own", official.classes
    classes = contract.classes or tuple(map(str, range(found)))  # the file does not name them
    if own and len(classes) != found:
        raise UnderstudyError(
            f"the head of {official.path} knows {found} classes, the data has {len(classes)}; leave head=own out"
        )
    channels = 3 if contract.sees_images else contract.shape[0]
    contract = _in_scale(replace(contract, shape=(channels, *OFFICIAL_SIZE), classes=classes))
    if spec.name.lower().endswith(".npz"):
        spec = replace(spec, name=official.name)
    module = _bit_net(spec, contract, options)
    official.load(module, head=own)
    network = Network(module, contract, str(spec))
    network.began = f"began from {official.path}, with {'its' if own else 'a new'} head of {len(classes)} classes"
    return network


def _bit_net(spec: Spec, contract: InputContract, options: dict[str, Any]) -> ResNetV2:
    return call(bit, spec, spec.name, contract.shape[0], len(contract.classes), **options)


def _in_scale(contract: InputContract) -> InputContract:
    """Images in [-1, 1]; what is no image keeps its scale."""
    middle = (0.5,) * contract.shape[0]
    return replace(contract, mean=middle, std=middle) if contract.sees_images else contract


def _from_code(spec: Spec, contract: InputContract, trusted: bool) -> nn.Module:
    text = f"{spec.family}:{spec.name}"
    if not trusted:
        hint = nearest(spec.family, FAMILIES) if difflib.get_close_matches(spec.family, FAMILIES, n=1) else ""
        raise UnderstudyError(
            f"{text} is code, which is run only where you name it yourself, on the command line, or where --trust-code "
            f"says that you trust the file that names it{hint}"
        )
    try:
        function = getattr(importlib.import_module(spec.family), spec.name)
    except (ImportError, AttributeError) as error:
        raise UnderstudyError(f"{text} could not be imported: {error}") from error
    return call(function, spec, num_classes=len(contract.classes), **spec.options)


_BUILDERS = {"mlp": _mlp, "cnn": _cnn, "cifar": _cifar, "timm": from_timm, "torchvision": from_torchvision}
