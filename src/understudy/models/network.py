"""A module together with what it must be fed and what it can tell: the unit that is trained, taught and saved."""

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
from understudy.models.contract import InputContract, prepared
from understudy.models.dropout import count_dropouts, seed_dropouts
from understudy.models.stages import channels_first, find_head, stages
from understudy.signals import Batch, Shapes, Signals


class Network(nn.Module):
    """A module with its input contract and its taps: `network(batch) -> Signals`.

    Choosing a modality, resizing, channel conversion and normalising happen here, never in the data, so a teacher and
    a student read the same view of the same sample, each in its own modality, resolution and scale.

    Args:
        module: maps (B, *contract.shape) to logits (B, len(contract.classes)).
        contract: what the module must be fed.
        spec: the text that `build` made the module from; "" for a module made by hand.
    """

    mean: Tensor
    std: Tensor
    class_bias: Tensor | None

    def __init__(self, module: nn.Module, contract: InputContract, spec: str = "") -> None:
        super().__init__()
        self.module, self.contract, self.spec = module, contract, spec
        self.began = ""  # what its weights are from, in words
        self.frozen = False
        self.full_precision = False  # float32 under autocast too
        self.dropouts = count_dropouts(module)
        self.noise = 0  # the member's seed for its dropout masks
        shape = (-1, 1, 1) if len(contract.shape) == 3 else (-1,)
        place = next((weights.device for weights in module.parameters()), None)  # a module from Python lies anywhere
        self.register_buffer("mean", torch.tensor(contract.mean, device=place).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(contract.std, device=place).view(shape), persistent=False)
        self.register_buffer("class_bias", None)
        self.signals: frozenset[str] = frozenset()
        self._watched: dict[str, Tensor] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    @property
    def classes(self) -> tuple[str, ...]:
        return self.contract.classes

    def freeze(self) -> Network:
        """Train the classifier alone from now on: all below it is as in eval mode, and does not change."""
        self.frozen = True
        self.module.requires_grad_(False).get_submodule(find_head(self.module)).requires_grad_(True)
        return self

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        self.module.train(mode and not self.frozen)
        return self

    def watch(self, signals: Iterable[str]) -> Network:
        """Fill these signals in from now on: "embedding", or module paths to tap; "logits" always are."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._watched = [], {}
        self.signals = frozenset(signals) - {"logits"}
        modules = dict(self.module.named_modules())
        for name in sorted(self.signals):
            if name == "embedding":
                head = modules[find_head(self.module)]
                self._hooks.append(head.register_forward_pre_hook(self._keep_input))
            elif name in modules:
                self._hooks.append(modules[name].register_forward_hook(self._keeper(name)))
            else:
                raise UnderstudyError(f"{self.spec or 'the module'} has no layer {name!r}{_layers_like(name, modules)}")
        return self

    def _keep_input(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._watched["embedding"] = args[0].flatten(1)

    def _keeper(self, name: str) -> Any:
        last = getattr(self.module, "output_fmt", "") == "NHWC"  # timm's word for it

        def keep(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
            # a copy, as many nets go on in place (`relu_`, `out += shortcut`) and would write over what was tapped
            self._watched[name] = (
                channels_first(output.clone(), self.contract.shape, declared_last=last)
                if isinstance(output, Tensor)
                else output
            )

        return keep

    def shapes(self, taps: Sequence[str] | None = None) -> Shapes:
        """The shapes of its signals, measured by one forward pass that leaves no trace.

        Args:
            taps: paths of layers; None takes the ends of the net's stages (see `stages`).

        Returns:
            `features` are in the order in which the taps ran, from the input to the output.
        """
        with at_rest(self), torch.inference_mode():
            blank = torch.zeros(1, *self.contract.source_shape, dtype=self.mean.dtype, device=self.mean.device)
            if taps is None:
                taps = stages(self.module, self.prepare(blank))
            watched = self.signals
            try:
                signals = self.watch({"embedding", *taps})(blank)
            finally:
                self.watch(watched)
        assert signals.embedding is not None
        for tap in taps:
            if not isinstance(signals.features.get(tap), Tensor):
                raise UnderstudyError(f"layer {tap!r} of {self.spec or 'the module'} puts out no tensor to tap")
        features = {tap: tuple(x.shape[1:]) for tap, x in signals.features.items()}
        return Shapes(signals.logits.shape[1], signals.embedding.shape[1], features)

    def reads(self, side: int) -> bool:
        """Whether it can read images of `side` pixels a side, tried with a blank one where they are not its own."""
        own = self.contract
        if own.shape[1:] == (side, side):
            return True
        self.contract = replace(own, shape=(own.shape[0], side, side))
        try:
            self.shapes(())
        except (RuntimeError, AssertionError):  # what nets of fixed size raise, each in its own way
            return False
        finally:
            self.contract = own
        return True

    def feed(self, side: int) -> Network:
        """Read whole images brought to `side` pixels a side from now on; to its own size, if it can read no other.

        They are brought there as the views that it learns from are.
        """
        own = self.contract
        shape = (own.shape[0], side, side) if self.reads(side) else own.shape
        self.contract = replace(own, shape=shape, fit="whole", interpolation="bicubic")
        return self

    def prepare(self, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
        """A batch's inputs as the module wants them: modality, channels, size, scale."""
        return (prepared(inputs, self.contract, self.spec or "the network") - self.mean) / self.std

    def forward(self, batch: Batch | Tensor) -> Signals:
        inputs = batch.inputs if isinstance(batch, Batch) else batch
        if self.training and self.dropouts:
            seed_dropouts(self.dropouts, self.noise, batch.view if isinstance(batch, Batch) else None)
        with torch.autocast(self.mean.device.type, enabled=False) if self.full_precision else nullcontext():
            logits = self.module(self.prepare(inputs))
        if self.class_bias is not None:
            logits = logits + self.class_bias
        watched, self._watched = self._watched, {}
        return Signals(logits, watched.pop("embedding", None), watched)

    def save(self, path: Path) -> None:
        """Write weights, contract and spec as one safetensors file, whole or not at all."""
        facts = {"spec": self.spec, "contract": asdict(self.contract)}
        tensors = {name: x.detach().cpu().contiguous() for name, x in self.state_dict().items()}
        write_whole(path, save(tensors, {"understudy": json.dumps(facts)}))

    def scale_logits(self, by: float) -> None:
        """Multiply the logits from now on, by the weights of the head."""
        with torch.no_grad():
            for weights in self.module.get_submodule(find_head(self.module)).parameters():
                weights.mul_(by)
        if self.class_bias is not None:
            self.class_bias = self.class_bias * by

    def set_class_bias(self, bias: Tensor) -> None:
        """Add (C,) to the logits from now on; saved with the weights."""
        assert bias.shape == (len(self.classes),), bias.shape
        previous = 0.0 if self.class_bias is None else self.class_bias
        self.class_bias = bias.to(self.mean) + previous


