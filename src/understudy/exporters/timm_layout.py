"""A network in timm's layout for the Hugging Face Hub: `config.json`, `model.safetensors` and a card."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor

from understudy.config.places import shown
from understudy.config.yaml import dumped
from understudy.errors import UnderstudyError
from understudy.escaping import markdown, markdown_code
from understudy.exporters.model_card import ModelCardInfo, evaluation_table, limitations
from understudy.models import Network, as_float, parse_spec

_CLOSE = 1e-4  # of the largest logit
_CARD = """from PIL import Image
import timm, torch

model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
with torch.inference_mode():
    probabilities = model(transform(Image.open("photo.jpg").convert("RGB"))[None]).softmax(1)[0]
print(model.pretrained_cfg["label_names"][probabilities.argmax()])"""


def timm_files(network: Network, info: ModelCardInfo, repository: str) -> dict[str, bytes]:
    """The files of a repository from which `timm.create_model("hf-hub:USER/NAME", pretrained=True)` makes the network.

    Raises:
        UnderstudyError: it is not a model of timm.
    """
    from safetensors.torch import save

    network = as_float(network)
    config, state = timm_config(network), _state(network)
    _check(network, config, state)
    tensors = {name: x.contiguous() for name, x in state.items()}
    return {
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
        "model.safetensors": save(tensors, {"format": "pt"}),
        "README.md": _card(info, network, repository).encode(),
    }


def timm_config(network: Network) -> dict[str, Any]:
    """What timm reads from `config.json`: the architecture, its arguments, the class names and the preprocessing."""
    spec, contract = parse_spec(network.spec) if ":" in network.spec else None, network.contract
    if spec is None or spec.family != "timm":
        raise UnderstudyError(
            f"{network.spec or 'the network'} is not a model of timm, whose layout is written; train a timm: model, "
            "or write other files with understudy export"
        )
    own = {name: value for name, value in spec.options.items() if name not in ("pretrained", "weights", "classes")}
    module: Any = network.module
    known = getattr(module, "pretrained_cfg", {})
    return {
        "architecture": spec.name.partition(".")[0],
        "num_classes": len(contract.classes),
        "num_features": int(module.num_features),
        "label_names": list(contract.classes),
        "model_args": {"in_chans": contract.shape[0], **own},
        "pretrained_cfg": {
            "tag": "understudy", "custom_load": False, "input_size": list(contract.shape),
            "fixed_input_size": bool(known.get("fixed_input_size", False)), "interpolation": contract.interpolation,
            "crop_pct": 1.0, "crop_mode": contract.crop_mode, "mean": list(contract.mean), "std": list(contract.std),
            "num_classes": len(contract.classes), "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
        },
    }  # fmt: skip


def _state(network: Network) -> dict[str, Tensor]:
    """The weights of the timm model, with the class biases in that of its classifier."""
    state = {name: x.detach().clone() for name, x in network.module.state_dict().items()}
    if network.class_bias is not None:
        biases = [f"{path}.bias" for path in network.heads]
        if len(biases) != 1 or biases[0] not in state:
            raise UnderstudyError("the classifier has no bias to add --class-bias to; train without it")
        state[biases[0]] += network.class_bias
    return state


def _check(network: Network, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Make the model as timm will, and compare."""
    import timm

    made = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"])
    made.load_state_dict(state)
    x = torch.rand(2, *network.contract.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    training = network.training
    with torch.inference_mode():
        found, wanted = made.eval()(x), network.eval().module(x)
    network.train(training)
    wanted = wanted if network.class_bias is None else wanted + network.class_bias
    difference, scale = (found - wanted).abs().max().item(), wanted.abs().max().item()
    if not difference <= _CLOSE * max(scale, 1e-6) or not math.isfinite(difference):
        raise UnderstudyError(
            f"timm's {config['architecture']} answers otherwise than the network, by up to {difference:.2g}, as it "
            "is built with other constants; export it with understudy export"
        )


def _card(info: ModelCardInfo, network: Network, repository: str) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license=info.license, library_name="timm", pipeline_tag="image-classification",
        tags=["timm", "understudy", *(["knowledge-distillation"] if info.distilled else [])],
        datasets=[info.hub] if info.hub else None,
    )  # fmt: skip
    how = "distilled from a teacher" if info.distilled else "trained"
    model, on = markdown_code(shown(info.model)), markdown(shown(info.data))
    parts = [
        f"---\n{dumped(data.to_dict())}---",
        f"# {markdown(info.name)}",
        f"{model}, {how} on {on} with Understudy.",
        "## Usage",
        f"```python\n{_CARD.format(repository=repository)}\n```",
        f"Classes, in order: {', '.join(map(markdown, network.contract.classes))}.",
    ]
    if info.facts is not None and info.facts.rows:
        parts += ["## Evaluation", evaluation_table(info.facts)]
    return "\n\n".join([*parts, "## Limitations", limitations(info)]) + "\n"
