"""Networks from names: `mlp:1200x2?dropout=0.5`, `bit:R50x1`, `timm:resnet18`, `pkg.mod:fn`, or a weights file."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.config.text_options import check_options, hints_of, parse_options
from understudy.errors import UnderstudyError, nearest
from understudy.models.bit import NORMS, OFFICIAL_SIZE, bit
from understudy.models.bit_weights import OfficialWeights, read_official
from understudy.models.cifar import NETS
from understudy.models.contract import InputContract
from understudy.models.hub import from_hub
from understudy.models.libraries import from_timm, from_torchvision
from understudy.models.network import Network
from understudy.models.plain import MOST_LAYERS, cnn, mlp
from understudy.models.quantization import quantize
from understudy.models.reuse import add_projector
from understudy.models.spec import Spec, call
from understudy.models.weights import Weights, load_weights, read_classes, read_weights, unwrapped

FAMILIES = {
    "mlp": "mlp:1200x2?dropout=0.5      fully connected: units x layers, or 300-100; options dropout, "
    "input_dropout, batchnorm",
    "cnn": "cnn:32-64-128?depth=2       3x3 convolutions with BatchNorm, one stage per width; options depth, dropout",
    "cifar": "cifar:wrn_40_2              the networks of CIFAR-100 distillation papers: resnet8x4, vgg8, ...",
    "bit": "bit:R50x1                  Big Transfer, R26x0.5 to R152x4; options norm=gn+ws|gn|bn|bn+ws, "
    "root=imagenet|cifar; bit:PATH/BiT-M-R50x1.npz loads official weights",
    "timm": "timm:resnet18               any timm model, with its options; pretrained=true loads weights",
    "hf-hub": "hf-hub:timm/resnet18.a1_in1k   a model of the Hugging Face Hub in timm's layout, with its weights",
    "torchvision": "torchvision:mobilenet_v3_small   any torchvision classifier; weights=DEFAULT loads weights",
}

_PATHS = ("weights", "pretrained", "classes")  # options that name files


def parse_spec(text: str) -> Spec:
    """Parse a model name; option values are YAML scalars.

    >>> parse_spec("mlp:1200x2?dropout=0.5&batchnorm=true")
    Spec(family='mlp', name='1200x2', options={'dropout': 0.5, 'batchnorm': True})
    >>> str(parse_spec("timm/resnet18.a1_in1k"))
    'timm:resnet18.a1_in1k'
    """
    head, _, query = _as_family(text).partition("?")
    family, colon, name = head.partition(":")
    if not colon or not name:
        raise UnderstudyError(
            f"{text!r} is not a model: write FAMILY:NAME (families: {', '.join(FAMILIES)}), PACKAGE.MODULE:FUNCTION, "
            "or the path of a run folder or weights file"
        )
    return Spec(family, name, parse_options(query, "&,", text, as_text=_PATHS))


def _as_family(text: str) -> str:
    """`timm/NAME`, as the Hub has timm's models, as `timm:NAME`."""
    return f"timm:{text.removeprefix('timm/')}" if text.startswith("timm/") else text


def is_code(text: str) -> bool:
    """Whether a model name refers to a Python function of the user's, `pkg.mod:fn`."""
    head = text.partition("?")[0]
    return bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", head)) and head.split(":")[0] not in FAMILIES


def names_model(text: str) -> bool:
    """Whether a text is the name of a model, of a known family or a function's, and not a path that there is.

    >>> names_model("timm:resnet18?weights=w.pth"), names_model("runs/teacher")
    (True, False)
    """
    family = _as_family(text).partition("?")[0].partition(":")[0]
    return ((family in FAMILIES and ":" in _as_family(text)) or is_code(text)) and not Path(text).exists()


