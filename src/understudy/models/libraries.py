"""Models of timm and torchvision, with their pre-trained weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from understudy.errors import UnderstudyError, nearest
from understudy.models.bit import use_official_eps
from understudy.models.contract import InputContract
from understudy.models.downloads import check_reachable, tensors_only
from understudy.models.heads import find_heads, new_head, possible_heads
from understudy.models.network import Network, eval_mode
from understudy.models.spec import Spec, call, check_options
from understudy.models.weights import Weights, load_weights, read_weights, unwrapped

# What may reach the libraries: sizes and regularization, but nothing that names a file, a class or a configuration.
TIMM_OPTIONS = {
    "drop_rate", "drop_path_rate", "drop_block_rate", "attn_drop_rate", "proj_drop_rate", "pos_drop_rate",
    "patch_drop_rate", "img_size", "patch_size", "window_size", "dynamic_img_size", "dynamic_img_pad",
    "strict_img_size", "output_stride", "depth", "embed_dim", "num_heads", "mlp_ratio", "qkv_bias", "qk_norm",
    "init_values", "ls_init_value", "class_token", "reg_tokens", "pos_embed", "no_embed_class", "fc_norm",
    "final_norm", "pre_norm", "global_pool", "act_layer", "norm_layer", "aa_layer", "stem_type", "stem_width",
    "base_width", "cardinality", "avg_down", "zero_init_last", "head_init_scale", "conv_mlp", "use_grn",
    "bn_momentum", "bn_eps", "bn_tf", "pad_type",
}  # fmt: skip
_TORCHVISION_OPTIONS = {
    "dropout", "attention_dropout", "stochastic_depth_prob", "zero_init_residual", "groups", "width_per_group",
    "width_mult", "reduced_tail", "dilated", "growth_rate", "drop_rate", "memory_efficient", "image_size",
    "transform_input",
}  # fmt: skip
_FROM_DATA = {
    "num_classes": "the number of classes is that of the data, so leave it out",
    "in_chans": "the number of channels is that of the data, so leave it out",
    "features_only": "a network here ends in logits, and its features are tapped with --student-taps or --teacher-taps",
    "checkpoint_path": "write weights=FILE, or pretrained=FILE for all but the head",
    "pretrained_cfg": "write weights=FILE, or pretrained=FILE for all but the head",
    "aux_logits": "auxiliary classifiers are not trained, so leave it out",
}
# For training from scratch these return the outputs of auxiliary classifiers too.
_WITH_AUXILIARY = ("googlenet", "inception_v3")


def from_timm(spec: Spec, contract: InputContract, *, trained_channels: int = 3) -> Network:
    """A timm model with its input contract.

    The option `pretrained=true` downloads weights, `pretrained=FILE` loads them from a file, with a new head for
    another number of classes. The options that are passed to timm are listed above.

    Args:
        trained_channels: of the images that the weights were trained on.
    """
    import timm
    from timm.data.config import resolve_model_data_config

    options = dict(spec.options)
    pretrained = options.pop("pretrained", False)
    file = Path(str(pretrained)) if pretrained not in (True, False, None) else None
    check_options(replace(spec, options=options), TIMM_OPTIONS, _FROM_DATA)
    _check_timm_name(spec)
    overlay, advice = _timm_weights(spec) if pretrained is True else (None, "")
    # for other modalities timm adapts the first layer to their number of channels
    original = bool(pretrained) and contract.is_image
    channels = trained_channels if original else contract.shape[0]
    sizes = {"num_classes": len(contract.classes), "in_chans": channels}
    with tensors_only(spec, advice):
        module = call(
            timm.create_model, spec, spec.name, pretrained=pretrained is True, pretrained_cfg_overlay=overlay, **sizes,
            **options,
        )  # fmt: skip
    config = resolve_model_data_config(module)
    pretrained_cfg: dict[str, Any] = getattr(module, "pretrained_cfg", {})
    size = tuple(config["input_size"][1:])
    if "img_size" in options:
        size = (options["img_size"],) * 2
    if pretrained:
        contract = replace(contract, shape=(channels, *size), interpolation=_interpolation(config["interpolation"]))
        if original:
            mean, std = (tuple(config[key])[:channels] for key in ("mean", "std"))
            contract = replace(contract, mean=mean, std=std)
    elif config.get("fixed_input_size") or pretrained_cfg.get("fixed_input_size"):
        contract = replace(contract, shape=(channels, *size))
    network = Network(module, contract)
    kept = pretrained_cfg.get("num_classes") == len(contract.classes)
    if file is not None:
        kept = _load_pretrained(network, read_weights(file), pretrained_cfg.get("first_conv"))
    if spec.name.startswith("resnetv2_") and "_bit" in spec.name:
        use_official_eps(module)
        if not pretrained or not kept:
            network.zero_heads()
    network.head_kept = bool(pretrained) and kept
    return network


def _interpolation(name: str) -> Literal["bilinear", "bicubic"]:
    """The library's interpolation for our contract; others, such as "random" or "lanczos", become bilinear."""
    return "bicubic" if name == "bicubic" else "bilinear"


