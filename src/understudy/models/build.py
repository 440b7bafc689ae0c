"""Networks from names: `mlp:1200x2?dropout=0.5`, `bit:R50x1`, `timm:resnet18`, `pkg.mod:fn`, or a weights file."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy.config.text_options import check_options, hints_of, parse_options
from understudy.errors import UnderstudyError, nearest
from understudy.models.bit import NORMS, OFFICIAL_SIZE, bit
from understudy.models.bit_weights import OfficialWeights, read_official
from understudy.models.cifar import NETS
from understudy.models.contract import InputContract
from understudy.models.libraries import from_timm, from_torchvision
from understudy.models.network import Network, load_weights, read_weights
from understudy.models.plain import MOST_LAYERS, cnn, mlp
from understudy.models.spec import Spec, call
from understudy.models.stages import find_head

FAMILIES = {
    "mlp": "mlp:1200x2?dropout=0.5      fully connected: units x layers, or 300-100; options dropout, "
    "input_dropout, batchnorm",
    "cnn": "cnn:32-64-128?depth=2       3x3 convolutions with BatchNorm, one stage per width; options depth, dropout",
    "cifar": "cifar:wrn_40_2              the networks of CIFAR-100 distillation papers: resnet8x4, vgg8, ...",
    "bit": "bit:R50x1                  Big Transfer, R26x0.5 to R152x4; options norm=gn+ws|gn|bn|bn+ws, "
    "root=imagenet|cifar; bit:PATH/BiT-M-R50x1.npz loads official weights",
    "timm": "timm:resnet18               any timm model, with its options; pretrained=true loads weights",
    "torchvision": "torchvision:mobilenet_v3_small   any torchvision classifier; weights=DEFAULT loads weights",
}


def parse_spec(text: str) -> Spec:
    """Parse a model name; option values are YAML scalars.

    >>> parse_spec("mlp:1200x2?dropout=0.5&batchnorm=true")
    Spec(family='mlp', name='1200x2', options={'dropout': 0.5, 'batchnorm': True})
    """
    head, _, query = text.partition("?")
    family, colon, name = head.partition(":")
    if not colon or not name:
        raise UnderstudyError(
            f"{text!r} is not a model: write FAMILY:NAME (families: {', '.join(FAMILIES)}), PACKAGE.MODULE:FUNCTION, "
            "or the path of a run folder or weights file"
        )
    return Spec(family, name, parse_options(query, "&,", text))


def is_code(text: str) -> bool:
    """Whether a model name refers to a Python function of the user's, `pkg.mod:fn`."""
    head = text.partition("?")[0]
    return bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", head)) and head.split(":")[0] not in FAMILIES


def build(spec: str | nn.Module, contract: InputContract, *, seed: int = 0, trust_code: bool = False) -> Network:
    """Build a network from a model name, or from a module that maps (B, *contract.shape) to logits.

    The contract has the shape, mean, std and classes of the data. A model with its own size and normalization, as it is
    pre-trained or of fixed input size, keeps them. `pkg.mod:fn` is imported only with `trust_code`.

    >>> contract = InputContract((1, 28, 28), (0.13,), (0.31,), tuple("0123456789"))
    >>> network = build("cnn:8-16", contract, seed=1)
    >>> network(torch.rand(5, 1, 28, 28)).logits.shape
    torch.Size([5, 10])
    """
    if isinstance(spec, nn.Module):
        return spec if isinstance(spec, Network) else Network(spec, contract)
    parsed = parse_spec(spec)
    if parsed.family in FAMILIES and parsed.family != "mlp" and len(contract.shape) != 3:
        raise UnderstudyError(f"{parsed} expects images, but the data consists of vectors of {contract.shape[0]}")
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
    """Load a network from a weights file written by `Network.save`, unless it is of a module made in Python."""
    state, metadata = read_weights(path)
    if not metadata:
        raise UnderstudyError(
            f"{path} does not name its model; pass the weights as an option of one, as in timm:resnet18?weights={path}"
        )
    try:
        contract = InputContract.from_json(metadata["contract"])
    except (KeyError, TypeError):
        raise UnderstudyError(f"{path} was written by another version of understudy; train the network again") from None
    if not metadata["spec"]:
        raise UnderstudyError(f"{path} was trained from a module made in Python; build that module and load it there")
    network = build(_without_weights(metadata["spec"]), contract, trust_code=trust_code)
    network.contract, network.spec = contract, metadata["spec"]
    if "class_bias" in state:
        network.class_bias = state["class_bias"]
    load_weights(network, state, str(path))
    return network


def start_from(path: Path, classes: tuple[str, ...], *, seed: int = 0) -> Network:
    """Load a network to continue training: with its head for the same classes, with a new one for others."""
    network = load_network(path)
    if network.classes == classes:
        network.init_from = f"initialized from {path}, head of {len(classes)} classes kept"
        return network
    contract = replace(network.contract, classes=classes)
    fresh = build(_without_weights(network.spec), contract, seed=seed)
    fresh.contract, fresh.spec = contract, network.spec
    head = f"module.{find_head(fresh.module)}."
    kept = {name: x for name, x in network.state_dict().items() if not name.startswith(head) and name != "class_bias"}
    load_weights(fresh, fresh.state_dict() | kept, str(path))
    before = len(network.classes)
    fresh.init_from = f"initialized from {path}, with a new head of {len(classes)} classes (was {before})"
    return fresh


