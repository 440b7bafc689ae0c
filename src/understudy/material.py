"""The data of a run: opened, chosen, divided, and dealt out in batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lightning_fabric import Fabric
from torch import nn

from understudy import specialist
from understudy.contracts import contract_of, modalities_of
from understudy.data import (
    ArraySource,
    Source,
    fraction,
    joined,
    lengthened,
    omit_classes,
    only_classes,
    open_source,
    read_subset,
    squashed,
    stratified_split,
)
from understudy.data.batches import Batches
from understudy.data.drawing import HalfAndHalf
from understudy.data.views import PLAIN, ViewPlan
from understudy.errors import UnderstudyError
from understudy.evaluation import parse_bias, parse_priors
from understudy.models import InputContract
from understudy.recipe import AnyRecipe, DistillRecipe, SpecialistRecipe, TrainRecipe, parse_pairs


@dataclass(frozen=True)
class Given:
    """Objects that Python callers hand over in place of the recipe's names."""

    data: object | None = None
    model: nn.Module | None = None
    teachers: tuple[nn.Module, ...] = ()
    transfer_set: object | None = None
    trust_code: bool = False


@dataclass(frozen=True)
class Material:
    """The data of a run.

    Attributes:
        labelled: the data's own whole training part.
        train: what the loop draws from: the chosen samples, or the transfer set.
        validation: carved from the training part, or None.
        test: what is evaluated on, or None.
        draw: which of `train` each epoch shows; all where None.
    """

    labelled: Source
    train: Source
    validation: Source | None
    test: Source | None
    plan: ViewPlan
    draw: HalfAndHalf | None = None

    def contract(self, modality: str) -> InputContract:
        """What a new network is to be fed: as the data has it, or the transfer set where the data lacks it."""
        known = self.labelled if modality in ("", *modalities_of(self.labelled)) else self.train
        return replace(contract_of(known, modality), classes=self.labelled.classes)


def prepare_data(recipe: AnyRecipe, given: Given) -> Material:
    """Open, choose and divide the data."""
    root = Path(recipe.data_root) if recipe.data_root else None

    def opened(data: object, pairs: dict[str, str]) -> tuple[Source, Source | None]:
        # not divided by the recipe's seed: another run, or its evaluation, must never find its test part among
        # what this one learned from
        splits = open_source(data, root=root, download=recipe.download, size=recipe.size, pairs=pairs)
        own = splits.validation if recipe.with_validation else None
        return _windowed(recipe, splits.train if own is None else lengthened(splits.train, own), splits.test)

    transfer_set = None
    if isinstance(recipe, DistillRecipe):
        transfer_set = given.transfer_set if given.transfer_set is not None else recipe.transfer_set
    # pairs are of the samples to learn from
    labelled, test = opened(
        given.data if given.data is not None else recipe.data, {} if transfer_set else parse_pairs(recipe.pair)
    )
    labelled = chosen(recipe, labelled)
    if isinstance(recipe, SpecialistRecipe):
        labelled = specialist.samples(recipe, labelled)
        test = specialist.samples(recipe, test) if test is not None and test.targets is not None else None
    if labelled.classes:  # else they are the teacher's
        parse_bias(recipe.class_bias, labelled.classes)
        if recipe.class_priors:
            parse_priors(recipe.class_priors, labelled.classes)
    if labelled.targets is None and isinstance(recipe, TrainRecipe):
        raise UnderstudyError(f"{labelled.name} has no labels; train needs them (distil on it with --transfer-set)")
    train, validation = labelled, None
    if recipe.validation:
        if labelled.targets is None:
            raise UnderstudyError(f"{labelled.name} has no labels to validate by; leave out --validation")
        kept, held = stratified_split(labelled, recipe.validation, recipe.seed)
        train, validation = labelled.subset(kept), labelled.subset(held)
    if transfer_set:
        transfer, _ = opened(transfer_set, parse_pairs(recipe.pair))
        if isinstance(recipe, DistillRecipe) and recipe.transfer_beside:
            train = joined(train, transfer)
        else:
            same = transfer.classes == labelled.classes
            train = transfer if same else replace(transfer, targets=None, classes=())
    if recipe.only_classes:
        train = train.subset(only_classes(train, recipe.only_classes))
    if recipe.omit_classes:
        train = train.subset(omit_classes(train, recipe.omit_classes))
    if recipe.fraction < 1:
        train = train.subset(fraction(train, recipe.fraction, recipe.seed))
    if recipe.steps is None and recipe.batch_size > len(train):
        raise UnderstudyError(
            f"a batch of {recipe.batch_size} is larger than the {len(train)} samples; "
            f"pass --batch-size {len(train)} or less, or --steps, with which batches run on"
        )
    if recipe.batch_size < recipe.devices * recipe.nodes:
        raise UnderstudyError(f"a batch of {recipe.batch_size} cannot be shared by {recipe.devices} devices")
    draw = specialist.draw(recipe, train) if isinstance(recipe, SpecialistRecipe) else None
    return Material(labelled, train, validation, test, view_plan(recipe, train), draw)