def laid_out(module: nn.Module, device: torch.device | str) -> None:
    """Move a module to a device, in place, with its kernels' channels last where convolutions run faster so.

    What convolutions put out then has its channels last too, whatever their inputs have. No value or file changes.
    """
    last = torch.device(device).type in ("cpu", "cuda")
    layout = torch.channels_last if last else torch.preserve_format
    module.to(device, memory_format=layout)  # type: ignore[call-overload]  # torch's stubs lack this one


def _layers_like(name: str, paths: Iterable[str]) -> str:
    """The nearest of some layers' paths, and those that there are: of a large net, the outer ones."""
    known = [path for path in paths if path]
    outer = [path for path in known if path.count(".") < 2]
    close = nearest(name, known) if difflib.get_close_matches(name, known, n=1) else ""
    return f"{close}{'' if close else ';'} there are {', '.join(known if len(known) <= 40 else outer[:40])}" + (
        ", and more inside them" if len(known) > 40 else ""
    )


@contextmanager
def at_rest(network: Network) -> Iterator[None]:
    """In eval mode inside; outside, every layer has the mode it had, also where some were frozen on purpose."""
    modes = {layer: layer.training for layer in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and our own facts (spec, contract; {} in files of others) of a weights file. Nothing is unpickled."""
    if path.suffix == ".npz":
        raise UnderstudyError(
            f"{path} is an archive of arrays; Big Transfer's official weights are loaded as bit:{path}"
        )
    try:
        if path.suffix in (".pth", ".pt", ".bin"):
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state.get("model", state))
            if not all(isinstance(x, Tensor) for x in state.values()):
                raise UnderstudyError(f"{path} holds more than tensors; save its state_dict() alone")
            return state, {}
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("understudy", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except FileNotFoundError:
        raise UnderstudyError(f"there is no weights file {path}") from None
    except UnderstudyError:
        raise
    except SafetensorError as error:
        raise UnderstudyError(f"{path} is not a whole safetensors file ({error})") from None
    except Exception as error:  # torch raises several types for pickles that hold code, and for damage
        raise UnderstudyError(
            f"{path} was not read: it is damaged, or holds pickled objects, which are never run; "
            f"save its state_dict() as safetensors ({type(error).__name__})"
        ) from None


def load_weights(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Load a state dict strictly; the error names the first keys that do not fit."""
    own = module.state_dict()
    odd = [f"{name} is missing" for name in own if name not in state]
    odd += [f"{name} is not the model's" for name in state if name not in own]
    odd += [
        f"{name} is {tuple(state[name].shape)}, the model's {tuple(x.shape)}"
        for name, x in own.items()
        if name in state and state[name].shape != x.shape
    ]
    if odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise UnderstudyError(f"{where} does not fit the model: {'; '.join(odd[:3])}{more}")
    module.load_state_dict(state)
