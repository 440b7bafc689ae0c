"""A transfer before it runs: BiT-HyperRule resolved on data and a backbone, which are opened once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from understudy.config.finetune import finetuning
from understudy.config.hyperrule import HyperRule, hyperrule
from understudy.config.options import ClassifierOptions
from understudy.config.recipe import TrainRecipe
from understudy.config.verbs import TransferOptions
from understudy.config.yaml import checked, updated
from understudy.data import Source, open_source, typical_size
from understudy.errors import UnderstudyError
from understudy.files import path_of
from understudy.models import Network
from understudy.pipeline.base import new_network
from understudy.pipeline.run_data import Overrides, RunData
from understudy.pipeline.train import Train
from understudy.pipeline.weights import pretrained
from understudy.verbs.arguments import Plan

DECAY = 1e-4
"""Weight decay where `decay_to` is set and `weight_decay` is not: that of BiT's pre-training."""
_PIXELS = 64 * 224**2  # of the images of one forward pass, by default
_FEWEST = 32  # images of a forward pass of a network with BatchNorm


@dataclass
class Task:
    """Data and a backbone, opened once, from which any number of transfers are planned.

    Attributes:
        options: of the transfer.
        base: the fields of its recipes before the rule's: what the caller set.
        overrides: the opened data, and the backbone where it is a module.
    """

    options: TransferOptions
    base: dict[str, Any]
    overrides: Overrides
    _size: tuple[int, int] | None = None
    _inspected: dict[int, tuple[int, bool]] = field(default_factory=dict)

    @classmethod
    def of(cls, options: TransferOptions, data: str, overrides: Overrides) -> Task:
        spec = options.backbone if overrides.model else pretrained(options.backbone, options.from_scratch)
        base = {"data": data, "model": spec} | recipe_fields(options)
        return cls(options, base, opened(options, data, overrides))

    @cached_property
    def source(self) -> Source:
        """The whole training part."""
        return Train(self._one_step({}), self.overrides).data.labeled

    def _one_step(self, fields: dict[str, Any]) -> TrainRecipe:
        """The recipe before the rule is known: the data can be opened with it."""
        return checked(TrainRecipe, updated(self.base, fields), "transfer").model_copy(update={"steps": 1})

    def plan(self, name: str, steps: int | None = None, **fields: Any) -> Plan:
        """Resolve the rule.

        Args:
            name: of the run.
            steps: in place of the options'.
            **fields: of the recipe, set too.
        """
        first = self._one_step(fields)
        data = Train(first, self.overrides).data
        _check_classes(first, data.train)
        examples, self._size = len(data.train), self._size or typical_size(data.labeled)
        if not self._by_hyperrule(first, data):
            return self._fine_tuned(name, examples, data, steps, fields)
        rule = rule_of(self.options, examples, self._size, steps)
        size, batch_norm = self._inspect(first, data, rule.crop_size)
        notes = [_summary(self.options, rule, examples, self._size)]
        if size != rule.crop_size:
            rule = rule.sized(size)
            notes.append(f"the backbone takes images of {size} pixels only, cropped from {rule.resize}")
        if min(self._size) < rule.crop_size:
            notes.append(f"images are enlarged from {_by(self._size)} pixels to the input size of {rule.crop_size}")
        micro = min(self.options.micro_batch or likely_to_fit(rule.crop_size, batch_norm), rule.batch_size)
        if micro < rule.batch_size and batch_norm:
            notes.append(f"BatchNorm's statistics are of the {micro} images of a forward pass, not of a whole batch")
        values = updated(rule.fields, {} if self.options.random_crop else {"augmentation": {"resize": rule.crop_size}})
        values = updated(updated(values, decay_of(self.options)), self.base)
        values |= {"head": "zero", "micro_batch": micro if micro < rule.batch_size else None}
        recipe = checked(TrainRecipe, updated(values, fields), "transfer")
        return Plan({name: recipe}, self.overrides, tuple(notes))

    def _by_hyperrule(self, recipe: TrainRecipe, data: RunData) -> bool:
        """Whether the rule is BiT's: asked for, or of a network with GroupNorm and without BatchNorm."""
        if self.options.rule != "auto":
            return self.options.rule == "bit"
        network = self._backbone(recipe, data)
        return not has_batch_norm(network) and any(isinstance(layer, nn.GroupNorm) for layer in network.modules())

    def _backbone(self, recipe: TrainRecipe, data: RunData, size: int | None = None) -> Network:
        contract = data.contract(recipe.modality)
        if size is not None:
            contract = replace(contract, shape=(contract.shape[0], size, size))
        return new_network(recipe.model, self.overrides, contract, 0, recipe.seed, several=True)

    def _fine_tuned(
        self, name: str, examples: int, data: RunData, steps: int | None, fields: Mapping[str, Any]
    ) -> Plan:  # fmt: skip
        """The plan of a network that is fine-tuned from a linear probe."""
        assert self._size is not None
        options = self.options
        steps = options.steps if steps is None else steps
        network = self._backbone(self._one_step(dict(fields)), data)
        wanted = options.crop_size or min(network.contract.shape[-1], 2 * min(self._size))
        side = wanted if network.accepts_size(wanted) else network.contract.shape[-1]
        if options.crop_size and side != options.crop_size:
            raise UnderstudyError(f"{options.backbone} takes images of {side} pixels only; leave out --crop-size")
        rule = finetuning(examples, len(data.labeled.classes))
        values = rule.fields | {"input_size": side, "micro_batch": options.micro_batch}
        if options.shots or options.validation or "patience" in options.model_fields_set:
            values = {key: value for key, value in values.items() if key not in ("validation", "patience")}
        if options.size is None and min(self._size) > side:
            values["size"] = side
        own = dict(self.base) | ({"batch_size": options.batch_size} if "batch_size" in options.model_fields_set else {})
        values = updated(values, own) | ({} if steps is None else {"steps": steps})
        recipe = checked(TrainRecipe, updated(values, fields), "transfer")
        trained = "a linear probe" if recipe.steps == 0 else "fine-tuning from a linear probe: " + (
            f"{recipe.epochs} epochs" if recipe.steps is None else f"{recipe.steps:,} steps"
        ) + f" of batches of {recipe.batch_size}, learning rate {recipe.optimizer.lr:g}"  # fmt: skip
        return Plan({name: recipe}, self.overrides, (f"{trained}, at {side} pixels, for {examples:,} images",))

    def _inspect(self, recipe: TrainRecipe, data: RunData, crop_size: int) -> tuple[int, bool]:
        """The input size of the backbone where `crop_size` is wanted, and whether it has BatchNorm."""
        if crop_size not in self._inspected:
            network = self._backbone(recipe, data, crop_size)
            size = crop_size if network.accepts_size(crop_size) else network.contract.shape[1]
            if size != crop_size and self.options.crop_size:
                raise UnderstudyError(f"{recipe.model} takes images of {size} pixels only; leave out --crop-size")
            network.check()
            self._inspected[crop_size] = size, has_batch_norm(network)
        return self._inspected[crop_size]


