"""A module with its input contract, taps and weights file: the unit that is trained, distilled and saved."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from understudy.errors import UnderstudyError, nearest
from understudy.files import write_whole
from understudy.models.contract import InputContract, prepare_inputs
from understudy.models.depthwise import speed_up_depthwise
from understudy.models.dropout import replace_dropouts, seed_dropouts
from understudy.models.heads import find_heads, find_pool, possible_heads, select, zero
from understudy.models.stages import activations, channels_first, stages
from understudy.objectives.cat_kd import CAMS
from understudy.objectives.features import PRE
from understudy.objectives.simkd import MAPS, Projector
from understudy.signals import Batch, Shapes, Signals


class Network(nn.Module):
    """A module with its input contract and taps: `network(batch) -> Signals`.

    Selecting a modality, resizing, channel conversion and normalization happen here, not in the data, so that a teacher
    and a student get the same view of a sample, each in its own modality, resolution and normalization. The module maps
    (B, *contract.shape) to logits (B, len(contract.classes)), (B, 0) of a network that has an embedding alone; `spec`
    is its model name, "" if it was made in Python.
    """

    mean: Tensor
    std: Tensor
    class_bias: Tensor | None

    def __init__(self, module: nn.Module, contract: InputContract, spec: str = "") -> None:
        super().__init__()
        self.module, self.contract, self.spec = module, contract, spec
        self.init_from = ""  # describes where the initial weights come from
        self.head_kept = False  # whether the classifier came with them
        self.frozen = False
        self.full_precision = False  # float32 under autocast too
        self.int8 = False  # computes as its int8 file will; see `quantize`
        self.dropouts = replace_dropouts(module)
        speed_up_depthwise(module)
        self.dropout_seed = 0
        shape = (-1, 1, 1) if len(contract.shape) == 3 else (-1,)
        device = next((weights.device for weights in module.parameters()), None)
        self.register_buffer("mean", torch.tensor(contract.mean, device=device).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(contract.std, device=device).view(shape), persistent=False)
        self.register_buffer("class_bias", None)
        self.signals: frozenset[str] = frozenset()
        self._watched: dict[str, Tensor] = {}
        self._read: dict[str, Tensor] = {}  # by the classifiers
        self._head_paths: tuple[str, ...] | None = None
        self._pool_path: str | None = None
        self._activations: dict[str, str] = {}  # path of a layer -> that of its activation, "" where there is none
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    @property
    def classes(self) -> tuple[str, ...]:
        return self.contract.classes

    @property
    def name(self) -> str:
        """The model's name, for messages."""
        return self.spec or "the module"

    @property
    def head_paths(self) -> tuple[str, ...]:
        """Paths of the classifiers, several where their logits are added or averaged; see `find_heads`."""
        if self._head_paths is None:
            with self._explained(), eval_mode(self):
                self._head_paths = find_heads(self.module, self.preprocess(self._blank()))
        return self._head_paths

    @property
    def pool_path(self) -> str:
        """Path of the layer that pools feature maps into what the one classifier reads; "" where there is none."""
        if self._pool_path is None:
            self._pool_path = ""
            if len(self.contract.shape) == 3 and len(self.head_paths) == 1:
                (head,) = self.heads.values()
                noise = torch.rand(self._blank().shape, generator=torch.Generator().manual_seed(0)).to(self.mean)
                with self._explained(), eval_mode(self), torch.no_grad():
                    self._pool_path = find_pool(self.module, self.preprocess(noise), head)
        return self._pool_path

    def forget_paths(self) -> None:
        """Look for the classifiers anew, as after layers were replaced."""
        self._head_paths = self._pool_path = None
        self._activations = {}

    @property
    def heads(self) -> dict[str, nn.Linear | nn.Conv2d]:
        """The classifiers by path.

        Raises:
            UnderstudyError: the logits come from other layers.
        """
        layers = possible_heads(self.module)
        if not self.head_paths:
            raise UnderstudyError(
                f"{self.name} has no linear classifier whose outputs are the logits; end it with a linear layer or a "
                "1x1 convolution"
            )
        return {path: layers[path] for path in self.head_paths}

    def freeze(self) -> Network:
        """Freeze everything below the classifier: no gradients, and eval mode even in training."""
        self.frozen = True
        heads = self.heads.values()
        self.module.requires_grad_(False)
        for head in heads:
            head.requires_grad_(True)
        return self

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        self.module.train(mode and not self.frozen)
        return self

    def watch(self, signals: Iterable[str]) -> Network:
        """Set which signals a forward pass returns besides the logits, replacing those set before.

        They are "embedding", the input of the classifier (of several, side by side), and paths of layers, as in
        `named_modules()`, whose outputs become `Signals.features`; so does what is pooled into the embedding, "maps",
        and the classifier at each of its positions, the class activation maps "cams". "PATH:pre" is what the activation
        reads that ends a layer or directly follows it.
        """
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._watched = [], {}
        self.signals = frozenset(signals) - {"logits"}
        modules = dict(self.module.named_modules())
        pre = {name: name.removesuffix(PRE) for name in self.signals if name.endswith(PRE)}
        self._activated(*(path for path in pre.values() if path in modules))
        for name in sorted(self.signals):
            # partial, unlike a closure, is copied together with the network
            if name == "embedding":
                for path, head in self.heads.items():
                    self._hooks.append(head.register_forward_pre_hook(partial(self._keep_input, path)))
            elif name in (MAPS, CAMS) and self.pool_path:
                keep = self._keep_maps if name == MAPS else self._keep_cams
                self._hooks.append(modules[self.pool_path].register_forward_pre_hook(keep))
            elif name in modules:
                self._hooks.append(modules[name].register_forward_hook(partial(self._keep_output, name)))
            elif path := self._activations.get(pre.get(name, "")):
                self._hooks.append(modules[path].register_forward_pre_hook(partial(self._keep_before, name)))
            else:
                raise UnderstudyError(f"{self.name} has no layer {name!r}{_layers_like(name, modules)}")
        return self

    def offers(self, signal: str) -> bool:
        """Whether a signal can be watched, besides the logits."""
        if signal in (MAPS, CAMS):
            return bool(self.pool_path)
        layers = {path for path, _ in self.module.named_modules()}
        tap = signal.removesuffix(PRE)
        return signal == "embedding" or (tap in layers and (tap == signal or self._activated(tap) == {tap}))

    def _activated(self, *taps: str) -> set[str]:
        """Those of some layers that an activation ends or directly follows; see `activations`."""
        unknown = [tap for tap in taps if tap not in self._activations]
        if unknown:
            with eval_mode(self):
                found = activations(self.module, self.preprocess(self._blank()), unknown)
            self._activations |= {tap: found.get(tap, "") for tap in unknown}
        return {tap for tap in taps if self._activations[tap]}

    def _keep_before(self, name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._keep_output(name, module, (), args[0])

    def _keep_input(self, path: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._read[path] = args[0].flatten(1)

    def _keep_maps(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._watched[MAPS] = args[0].clone()

    def _keep_cams(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        (head,) = self.heads.values()
        self._watched[CAMS] = F.conv2d(args[0], head.weight.flatten(1)[:, :, None, None], head.bias)

    @property
    def classifier(self) -> tuple[Tensor, Tensor] | None:
        """The weights (C, D) and biases (C,) with which the embedding gives the logits; None if there are several."""
        if len(self.head_paths) != 1:
            return None
        (head,) = self.heads.values()
        bias = torch.zeros(len(head.weight)).to(head.weight) if head.bias is None else head.bias.detach()
        return head.weight.detach().flatten(1), bias if self.class_bias is None else bias + self.class_bias

    def _keep_output(self, name: str, module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        declared_last = getattr(self.module, "output_fmt", "") == "NHWC"  # set by timm
        # a copy, as the next layer may work in place (`relu_`, `out += shortcut`)
        self._watched[name] = (
            channels_first(output.clone(), self.contract.shape, declared_last=declared_last)
            if isinstance(output, Tensor)
            else output
        )

    def shapes(self, taps: Sequence[str] | None = None) -> Shapes:
        """The shapes of the network's signals, measured in a forward pass that changes nothing.

        `features` are in the order in which the layers ran. Default taps are the ends of the stages (see `stages`), as
        far as there are any that output tensors; beside them `stem` is what the module declares as its `stem_paths`.
        """
        with eval_mode(self), torch.inference_mode():
            blank = self._blank()
            named = taps is not None
            stem = () if named else tuple(getattr(self.module, "stem_paths", ()))
            taps = taps if named else stages(self.module, self.preprocess(blank))
            watched = self.signals
            try:
                signals = self.watch({"embedding", *taps, *stem, *([MAPS] if self.pool_path else [])})(blank)
            finally:
                self.watch(watched)
        assert signals.embedding is not None
        for tap in taps if named else ():
            if not isinstance(signals.features.get(tap), Tensor):
                raise UnderstudyError(f"layer {tap!r} of {self.name} outputs no tensor; tap another")
        found = {tap: tuple(x.shape[1:]) for tap, x in signals.features.items() if isinstance(x, Tensor)}
        maps = found.pop(MAPS, ())
        projected = any(isinstance(part, Projector) for part in self.module.modules())
        features, stems = ({tap: shape for tap, shape in found.items() if (tap in stem) is of} for of in (False, True))
        activated = frozenset(self._activated(*features))
        classes, width = signals.logits.shape[1], signals.embedding.shape[1]
        return Shapes(classes, width, features, stems, maps, projected, activated)

    def behind(self, signals: Iterable[str]) -> list[nn.Parameter]:
        """The weights, of those that are trained, which some of the network's signals depend on."""
        weights, names, watched = [w for w in self.parameters() if w.requires_grad], set(signals), self.signals
        with eval_mode(self), torch.enable_grad():
            try:
                found = self.watch(names)(self._blank())
            finally:
                self.watch(watched)
        outputs = [*found.features.values(), found.embedding, found.logits if "logits" in names else None]
        read = [x for x in outputs if isinstance(x, Tensor) and x.requires_grad]
        if not read:
            return []
        gradients = torch.autograd.grad([x.sum() for x in read], weights, allow_unused=True)
        return [weight for weight, gradient in zip(weights, gradients, strict=True) if gradient is not None]

    def _blank(self) -> Tensor:
        """One blank sample, as a source stores it."""
        return torch.zeros(1, *self.contract.source_shape, dtype=self.mean.dtype, device=self.mean.device)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what a module raises for inputs of a size that it cannot take into advice."""
        try:
            yield
        except UnderstudyError:
            raise
        except (RuntimeError, AssertionError, TypeError, ValueError, LookupError) as fault:
            shape = "x".join(map(str, self.contract.shape))
            reason = str(fault).partition("\n")[0] or type(fault).__name__
            images = len(self.contract.shape) == 3
            advice = "choose another size with --input-size, or another model" if images else "choose another model"
            raise UnderstudyError(
                f"{self.name} cannot take {'images' if images else 'vectors'} of {shape} ({reason}); {advice}"
            ) from fault

    def check(self) -> None:
        """Run the network on one blank sample.

        Raises:
            UnderstudyError: it cannot take its input, or does not output a logit for each class.
        """
        with self._explained(), eval_mode(self), torch.inference_mode():
            logits = self(self._blank()).logits
        if logits.dim() != 2:
            raise UnderstudyError(
                f"{self.name} outputs a tensor of {logits.dim()} dimensions instead of logits (B, C); wrap it so that "
                "it does"
            )
        if self.classes and logits.shape[1] != len(self.classes):
            raise UnderstudyError(
                f"{self.name} has {logits.shape[1]} outputs for {len(self.classes)} classes; give it a head of as many"
            )

    def accepts_size(self, size: int) -> bool:
        """Whether the network runs on images of size x size pixels; other sizes than its own are tried."""
        contract = self.contract
        if contract.shape[1:] == (size, size):
            return True
        self.contract = replace(contract, shape=(contract.shape[0], size, size))
        try:
            self.check()
        except UnderstudyError:  # a network of a fixed input size
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
        return (prepare_inputs(inputs, self.contract, self.name) - self.mean) / self.std

    def forward(self, batch: Batch | Tensor) -> Signals:
        inputs = batch.inputs if isinstance(batch, Batch) else batch
        if self.training and self.dropouts:
            seed_dropouts(self.dropouts, self.dropout_seed, batch.view if isinstance(batch, Batch) else None)
        with torch.autocast(self.mean.device.type, enabled=False) if self.full_precision else nullcontext():
            logits = self.module(self.preprocess(inputs))
        if not isinstance(logits, Tensor):
            raise UnderstudyError(
                f"{self.name} outputs a {type(logits).__name__} instead of logits (B, C); wrap it so that it does"
            )
        if self.class_bias is not None:
            logits = logits + self.class_bias
        (watched, self._watched), (read, self._read) = (self._watched, {}), (self._read, {})
        embedding = torch.cat(list(read.values()), 1) if len(read) > 1 else next(iter(read.values()), None)
        return Signals(logits, embedding, watched)

    def save(self, path: Path) -> None:
        """Write weights, contract and spec to a safetensors file, atomically."""
        metadata = {"spec": self.spec, "contract": asdict(self.contract), "int8": self.int8}
        tensors = {name: x.detach().cpu().contiguous() for name, x in self.state_dict().items()}
        write_whole(path, save(tensors, {"understudy": json.dumps(metadata)}))

    def scale_logits(self, factor: float) -> None:
        """Multiply the logits by a factor, through the weights of the classifiers.

        Raises:
            UnderstudyError: the logits do not scale with these weights, as where a norm follows them.
        """
        heads, blank = self.heads.values(), self._blank()
        with eval_mode(self), torch.no_grad():
            before = self.module(self.preprocess(blank))
            for weights in (weights for head in heads for weights in head.parameters()):
                weights.mul_(factor)
            after = self.module(self.preprocess(blank))
        if not torch.allclose(after, before * factor, rtol=1e-2, atol=1e-2 * float(after.abs().max())):
            raise UnderstudyError(
                f"the logits of {self.name} do not scale with the weights of its classifier; leave out --calibrate"
            )
        if self.class_bias is not None:
            self.class_bias = self.class_bias * factor

    def zero_heads(self) -> None:
        """Set the weights and biases of the classifiers to zero."""
        for head in self.heads.values():
            zero(head)

    def reorder_classes(self, classes: tuple[str, ...]) -> None:
        """Predict the same classes in another order, by permuting the rows of the classifiers."""
        assert sorted(classes) == sorted(self.classes), classes
        self.select_classes([self.classes.index(name) for name in classes], classes)

    def select_classes(self, order: Sequence[int], classes: tuple[str, ...]) -> None:
        """Predict `classes` by the logits `order` of what was predicted before; none leaves an embedding alone.

        A network without classes has logits (B, 0), and its embedding is what the classifier would read.
        """
        assert len(order) == len(classes), (order, classes)
        for path, head in self.heads.items():
            parent, _, name = path.rpartition(".")
            setattr(self.module.get_submodule(parent), name, select(head, list(order)))
        if self.class_bias is not None:
            self.class_bias = self.class_bias[list(order)]
        self.contract = replace(self.contract, classes=classes)

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