def build(spec: str | nn.Module, contract: InputContract, *, seed: int = 0, trust_code: bool = False) -> Network:
    """Build a network from a model name, or from a module that maps (B, *contract.shape) to logits.

    The contract has the shape, mean, std and classes of the data; without classes, a named model has an embedding
    alone. A model with its own size and normalization, as it is pre-trained or of fixed input size, keeps them.
    `pkg.mod:fn` is imported only with `trust_code`.

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
    code = parsed.family not in FAMILIES and is_code(spec)
    if not code and parsed.family not in _BUILDERS:
        raise UnderstudyError(f"unknown model family {parsed.family!r}{nearest(parsed.family, FAMILIES)}")
    projector = parsed.options.pop("projector", None)
    parsed, file, classes = (parsed, None, None) if code else _files(parsed)
    wanted = contract.classes
    if classes is not None:
        contract = replace(contract, classes=classes)
    named = bool(contract.classes) or code or _official_file(parsed) is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if code:
            network = _from_code(parsed, contract, trust_code)
        else:  # without classes, there is one at first, to find what its classifier reads
            first = contract if named else replace(contract, classes=("",))
            network = _BUILDERS[parsed.family](parsed, first)
    network.spec = network.spec or spec
    if not named:
        network.select_classes([], ())
        network.head_kept = False
    if file is not None:
        _load_whole(network, file)
    if projector is not None:
        add_projector(network, str(projector))
    if wanted and network.classes != wanted:
        if sorted(network.classes) != sorted(wanted):
            raise UnderstudyError(
                f"{parsed.options.get('classes', spec)} names {len(network.classes)} classes, and the data has "
                f"{len(wanted)} others; list the classes of the data, in the order of the logits"
            )
        network.reorder_classes(wanted)
        network.init_from += ", its classes put into the order of the data"
    return network


def _files(spec: Spec) -> tuple[Spec, Path | None, tuple[str, ...] | None]:
    """A model name without the options that every family has, the weights file and the classes that they name."""
    options = dict(spec.options)
    named = options.pop("classes", None)
    if named is not None and "weights" not in options:
        raise UnderstudyError(f"classes={named} says what the weights of a file predict; add weights=FILE")
    weights = str(options.get("weights", ""))
    # torchvision's own weights have names, and official ones of Big Transfer are arrays
    other = _official_file(spec) == weights
    if not weights or other or (spec.family == "torchvision" and re.fullmatch(r"\w+", weights)):
        file = None
    else:
        file = Path(weights)
        del options["weights"]
    return replace(spec, options=options), file, None if named is None else read_classes(Path(named))


def _load_whole(network: Network, file: Path) -> None:
    """Load a weights file with the head, if the network has classes."""
    weights, own = read_weights(file), network.module.state_dict()
    state = unwrapped(weights.tensors, own)
    if not network.classes and network.head_paths:
        ours = {name: x for name, x in own.items() if name.rpartition(".")[0] in network.head_paths}
        kept = {name: x for name, x in state.items() if name.rpartition(".")[0] not in network.head_paths}
        load_weights(network.module, kept | ours, str(file))
        network.init_from = f"initialized from {weights.origin}, without a classifier"
        return
    differing = {
        name for name in own.keys() | state.keys() if name not in own or _shape(own, name) != _shape(state, name)
    }
    heads = {f"{path}.{name}" for path in network.head_paths for name in ("weight", "bias")} if differing else set()
    if differing and differing <= heads & state.keys():
        raise UnderstudyError(
            f"{file} predicts {len(state[min(differing)])} classes instead of {len(network.classes)}; with timm, write "
            "pretrained=FILE for all but the head, and train it"
        )
    load_weights(network.module, state, str(file))
    network.init_from = f"initialized from {weights.origin}, head of {len(network.classes)} classes kept"
    network.head_kept = True


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    return tuple(state[name].shape) if name in state else ()


def load_network(path: Path, *, trust_code: bool = False) -> Network:
    """Load a network from a weights file written by `Network.save`, unless it is of a module made in Python.

    Raises:
        UnderstudyError: the file is damaged, does not name its model, or names code that is not trusted.
    """
    weights = read_weights(path)
    if weights.spec is None or weights.contract is None:
        raise UnderstudyError(
            f"{path} does not name its model; pass the weights as an option of one, as in timm:resnet18?weights={path}"
        )
    if not weights.spec:
        raise UnderstudyError(f"{path} was trained from a module made in Python; build that module and load it there")
    spec = _without_files(weights.spec)
    if not is_code(spec):
        _check_size(spec, weights)
    network = build(spec, weights.contract, trust_code=trust_code)
    network.spec = weights.spec
    restore(network, weights)
    return network


def _check_size(spec: str, weights: Weights) -> None:
    """Check that weights fit a model before memory is allocated for it: a damaged file may name one of any size."""
    assert weights.contract is not None
    try:
        with torch.device("meta"):
            module = build(_without(spec, "projector"), weights.contract).module
    except (RuntimeError, NotImplementedError, TypeError, AttributeError):
        return  # a constructor that computes with its weights
    expected, found = (sum(x.numel() for x in state.values()) for state in (module.state_dict(), weights.tensors))
    if expected > 2 * found:
        raise UnderstudyError(
            f"{weights.path} does not fit the model: {spec} has {expected:,} weights, and the file {found:,}"
        )


def restore(network: Network, weights: Weights) -> None:
    """Load into a network what `Network.save` wrote: weights, class bias, input contract and ranges of activations.

    Raises:
        UnderstudyError: the weights do not fit.
    """
    assert weights.contract is not None
    network.contract = weights.contract
    if weights.int8:
        quantize(network)
    if "class_bias" in weights.tensors:
        network.class_bias = torch.zeros(len(weights.contract.classes))
    load_weights(network, weights.tensors, str(weights.path))


def start_from(path: Path, classes: tuple[str, ...], *, seed: int = 0) -> Network:
    """Load a network to continue training: with its head for the same classes, with a new one for others."""
    network = load_network(path)
    if network.classes == classes:
        network.init_from = f"initialized from {path}, head of {len(classes)} classes kept"
        network.head_kept = True
        return network
    contract = replace(network.contract, classes=classes)
    fresh = build(_without_files(network.spec), contract, seed=seed)
    fresh.contract, fresh.spec = contract, network.spec
    if network.int8:
        quantize(fresh)
    new = {f"module.{path}.{name}" for path in fresh.heads for name in ("weight", "bias")} | {"class_bias"}
    kept = {name: x for name, x in network.state_dict().items() if name not in new}
    load_weights(fresh, fresh.state_dict() | kept, str(path))
    before = len(network.classes)
    fresh.init_from = f"initialized from {path}, with a new head of {len(classes)} classes (was {before})"
    return fresh


def _without_files(spec: str) -> str:
    """A model name without the options that name files, whose weights are about to be overwritten."""
    return _without(spec, *_PATHS)


def _without(spec: str, *options: str) -> str:
    head, _, query = spec.partition("?")
    kept = [pair for pair in re.split("[&,]", query) if pair.partition("=")[0] not in options]
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


def _plain(make: Callable[..., nn.Module], spec: Spec, contract: InputContract) -> Network:
    check_options(spec.options, hints_of(make), str(spec))
    return Network(call(make, spec, _widths(spec), contract.shape, len(contract.classes), **spec.options), contract)


def _cifar(spec: Spec, contract: InputContract) -> Network:
    if spec.name not in NETS:
        raise UnderstudyError(f"the cifar family has no network {spec.name!r}{nearest(spec.name, NETS)}")
    check_options(spec.options, {}, str(spec))
    return Network(call(NETS[spec.name], spec, contract.shape[0], len(contract.classes), **spec.options), contract)


def _bit(spec: Spec, contract: InputContract) -> Network:
    """A Big Transfer model. Official weights are dropped from its spec, so that a saved network loads without them."""
    options = dict(spec.options)
    weights = spec.name if spec.name.lower().endswith(".npz") else options.pop("weights", None)
    if weights is not None:
        return _official(spec, read_official(Path(weights)), contract, options)
    contract = _bit_normalized(contract)
    return Network(call(bit, spec, spec.name, contract.shape[0], len(contract.classes), **options), contract)


def _official_file(spec: Spec) -> str | None:
    """The file of a Big Transfer model's official weights, which have a head; None where there is none."""
    named = (spec.name, str(spec.options.get("weights", "")))
    return next((name for name in named if spec.family == "bit" and name.lower().endswith(".npz")), None)


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
    network.init_from, network.head_kept = f"initialized from {official.path}, {kind}", keep_head
    return network


def _bit_normalized(contract: InputContract) -> InputContract:
    """Images in [-1, 1], as in Big Transfer; other modalities keep their normalization."""
    half = (0.5,) * contract.shape[0]
    return replace(contract, mean=half, std=half) if contract.is_image else contract


def _from_code(spec: Spec, contract: InputContract, trusted: bool) -> Network:
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
    return Network(call(function, spec, num_classes=len(contract.classes), **spec.options), contract)


_BUILDERS: dict[str, Callable[[Spec, InputContract], Network]] = {
    "mlp": partial(_plain, mlp),
    "cnn": partial(_plain, cnn),
    "cifar": _cifar,
    "bit": _bit,
    "timm": from_timm,
    "hf-hub": from_hub,
    "torchvision": from_torchvision,
}