def recipe_fields(options: ClassifierOptions) -> dict[str, Any]:
    """The options that were set and are fields of a recipe; those that a rule resolves are left to it."""
    names = set(TrainRecipe.model_fields) - {"kind", "data", "model", "micro_batch", "batch_size", "steps", "crop_size"}
    return options.model_dump(exclude_unset=True, include=names)


def opened(options: ClassifierOptions, data: str, overrides: Overrides) -> Overrides:
    """The overrides with the data opened, so that planning and running share it."""
    if options.devices * options.nodes > 1 or options.pair:  # each process opens it, or pairs follow
        return overrides
    root = path_of(options.data_root, "the data root") if options.data_root else None
    source = data if overrides.data is None else overrides.data
    return replace(overrides, data=open_source(source, root=root, download=options.download, size=options.size))


def rule_of(options: TransferOptions, examples: int, size: tuple[int, int], steps: int | None = None) -> HyperRule:
    """The rule for a task, with what the options change but for the size that a network insists on."""
    rule = hyperrule(examples, size, variant=options.variant, batch_size=options.batch_size)
    wanted = options.steps if steps is None else steps
    if wanted == 0:
        raise UnderstudyError("no steps leave a linear probe, which is not by BiT-HyperRule; pass --rule finetune")
    if wanted is not None:
        rule = rule.within(wanted)
    return rule if options.crop_size is None else rule.sized(options.crop_size)


def decay_of(options: TransferOptions) -> dict[str, Any]:
    """The weight decay where its target is set and it is not."""
    asked = options.optimizer.model_fields_set
    return {"optimizer": {"weight_decay": DECAY}} if "decay_to" in asked and "weight_decay" not in asked else {}


def has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(layer, _BatchNorm) for layer in network.modules())


def likely_to_fit(size: int, batch_norm: bool) -> int:
    """Images of a forward pass that are likely to fit into memory: a power of two.

    >>> likely_to_fit(224, batch_norm=False), likely_to_fit(480, batch_norm=False), likely_to_fit(480, batch_norm=True)
    (64, 8, 32)
    """
    fitting = 2 ** int(math.log2(max(_PIXELS // size**2, 1)))
    return max(fitting, _FEWEST) if batch_norm else fitting


def _check_classes(recipe: TrainRecipe, train: Source) -> None:
    """Check that every class has an example, unless classes were chosen."""
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


def _summary(options: TransferOptions, rule: HyperRule, examples: int, size: tuple[int, int]) -> str:
    decays = ", ".join(f"{step:,}" for step in rule.decay_steps)
    mixup = options.mixup if "mixup" in options.model_fields_set else rule.mixup
    crop = (
        f"{rule.crop_size} pixels cropped from {rule.resize}"
        if options.random_crop
        else f"resized to {rule.crop_size} pixels"
    )
    return (
        f"BiT-HyperRule for {examples:,} images of {_by(size)} pixels: {rule.steps:,} steps of {rule.batch_size}, "
        f"learning rate {rule.base_lr:g}, warm-up {rule.warmup:,}, decays at {decays}, "
        f"{f'MixUp {mixup:g}' if mixup else 'no MixUp'}, {crop}"
    )


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