def _check_timm_name(spec: Spec) -> None:
    import timm
    from timm.models import get_pretrained_cfg

    architecture, _, tag = spec.name.partition(".")
    if not timm.is_model(architecture):
        raise UnderstudyError(f"timm has no model {spec.name!r}{nearest(spec.name, timm.list_models())}")
    try:
        get_pretrained_cfg(spec.name)
    except RuntimeError:
        known = timm.list_pretrained(f"{architecture}.*")
        raise UnderstudyError(f"timm has no weights {tag!r} for {architecture}{nearest(spec.name, known)}") from None


def _timm_weights(spec: Spec) -> tuple[dict[str, Any] | None, str]:
    """Where timm finds a model's weights, if they were downloaded before, and how to get them by hand.

    Raises:
        UnderstudyError: there are none, or they would have to be downloaded and their server cannot be reached.
    """
    import timm
    from huggingface_hub import constants, try_to_load_from_cache
    from timm.models import get_pretrained_cfg

    cfg: Any = get_pretrained_cfg(spec.name)
    if cfg is None or not cfg.has_weights:
        known = timm.list_pretrained(f"{spec.name.partition('.')[0]}.*")
        others = f"it has {', '.join(known)}" if known else "run understudy models for the names of other models"
        raise UnderstudyError(f"timm has no pre-trained weights for {spec.name}; {others}")
    if not cfg.hf_hub_id:
        return None, _downloaded(cfg.url, spec)
    repository, _, revision = cfg.hf_hub_id.partition("@")
    file = f"{spec}?pretrained=PATH/model.safetensors"
    advice = f"on another machine, run hf download {cfg.hf_hub_id}, and load the file as {file}"
    for name in (cfg.hf_hub_filename,) if cfg.hf_hub_filename else ("model.safetensors", "pytorch_model.bin"):
        cached = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(cached, str):
            return None if cfg.custom_load else {"file": cached}, advice
    if not constants.HF_HUB_OFFLINE:  # else the library says at once that it is not there
        check_reachable(f"{constants.ENDPOINT}/{repository}/resolve/main/config.json", spec, advice)
    return None, advice


def _downloaded(url: str, spec: Spec) -> str:
    """How to get weights by hand that torch.hub downloads; raises if they are not there and cannot be downloaded."""
    cache = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    advice = f"download {url} on another machine and copy it to {cache}"
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)  # so that it can be copied there
        check_reachable(url, spec, advice)
    return advice


