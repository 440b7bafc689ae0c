"""A module with its input contract, taps and weights file: the unit that is trained, distilled and saved."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from understudy.errors import UnderstudyError, nearest
from understudy.files import write_whole
from understudy.models.contract import InputContract, prepare_inputs
from understudy.models.dropout import replace_dropouts, seed_dropouts
from understudy.models.stages import channels_first, find_head, stages
from understudy.signals import Batch, Shapes, Signals


class Network(nn.Module):
    """A module with its input contract and taps: `network(batch) -> Signals`.

    Selecting a modality, resizing, channel conversion and normalization happen here, not in the data, so that a teacher
    and a student get the same view of a sample, each in its own modality, resolution and normalization. The module maps
    (B, *contract.shape) to logits (B, len(contract.classes)); `spec` is its model name, "" if it was made in Python.
    """

    mean: Tensor
    std: Tensor
    class_bias: Tensor | None

    def __init__(self, module: nn.Module, contract: InputContract, spec: str = "") -> None:
        super().__init__()
        self.module, self.contract, self.spec = module, contract, spec
        self.init_from = ""  # describes where the initial weights come from
        self.frozen = False
        self.full_precision = False  # float32 under autocast too
        self.dropouts = replace_dropouts(module)
        self.dropout_seed = 0
        shape = (-1, 1, 1) if len(contract.shape) == 3 else (-1,)
        device = next((weights.device for weights in module.parameters()), None)
        self.register_buffer("mean", torch.tensor(contract.mean, device=device).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(contract.std, device=device).view(shape), persistent=False)
        self.register_buffer("class_bias", None)
        self.signals: frozenset[str] = frozenset()
        self._watched: dict[str, Tensor] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    @property
    def classes(self) -> tuple[str, ...]:
        return self.contract.classes

    def freeze(self) -> Network:
        """Freeze everything below the classifier: no gradients, and eval mode even in training."""
        self.frozen = True
        self.module.requires_grad_(False).get_submodule(find_head(self.module)).requires_grad_(True)
        return self

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        self.module.train(mode and not self.frozen)
        return self

    def watch(self, signals: Iterable[str]) -> Network:
        """Set which signals a forward pass returns besides the logits, replacing those set before.

        They are "embedding", the input of the classifier, and paths of layers, as in `named_modules()`, whose outputs
        become `Signals.features`.
        """
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._watched = [], {}
        self.signals = frozenset(signals) - {"logits"}
        modules = dict(self.module.named_modules())
        for name in sorted(self.signals):
            if name == "embedding":
                head = modules[find_head(self.module)]
                self._hooks.append(head.register_forward_pre_hook(self._keep_embedding))
            elif name in modules:
                self._hooks.append(modules[name].register_forward_hook(self._output_keeper(name)))
            else:
                raise UnderstudyError(f"{self.spec or 'the module'} has no layer {name!r}{_layers_like(name, modules)}")
        return self

    def _keep_embedding(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._watched["embedding"] = args[0].flatten(1)

    def _output_keeper(self, name: str) -> Any:
        declared_last = getattr(self.module, "output_fmt", "") == "NHWC"  # set by timm

        def keep(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
            # a copy, as the next layer may work in place (`relu_`, `out += shortcut`)
            self._watched[name] = (
                channels_first(output.clone(), self.contract.shape, declared_last=declared_last)
                if isinstance(output, Tensor)
                else output
            )

        return keep

    def shapes(self, taps: Sequence[str] | None = None) -> Shapes:
        """The shapes of the network's signals, measured in a forward pass that changes nothing.

        `features` are in the order in which the layers ran. Default taps are the ends of the stages (see `stages`).
        """
        with eval_mode(self), torch.inference_mode():
            blank = torch.zeros(1, *self.contract.source_shape, dtype=self.mean.dtype, device=self.mean.device)
            if taps is None:
                taps = stages(self.module, self.preprocess(blank))
            watched = self.signals
            try:
                signals = self.watch({"embedding", *taps})(blank)
            finally:
                self.watch(watched)
        assert signals.embedding is not None
        for tap in taps:
            if not isinstance(signals.features.get(tap), Tensor):
                raise UnderstudyError(f"layer {tap!r} of {self.spec or 'the module'} outputs no tensor; tap another")
        features = {tap: tuple(x.shape[1:]) for tap, x in signals.features.items()}
        return Shapes(signals.logits.shape[1], signals.embedding.shape[1], features)

    def accepts_size(self, size: int) -> bool:
        """Whether the network runs on images of size x size pixels; other sizes than its own are tried."""
        contract = self.contract
        if contract.shape[1:] == (size, size):
            return True
        self.contract = replace(contract, shape=(contract.shape[0], size, size))
        try:
            self.shapes(())
        except (RuntimeError, AssertionError):  # raised by networks of a fixed input size
            return False
        finally:
            self.contract = contract
        return True

    def set_input_size(self, size: int) -> Network:
        """Take images squashed to size x size pixels, or to the current size if the network accepts no other.

        As training views are, they are resized without a center crop, by bicubic interpolation.
        """
        contract = self.contract
        shape = (contract.shape[0], size, size) if self.accepts_size(size) else contract.shape
        self.contract = replace(contract, shape=shape, crop_mode="squash", interpolation="bicubic")
        return self

    def preprocess(self, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
        """A batch's inputs as the module expects them: modality, channels, size and normalization."""
        return (prepare_inputs(inputs, self.contract, self.spec or "the network") - self.mean) / self.std

    def forward(self, batch: Batch | Tensor) -> Signals:
        inputs = batch.inputs if isinstance(batch, Batch) else batch
        if self.training and self.dropouts:
            seed_dropouts(self.dropouts, self.dropout_seed, batch.view if isinstance(batch, Batch) else None)
        with torch.autocast(self.mean.device.type, enabled=False) if self.full_precision else nullcontext():
            logits = self.module(self.preprocess(inputs))
        if self.class_bias is not None:
            logits = logits + self.class_bias
        watched, self._watched = self._watched, {}
        return Signals(logits, watched.pop("embedding", None), watched)

    def save(self, path: Path) -> None:
        """Write weights, contract and spec to a safetensors file, atomically."""
        metadata = {"spec": self.spec, "contract": asdict(self.contract)}
        tensors = {name: x.detach().cpu().contiguous() for name, x in self.state_dict().items()}
        write_whole(path, save(tensors, {"understudy": json.dumps(metadata)}))

    def scale_logits(self, factor: float) -> None:
        """Multiply the logits by a factor, through the weights of the classifier."""
        with torch.no_grad():
            for weights in self.module.get_submodule(find_head(self.module)).parameters():
                weights.mul_(factor)
        if self.class_bias is not None:
            self.class_bias = self.class_bias * factor

    def set_class_bias(self, bias: Tensor) -> None:
        """Add (C,) to the logits, on top of any class bias set before; it is saved with the weights."""
        assert bias.shape == (len(self.classes),), bias.shape
        previous = 0.0 if self.class_bias is None else self.class_bias
        self.class_bias = bias.to(self.mean) + previous


