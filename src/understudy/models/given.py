"""Pre-trained networks as they are given: with their own classes or none, normalization and size."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.models.build import build, is_code, parse_spec
from understudy.models.contract import InputContract
from understudy.models.heads import select
from understudy.models.network import Network, eval_mode
from understudy.models.spec import Spec
from understudy.models.weights import read_classes, read_weights, unwrapped

LARGEST_SIDE = 224
"""Pixels that a network's input is limited to unless another size is asked for, as for vision transformers of 518."""
_IMAGENET = 1000  # classes
_FILES = ("weights", "pretrained", "classes")


class Embedder(nn.Module):
    """A module that outputs an embedding (B, D), with a classifier of no classes behind it."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.classifier = body, select(nn.Linear(width, 1, bias=False), [])

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(x).flatten(1))


def as_given(spec: str, contract: InputContract, *, size: int | None = None, trust_code: bool = False) -> Network:
    """A pre-trained model with what it was trained with: its classes or none, its mean, std and interpolation.

    Weights with a head for as many classes as the data has were trained on such data, and keep its contract.

    Args:
        contract: of the data.
        size: side of the input in pixels; default: the model's own, at most 224 and twice the images'. Position
            embeddings of vision transformers are resampled.

    Raises:
        UnderstudyError: whatever `build` raises.
    """
    if is_code(spec):
        return with_own_classes(build(spec, contract, trust_code=trust_code))
    parsed = parse_spec(spec)
    bare = build(_named(_bare(parsed)), replace(contract, classes=()))
    outputs = _outputs(parsed, bare)
    named = parsed.options.get("classes")
    listed = None if named is None else read_classes(Path(str(named)))
    as_trained = outputs is None or 0 < outputs == len(contract.classes)
    if "weights" in parsed.options and as_trained and sorted(listed or contract.classes) == sorted(contract.classes):
        return build(spec, contract)
    classes = listed or _class_names(outputs or 0, contract.classes)
    network = build(_sized(parsed, bare, contract, size), _own_contract(parsed, replace(contract, classes=classes)))
    side = size or _side(network.contract.shape[-1], contract)
    if side != network.contract.shape[-1] and len(contract.shape) == 3 and network.accepts_size(side):
        network.contract = replace(network.contract, shape=(network.contract.shape[0], side, side))
    network.head_kept = bool(network.classes)
    said = f"{spec.partition('?')[0]} as it was trained"
    if not network.classes:
        said += ", without a classifier"
    network.init_from = f"{said}, at {network.contract.shape[-1]} pixels"
    return network


def with_own_classes(network: Network) -> Network:
    """The same network with a contract that names what it predicts: nothing if what it outputs is an embedding.

    Raises:
        UnderstudyError: it outputs neither.
    """
    with network._explained(), eval_mode(network), torch.inference_mode():
        found = network(network._blank()).logits
    if found.dim() < 2:
        raise UnderstudyError(
            f"{network.name} outputs a tensor of shape {tuple(found.shape)}, which is no embedding (B, D); wrap it so "
            "that it outputs one"
        )
    outputs = found.flatten(1).shape[1]
    if outputs == len(network.classes):
        return network
    if network.head_paths:
        network.contract = replace(network.contract, classes=tuple(map(str, range(outputs))))
        return network
    return Network(Embedder(network.module, outputs), replace(network.contract, classes=()), network.spec)


def _outputs(spec: Spec, bare: Network) -> int | None:
    """How many classes the weights have a head for; None if the model's name does not say."""
    file = spec.options.get("weights") or spec.options.get("pretrained")
    if isinstance(file, str) and Path(file).is_file():
        state = unwrapped(read_weights(Path(file)).tensors, bare.module.state_dict())
        heads = [state[f"{path}.weight"] for path in bare.head_paths if f"{path}.weight" in state]
        return len(heads[0]) if heads else 0
    if spec.family == "timm":
        return int(getattr(bare.module, "pretrained_cfg", {}).get("num_classes") or 0)
    return _IMAGENET if spec.family == "torchvision" else None


def _class_names(outputs: int, known: tuple[str, ...]) -> tuple[str, ...]:
    """Names for the outputs of a head: the data's if there are as many, ImageNet's, or numbers."""
    if outputs == len(known):
        return known
    if outputs != _IMAGENET:
        return tuple(map(str, range(outputs)))
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    return tuple(f"{info.index_to_description(i)}, {info.index_to_label_name(i)}" for i in range(outputs))


def _side(own: int, contract: InputContract) -> int:
    return min(own, LARGEST_SIDE, 2 * contract.shape[-1])


def _sized(spec: Spec, bare: Network, contract: InputContract, size: int | None) -> str:
    """The model's name with its weights for all but a head of other classes, and with the size of its input."""
    options = {name: value for name, value in spec.options.items() if name != "classes"}
    module: Any = bare.module
    if spec.family == "timm":
        options = {"pretrained" if name == "weights" else name: value for name, value in options.items()}
        config: dict[str, Any] = getattr(module, "pretrained_cfg", {})
        if config.get("fixed_input_size") and "img_size" not in options and hasattr(module, "pos_embed"):
            patch = max(getattr(module.patch_embed, "patch_size", (1,)))
            side = size or _side(config["input_size"][-1], contract)
            options["img_size"] = math.ceil(side / patch) * patch
    return _named(replace(spec, options=options))


def _own_contract(spec: Spec, contract: InputContract) -> InputContract:
    """The normalization and size of torchvision's own weights, where those of a file are of the same model."""
    file = spec.options.get("weights")
    if spec.family != "torchvision" or not contract.is_image or not isinstance(file, str) or not Path(file).is_file():
        return contract
    from torchvision.models import get_model_weights

    preset: Any = get_model_weights(spec.name).DEFAULT.transforms()  # type: ignore[attr-defined]
    return replace(
        contract, shape=(3, *preset.crop_size * 2), mean=tuple(preset.mean), std=tuple(preset.std),
        interpolation="bicubic" if preset.interpolation.value == "bicubic" else "bilinear",
    )  # fmt: skip


def _bare(spec: Spec) -> Spec:
    """The model without weights, of 224 pixels at most, as it is run to find its classifier."""
    options = {name: value for name, value in spec.options.items() if name not in _FILES}
    config = _timm_config(spec)
    if config is not None and config.fixed_input_size and "img_size" not in options:
        options |= {"img_size": LARGEST_SIDE} if config.input_size[-1] > LARGEST_SIDE else {}
    return replace(spec, options=options)


def _timm_config(spec: Spec) -> Any:
    if spec.family != "timm":
        return None
    from timm.models import get_pretrained_cfg, is_model

    return get_pretrained_cfg(spec.name) if is_model(spec.name.partition(".")[0]) else None


def _named(spec: Spec) -> str:
    """A parsed name as text again."""
    options = {name: str(value).lower() if isinstance(value, bool) else value for name, value in spec.options.items()}
    words = "&".join(f"{name}={value}" for name, value in options.items())
    return f"{spec}?{words}" if words else str(spec)