def _without_weights(spec: str) -> str:
    """A model name without the options that load weights, which are about to be overwritten."""
    head, _, query = spec.partition("?")
    kept = [pair for pair in re.split("[&,]", query) if pair.partition("=")[0] not in ("pretrained", "weights")]
    return f"{head}?{'&'.join(kept)}" if any(kept) else head


def _widths(spec: Spec) -> list[int]:
    repeated = re.fullmatch(r"(\d{1,9})x(\d{1,9})", spec.name)
    if repeated:
        widths, layers = [int(repeated[1])], int(repeated[2])
    elif re.fullmatch(r"\d{1,9}(-\d{1,9})*", spec.name):
        widths, layers = [int(units) for units in spec.name.split("-")], 1
    else:
        raise UnderstudyError(
            f"{spec} is not a model: write units x layers as in {spec.family}:800x2, or each layer as in "
            f"{spec.family}:300-100"
        )
    if min(*widths, layers) < 1 or len(widths) * layers > MOST_LAYERS:
        raise UnderstudyError(f"{spec} must have 1 to {MOST_LAYERS:,} layers, each of at least 1 unit")
    return widths * layers


def _plain(make: Callable[..., nn.Module], spec: Spec, contract: InputContract) -> tuple[nn.Module, InputContract]:
    check_options(spec.options, hints_of(make), str(spec))
    return call(make, spec, _widths(spec), contract.shape, len(contract.classes), **spec.options), contract


def _cifar(spec: Spec, contract: InputContract) -> tuple[nn.Module, InputContract]:
    if spec.name not in NETS:
        raise UnderstudyError(f"the cifar family has no network {spec.name!r}{nearest(spec.name, NETS)}")
    check_options(spec.options, {}, str(spec))
    return call(NETS[spec.name], spec, contract.shape[0], len(contract.classes), **spec.options), contract


def _bit(spec: Spec, contract: InputContract, text: str) -> Network:
    """A Big Transfer model. Official weights are dropped from its spec, so that a saved network loads without them."""
    options = dict(spec.options)
    weights = spec.name if spec.name.lower().endswith(".npz") else options.pop("weights", None)
    if weights is not None and str(weights).lower().endswith(".npz"):
        return _official(spec, read_official(Path(weights)), contract, options)
    contract = _bit_normalized(contract)
    module = call(bit, spec, spec.name, contract.shape[0], len(contract.classes), **options)
    if weights is not None:
        load_weights(module, read_weights(Path(weights))[0], str(weights))
    return Network(module, contract, text)


def _official(spec: Spec, official: OfficialWeights, contract: InputContract, options: dict[str, Any]) -> Network:
    head = options.pop("head", "new" if contract.classes else "pretrained")
    if head not in ("new", "pretrained"):
        raise UnderstudyError(f"{spec} has no option head={head}; write head=pretrained, or head=new for zeros")
    if options.get("norm", NORMS[0]) != NORMS[0]:
        raise UnderstudyError(f"{official.path} has weights for norm={NORMS[0]}; leave out norm={options['norm']}")
    keep_head, known = head == "pretrained", official.classes
    classes = contract.classes or tuple(map(str, range(known)))  # the file does not name them
    if keep_head and len(classes) != known:
        raise UnderstudyError(
            f"the head of {official.path} has {known} classes, the data {len(classes)}; leave out head=pretrained"
        )
    channels = 3 if contract.is_image else contract.shape[0]
    contract = _bit_normalized(replace(contract, shape=(channels, *OFFICIAL_SIZE), classes=classes))
    if spec.name.lower().endswith(".npz"):
        spec = replace(spec, name=official.name)
    module = call(bit, spec, spec.name, contract.shape[0], len(contract.classes), **options)
    official.load(module, head=keep_head)
    network = Network(module, contract, str(spec))
    kind = f"head of {known} classes kept" if keep_head else f"with a new head of {len(classes)} classes (was {known})"
    network.init_from = f"initialized from {official.path}, {kind}"
    return network


def _bit_normalized(contract: InputContract) -> InputContract:
    """Images in [-1, 1], as in Big Transfer; other modalities keep their normalization."""
    half = (0.5,) * contract.shape[0]
    return replace(contract, mean=half, std=half) if contract.is_image else contract


def _from_code(spec: Spec, contract: InputContract, trusted: bool) -> nn.Module:
    text = f"{spec.family}:{spec.name}"
    if not trusted:
        hint = nearest(spec.family, FAMILIES) if difflib.get_close_matches(spec.family, FAMILIES, n=1) else ""
        raise UnderstudyError(
            f"{text} is code, which runs only if you name it on the command line or trust the file that names it, "
            f"with --trust-code{hint}"
        )
    try:
        function = getattr(importlib.import_module(spec.family), spec.name)
    except (ImportError, AttributeError) as error:
        raise UnderstudyError(f"{text} could not be imported: {error}") from error
    return call(function, spec, num_classes=len(contract.classes), **spec.options)


_BUILDERS: dict[str, Callable[[Spec, InputContract], tuple[nn.Module, InputContract]]] = {
    "mlp": partial(_plain, mlp),
    "cnn": partial(_plain, cnn),
    "cifar": _cifar,
    "timm": from_timm,
    "torchvision": from_torchvision,
}
