"""`transfer`: a pre-trained backbone fine-tuned by BiT-HyperRule, which takes its numbers from the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from understudy import api
from understudy.bit import HyperRule, hyperrule
from understudy.bit.hyperrule import Variant
from understudy.data import Source, open_source, typical_size
from understudy.errors import UnderstudyError
from understudy.material import Given, Material, prepare_data
from understudy.models import parse_spec
from understudy.preparing import build_student
from understudy.recipe import TrainRecipe
from understudy.recipe_text import checked, updated
from understudy.runs import Run, fresh_run

MIXUP = 0.1
"""MixUp's alpha where it is asked for and the rule has none."""
DECAY = 1e-4
"""Weight decay where what to decay to is asked for and not how fast: that of BiT's pre-training."""
_PIXELS = 64 * 224**2  # of the images of one forward pass, where nothing is said of their number
_FEWEST = 32  # images of a forward pass that BatchNorm takes its statistics from


@dataclass(frozen=True)
class Ways:
    """In what a transfer is to differ from the rule.

    Attributes:
        variant: of the rule: "code" or "paper".
        batch_size: images of a forward pass; None takes as many as are likely to fit.
        update_batch: images of an update; the rule's rate is scaled with them.
        steps: updates; the rule's schedule is brought to them.
        crop_size: pixels that the network reads in place of the rule's.
        crop: whether they are cut at random; else whole images are brought to them.
        flip: whether images are mirrored; None for colour images only.
        mixup: whether to mix, or its alpha; None leaves it to the rule.
        decay_to: what weights decay to; None for no weight decay.
        weight_decay: how fast.
        from_scratch: whether a network without pre-trained weights will do.
    """

    variant: Variant = "code"
    batch_size: int | None = None
    update_batch: int = 512
    steps: int | None = None
    crop_size: int | None = None
    crop: bool = True
    flip: bool | None = None
    mixup: bool | float | None = None
    decay_to: Literal["zero", "initial"] | None = None
    weight_decay: float | None = None
    from_scratch: bool = False

    def rule(self, examples: int, size: tuple[int, int]) -> HyperRule:
        """The rule for a task, with what differs but for the size that a network insists on."""
        rule = hyperrule(examples, size, variant=self.variant, batch=self.update_batch)
        rule = rule if self.steps is None else rule.within(self.steps)
        rule = rule if self.crop_size is None else rule.sized(self.crop_size)
        if isinstance(self.mixup, bool):
            return replace(rule, mixup=(rule.mixup or MIXUP) if self.mixup else 0.0)
        return rule if self.mixup is None else replace(rule, mixup=self.mixup)

    @property
    def decay(self) -> dict[str, Any]:
        if self.decay_to is None and self.weight_decay is None:
            return {}
        decay = DECAY if self.weight_decay is None else self.weight_decay
        return {"weight_decay": decay, "decay_to": self.decay_to or "zero"}


@dataclass(frozen=True)
class Plan:
    """A transfer before it is performed.

    Attributes:
        recipe: what `train` performs.
        given: what a caller from Python handed over.
        told: what the user should know, in sentences.
    """

    recipe: TrainRecipe
    given: Given
    told: tuple[str, ...] = ()


def transfer(
    data: object,
    backbone: str | Path | nn.Module,
    *,
    run: str | Path | None = None,
    overwrite: bool = False,
    command: Sequence[str] = (),
    **options: Any,
) -> Run:
    """Fine-tune a pre-trained backbone on a labelled set of images by BiT-HyperRule.

    Args:
        data: whatever `open_source` opens.
        backbone: a model's name ("timm:..." and "torchvision:..." are pre-trained without being told), a run folder, a
            weights file, or a module with a head for the data's classes.
        run: the run folder; a new one under runs/ where unset.
        **options: fields of `Ways` by name, and any field of `TrainRecipe`, which goes over the rule's.

    Raises:
        UnderstudyError: data, backbone and options that do not fit each other.
    """
    plan = plan_transfer(data, backbone, **options)
    folder = run if run is not None else fresh_run(plan.recipe, "transfer")
    return api.start(plan.recipe, folder, plan.given, overwrite, command, plan.told)