def chosen(recipe: AnyRecipe, train: Source) -> Source:
    """The samples of a training part that the recipe's manifest names; all where it has none."""
    return train.subset(read_subset(Path(recipe.subset)).rows(train)) if recipe.subset else train


def _windowed(recipe: AnyRecipe, train: Source, test: Source | None) -> tuple[Source, Source | None]:
    """Records that are to be decoded at the size of the recipe's window, or at its test size."""
    window = recipe.views.window
    if not window:
        return train, test
    if len(train.shape) != 3:
        raise UnderstudyError(f"{train.name} holds vectors, from which no window can be cut; leave out --window")
    tested = (recipe.test_size if isinstance(recipe, TrainRecipe) else None) or window
    return squashed(train, window), None if test is None else squashed(test, tested)


def make_batches(recipe: AnyRecipe, material: Material, fabric: Fabric, workers: int = 0) -> Batches:
    """The stream of one process."""
    return Batches(
        material.train, material.plan, recipe.batch_size, recipe.seed, fabric.device, fabric.global_rank,
        fabric.world_size, workers, recipe.steps, recipe.mixup, draw=material.draw,
    )  # fmt: skip


def view_plan(recipe: AnyRecipe, source: Source) -> ViewPlan:
    """The recipe's views, with what suits the data where it leaves them open.

    Colour images are mirrored, and shifted by an eighth of their side where they are small arrays, cropped to
    between 25% and all of their area where they are decoded on the fly; grey ones are shifted by 2 pixels
    in 28 and never mirrored. A window takes the place of shifts and crops. Pairs share their
    views, and have none by default where they differ in height or width.
    """
    views = recipe.views
    if len(source.shape) != 3:
        return ViewPlan(noise=views.noise)
    if any(pair.shape[1:] != source.shape[1:] for pair in source.pairs.values()):
        if views != type(views)():
            raise UnderstudyError(
                f"{source.name} has modalities of different heights and widths, which cannot share a view; leave out "
                "the flags of the views, or bring all to one size"
            )
        return PLAIN
    channels, height, _ = source.shape
    colour, array = channels == 3, isinstance(source, ArraySource)
    window = views.window or 0
    shifted = array and not window and views.crop is None
    jitter = (height // 8 if colour else height // 14) if shifted else 0
    return ViewPlan(
        jitter=jitter if views.jitter is None else views.jitter,
        flip=colour if views.flip is None else views.flip,
        rotate=views.rotate,
        zoom=views.zoom,
        elastic=views.elastic,
        crop=(1.0 if array or window else 0.25) if views.crop is None else views.crop,
        window=window,
        resize=views.resize or window,
        noise=views.noise,
    )