def to_channels_last(module: nn.Module, device: torch.device | str) -> None:
    """Move a module to a device, in place, in channels-last memory format where convolutions are faster with it.

    Outputs of convolutions are then channels-last too, whatever their inputs are. No value changes, nor any file.
    """
    last = torch.device(device).type in ("cpu", "cuda")
    memory_format = torch.channels_last if last else torch.preserve_format
    module.to(device, memory_format=memory_format)  # type: ignore[call-overload]  # missing in torch's stubs


@contextmanager
def eval_mode(model: object) -> Iterator[None]:
    """Put a module, if it is one, in eval mode within the block, and restore the mode of each submodule after it.

    >>> net = nn.Sequential(nn.Dropout(), nn.Linear(2, 2).eval())
    >>> with eval_mode(net):
    ...     net[0].training
    False
    >>> [layer.training for layer in net]
    [True, False]
    """
    modes = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _layers_like(name: str, paths: Iterable[str]) -> str:
    """The closest of the given layer paths, or a list of them: of a large network, the outer ones."""
    known = [path for path in paths if path]
    outer = [path for path in known if path.count(".") < 2]
    close = nearest(name, known) if difflib.get_close_matches(name, known, n=1) else ""
    return f"{close}{'' if close else ';'} there are {', '.join(known if len(known) <= 40 else outer[:40])}" + (
        ", and more inside them" if len(known) > 40 else ""
    )


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a weights file and the metadata that `Network.save` wrote, {} in other files.

    Pickled objects are never run.
    """
    if path.suffix == ".npz":
        raise UnderstudyError(f"{path} is a NumPy archive; official weights of Big Transfer are loaded as bit:{path}")
    try:
        if path.suffix in (".pth", ".pt", ".bin"):
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state.get("model", state))
            if not all(isinstance(x, Tensor) for x in state.values()):
                raise UnderstudyError(f"{path} holds more than tensors; save only its state_dict()")
            return state, {}
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get("understudy", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except FileNotFoundError:
        raise UnderstudyError(f"there is no weights file {path}") from None
    except UnderstudyError:
        raise
    except SafetensorError as error:
        raise UnderstudyError(f"{path} is not a complete safetensors file ({error})") from None
    except Exception as error:  # torch raises several types for pickled code and for damaged files
        raise UnderstudyError(
            f"{path} could not be loaded: it is damaged or holds pickled objects, which are never run; "
            f"save its state_dict() as safetensors ({type(error).__name__})"
        ) from None


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict strictly; an error names `source` and the first keys that differ, or are not finite."""
    check_match(module.state_dict(), state, source)
    for name, x in state.items():
        if not bool(torch.isfinite(x).all()):
            raise UnderstudyError(f"{source} is damaged: {name} has weights that are not finite; train it again")
    module.load_state_dict(state)


def check_match(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise unless `state` has exactly the keys and shapes of `expected`."""
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is unexpected" for name in state if name not in expected]
    problems += [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(x.shape)}"
        for name, x in expected.items()
        if name in state and state[name].shape != x.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UnderstudyError(f"{source} does not fit the model: {'; '.join(problems[:3])}{more}")