def plan_transfer(data: object, backbone: str | Path | nn.Module, *, trust_code: bool = True, **options: Any) -> Plan:
    """What `transfer` would perform: the rule resolved on the data, as an ordinary recipe; see there."""
    return Task.of(data, backbone, trust_code=trust_code, **options).plan()


@dataclass
class Task:
    """Data and a backbone, opened and looked at once, to make any number of plans from.

    Attributes:
        base: the recipe's fields without the rule's: what is learnt, on what, where, and what the caller set.
        given: what of it are objects.
        ways: in what the rule is deviated from.
    """

    base: dict[str, Any]
    given: Given
    ways: Ways
    _size: tuple[int, int] | None = None
    _seen: dict[int, tuple[int, bool]] = field(default_factory=dict)

    @classmethod
    def of(cls, data: object, backbone: str | Path | nn.Module, *, trust_code: bool = True, **options: Any) -> Task:
        ways = Ways(**{name: options.pop(name) for name in Ways.__dataclass_fields__ if name in options})
        module = backbone if isinstance(backbone, nn.Module) else None
        spec = api.model_name(backbone) if module else pretrained(str(backbone), ways.from_scratch)
        base = {"data": api.name_of(data), "model": spec} | api.in_groups(options)
        recipe = checked(TrainRecipe, base, "transfer")
        opened: object | None = None if isinstance(data, (str, Path)) else data
        if recipe.devices * recipe.nodes == 1 and not recipe.pair:  # else each process opens the data for itself
            root = Path(recipe.data_root) if recipe.data_root else None
            opened = open_source(data, root=root, download=recipe.download, size=recipe.size)
        return cls(base, Given(data=opened, model=module, trust_code=trust_code), ways)

    @property
    def base_recipe(self) -> TrainRecipe:
        """The recipe before the rule is known."""
        return self._first({})

    def material(self, **fields: Any) -> Material:
        """The data, with these fields of the recipe set too."""
        return prepare_data(self._first(fields), self.given)

    def _first(self, fields: dict[str, Any]) -> TrainRecipe:
        return checked(TrainRecipe, updated(self.base, fields), "transfer").model_copy(update={"steps": 1})

    def plan(self, **fields: Any) -> Plan:
        """Resolve the rule, with these fields of the recipe set too."""
        first, material = self._first(fields), self.material(**fields)
        _check_classes(first, material.train)
        examples, self._size = len(material.train), self._size or typical_size(material.labelled)
        rule = self.ways.rule(examples, self._size)
        side, normed = self._look(first, material, rule.crop)
        told = [_said(self.ways, rule, examples, self._size)]
        if side != rule.crop:
            rule = rule.sized(side)
            told.append(f"the backbone reads images of {side} pixels only, which are cut from {rule.resize}")
        if min(self._size) < rule.crop:
            told.append(f"images are enlarged: they have {_by(self._size)} pixels, and {rule.crop} a side are read")
        micro = min(self.ways.batch_size or likely_to_fit(rule.crop, normed), rule.batch_size)
        if micro < rule.batch_size and normed:
            told.append(
                f"BatchNorm takes its statistics from the {micro} images of a forward pass, not from a whole batch"
            )
        views = ({} if self.ways.crop else {"resize": rule.crop}) | (
            {} if self.ways.flip is None else {"flip": self.ways.flip}
        )
        values = updated(rule.fields, {"views": views, "optimizer": self.ways.decay})
        values |= {"zero_head": True, "micro_batch": micro if micro < rule.batch_size else None}
        return Plan(
            checked(TrainRecipe, updated(updated(values, self.base), fields), "transfer"), self.given, tuple(told)
        )

    def _look(self, recipe: TrainRecipe, material: Material, crop: int) -> tuple[int, bool]:
        """The pixels a side that the backbone reads where it is to read `crop`, and whether it has BatchNorm."""
        if crop not in self._seen:
            contract = material.contract(recipe.sees)
            contract = replace(contract, shape=(contract.shape[0], crop, crop))
            network = build_student(recipe.model, self.given, contract, 0, recipe.seed, True)
            side = crop if network.reads(crop) else network.contract.shape[1]
            if side != crop and self.ways.crop_size:
                raise UnderstudyError(f"{recipe.model} reads images of {side} pixels only; leave out --crop-size")
            try:
                answers = network.shapes(()).classes
            except RuntimeError as fault:
                shape = "x".join(map(str, network.contract.shape))
                raise UnderstudyError(f"{recipe.model} cannot read images of {shape}: {fault}") from fault
            if answers != len(material.labelled.classes):
                raise UnderstudyError(
                    f"{recipe.model} answers {answers} classes, and {material.labelled.name} has "
                    f"{len(material.labelled.classes)}; give it a last layer of as many"
                )
            self._seen[crop] = side, any(isinstance(layer, _BatchNorm) for layer in network.modules())
        return self._seen[crop]


