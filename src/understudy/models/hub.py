"""Models of the Hub in timm's layout: `config.json` has the architecture, `model.safetensors` the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.models.contract import InputContract
from understudy.models.libraries import TIMM_OPTIONS, from_timm
from understudy.models.network import Network
from understudy.models.spec import Spec

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def from_hub(spec: Spec, contract: InputContract) -> Network:
    """A model of the Hub with its weights, input size and normalization, and a new head for other classes.

    Its two files are downloaded once; nothing else of the repository is read.

    Raises:
        UnderstudyError: it cannot be downloaded, or is not in timm's layout.
    """
    if spec.options:
        raise UnderstudyError(f"{spec} takes no options; its configuration says what it is")
    config = _config(_downloaded(spec, CONFIG), spec)
    weights = _downloaded(spec, WEIGHTS)
    cfg: Mapping[str, Any] = config.get("pretrained_cfg", {})
    arguments = {name: value for name, value in config.get("model_args", {}).items() if name in TIMM_OPTIONS}
    named = Spec("timm", str(config["architecture"]), arguments | {"pretrained": str(weights)})
    size = tuple(map(int, cfg.get("input_size", ())))
    network = from_timm(named, contract, trained_channels=size[0] if size else 3)
    own = network.contract
    if contract.is_image and len(size) == 3 and size[0] == own.shape[0]:
        given = {key: tuple(map(float, cfg[key])) for key in ("mean", "std") if len(cfg.get(key, ())) == size[0]}
        own = replace(own, shape=size, **given)
    made = Network(network.module, own)
    made.head_kept = network.head_kept
    query = "&".join(f"{name}={value}" for name, value in arguments.items())
    made.spec = f"timm:{named.name}{f'?{query}' if query else ''}"  # what its weights files need
    made.init_from = network.init_from.replace(str(weights), str(spec))
    return made


def _downloaded(spec: Spec, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    repository, _, revision = spec.name.partition("@")
    try:
        return Path(hf_hub_download(repository, name, revision=revision or None))
    except Exception as error:  # of the network, of the Hub, of the name: of many types
        raise UnderstudyError(
            f"{name} of {spec} is not on this machine and could not be downloaded ({type(error).__name__}); check the "
            f"name, or run elsewhere: hf download {repository}"
        ) from None


def _config(path: Path, spec: Spec) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config["architecture"], str):
            return config
    except (ValueError, KeyError, TypeError):
        pass
    raise UnderstudyError(f"{spec} is not in timm's layout: its {CONFIG} names no architecture")