def _load_pretrained(network: Network, weights: Weights, first_conv: str | None) -> bool:
    """Load weights strictly, except for heads of other classes; adapt the first convolution to the input channels.

    Returns:
        Whether the heads were kept.
    """
    from timm.models import adapt_input_conv

    own = network.module.state_dict()
    state = unwrapped(weights.tensors, own)
    state = {name: _resampled(network.module, x, own[name]) if name == "pos_embed" and name in own else x
             for name, x in state.items()}  # fmt: skip
    heads = {f"{path}.{name}": x for path, head in network.heads.items() for name, x in head.state_dict().items()}
    kept = all(name in state and state[name].shape == x.shape for name, x in heads.items())
    if not kept:
        state = {name: x for name, x in state.items() if name.rpartition(".")[0] not in network.heads} | heads
    kernel = f"{first_conv}.weight"
    if kernel in own and kernel in state and own[kernel].shape[1] != state[kernel].shape[1]:
        state = state | {kernel: adapt_input_conv(own[kernel].shape[1], state[kernel])}
    load_weights(network.module, state, str(weights.path))
    classes = len(network.classes)
    network.init_from = f"initialized from {weights.origin}, " + (
        f"head of {classes} classes kept" if kept else f"with a new head of {classes} classes"
    )
    return kept


def _resampled(module: Any, given: Tensor, own: Tensor) -> Tensor:
    """Position embeddings (1, T, D) of a vision transformer for the grid of another image size."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    grid = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    if given.shape == own.shape or given.dim() != 3 or grid is None:
        return given
    prefix = 0 if getattr(module, "no_embed_class", False) else getattr(module, "num_prefix_tokens", 1)
    return resample_abs_pos_embed(given.float(), list(grid), num_prefix_tokens=prefix)


def from_torchvision(spec: Spec, contract: InputContract) -> Network:
    """A torchvision classifier with its input contract.

    The option `weights` names pre-trained weights of torchvision, which are downloaded. The options that are passed to
    torchvision are listed above.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if spec.name not in names:
        raise UnderstudyError(f"torchvision has no classifier {spec.name!r}{nearest(spec.name, names)}")
    options = dict(spec.options)
    weights = options.pop("weights", None)
    check_options(replace(spec, options=options), _TORCHVISION_OPTIONS, _FROM_DATA)
    if spec.name in _WITH_AUXILIARY:
        options |= {"aux_logits": False, "init_weights": weights is None}
    if weights is None:
        module = call(models.get_model, spec, spec.name, num_classes=len(contract.classes), **options)
    else:
        known = models.get_model_weights(spec.name).__members__
        if weights not in known:
            raise UnderstudyError(
                f"{spec} has no weights {weights!r}, and there is no such file{nearest(str(weights), known)}"
            )
        with tensors_only(spec, _downloaded(known[str(weights)].url, spec)):
            module = call(models.get_model, spec, spec.name, weights=weights, **options)
        preset = known[str(weights)].transforms()
        shape = (contract.shape[0], *preset.crop_size * 2)
        contract = replace(contract, shape=shape, interpolation=_interpolation(preset.interpolation.value))
        if contract.is_image:
            contract = replace(contract, shape=(3, *contract.shape[1:]), mean=tuple(preset.mean), std=tuple(preset.std))
        if len(contract.classes) != len(known[str(weights)].meta["categories"]):
            _replace_heads(module, len(contract.classes), torch.zeros(1, 3, *contract.shape[1:]))
    if contract.shape[0] == 1:
        # torchvision's models take three channels; the input contract repeats a single one
        contract = replace(contract, shape=(3, *contract.shape[1:]), mean=contract.mean * 3, std=contract.std * 3)
    elif contract.shape[0] != 3:
        _replace_stem(module, contract.shape[0])
    return Network(module, contract)


def _replace_stem(module: nn.Module, channels: int) -> None:
    """Adapt the first convolution to a number of input channels, as timm does."""
    from timm.models import adapt_input_conv

    old = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        old.weight = nn.Parameter(adapt_input_conv(channels, old.weight))
    old.in_channels = channels


def _replace_heads(module: nn.Module, classes: int, inputs: Tensor) -> None:
    with eval_mode(module):
        paths = find_heads(module, inputs)
    for path in paths:
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, new_head(possible_heads(module)[path], classes))