def pretrained(backbone: str, from_scratch: bool = False) -> str:
    """The name of a model with the option that loads its weights, where its library has them by name.

    Raises:
        UnderstudyError: it would begin without pre-trained weights, and that was not asked for.
    """
    if backbone.endswith(".npz") and ":" not in backbone:
        return f"bit:{backbone}"
    if Path(backbone).exists() or from_scratch:
        return backbone
    spec = parse_spec(backbone)
    if {"pretrained", "weights"} & spec.options.keys() or spec.name.endswith(".npz"):
        return backbone
    join = "&" if "?" in backbone else "?"
    if spec.family == "torchvision":
        return f"{backbone}{join}weights=DEFAULT"
    if spec.family == "timm":
        return f"{backbone}{join}pretrained=true"
    raise UnderstudyError(
        f"{backbone} has no pre-trained weights by that name, and a transfer begins from some: give a run folder, a "
        "weights file or a timm: or torchvision: model that has them, or pass --from-scratch"
    )


def _check_classes(recipe: TrainRecipe, train: Source) -> None:
    """Complain of a class without an example, unless classes were chosen."""
    if train.targets is None or recipe.only_classes or recipe.omit_classes:
        return
    counts = train.targets.bincount(minlength=len(train.classes)).tolist()
    empty = [name for name, count in zip(train.classes, counts, strict=True) if count == 0]
    if empty:
        raise UnderstudyError(
            f"{train.name} has no training example of class {empty[0]!r}"
            + (f" and {len(empty) - 1} more" if len(empty) > 1 else "")
            + "; add some, or leave the class out with --omit-classes"
        )


def likely_to_fit(side: int, normed: bool) -> int:
    """As many images of a forward pass, of so many pixels a side, as are likely to fit: a power of two."""
    fitting = 2 ** int(math.log2(max(_PIXELS // side**2, 1)))
    return max(fitting, _FEWEST) if normed else fitting


def _said(ways: Ways, rule: HyperRule, examples: int, size: tuple[int, int]) -> str:
    falls = ", ".join(f"{step:,}" for step in rule.decay_steps)
    mixed = f"MixUp {rule.mixup:g}" if rule.mixup else "no MixUp"
    return (
        f"BiT-HyperRule for {examples:,} images of {_by(size)} pixels: {rule.steps:,} steps of {rule.batch_size}, "
        f"rate {rule.base_rate:g}, warm-up {rule.warmup:,}, falls at {falls}, {mixed}, "
        + (f"{rule.crop} pixels cut from {rule.resize}" if ways.crop else f"resized to {rule.crop} pixels")
    )


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
