"""The data of a run: opened, selected and split, with what is done to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import nn

from understudy.config.options import AugmentationConfig, MachineOptions, TrainingOptions
from understudy.data import ArraySource, Source, concatenated, open_source, read_subset, resize_square
from understudy.data.augment import NO_AUGMENTATION, Augmentation
from understudy.data.loader import EpochSampler
from understudy.data.modalities import modalities_of
from understudy.data.parts import check_trained, compare_parts
from understudy.errors import UnderstudyError
from understudy.files import path_of
from understudy.models import InputContract
from understudy.pipeline.device import check_machine
from understudy.pipeline.modality import contract_of


@dataclass(frozen=True)
class Overrides:
    """Objects that Python callers pass in place of the recipe's names.

    Attributes:
        data, transfer_set: whatever `open_source` opens.
        trust_code: whether functions that the recipe names (pkg.mod:fn) may be imported.
        accept_changed_data: whether a run may go on with other data than it began with.
    """

    data: object | None = None
    model: nn.Module | None = None
    teachers: tuple[nn.Module, ...] = ()
    transfer_set: object | None = None
    trust_code: bool = False
    accept_changed_data: bool = False


def require(config: MachineOptions, overrides: Overrides) -> None:
    """Check that a configuration names what it cannot do without, and that this machine can do it.

    Raises:
        UnderstudyError: something is missing, with an example; or too few devices.
    """
    objects = {
        "data": overrides.data, "model": overrides.model, "student": overrides.model, "teacher": overrides.teachers,
        "backbone": overrides.model,
    }  # fmt: skip
    for name, example in config.required.items():
        instead = config.instead.get(name, name)
        if not getattr(config, name) and not objects.get(name) and not getattr(config, instead):
            what = "DATA" if name == "data" else f"--{name}"
            raise UnderstudyError(f"{what} is missing; {example}")
    check_machine(config)


@dataclass(frozen=True)
class RunData:
    """The data of a run.

    Attributes:
        labeled: the training part of the recipe's data, or its samples in the recipe's subset.
        train: what the loop trains on: the selected samples, or the transfer set.
        validation: held out from the training part, or None.
        calibration: what the logits are scaled on, or representations are watched on: the validation part, or what was
            held out for this alone; or None.
        test: what is evaluated on, or None.
        sampler: which samples of `train` each epoch shows; all of them where None.
        opened: all that was opened, by the names of the parts; None for a part that there is not.
    """

    labeled: Source
    train: Source
    validation: Source | None
    test: Source | None
    augmentation: Augmentation
    sampler: EpochSampler | None = None
    calibration: Source | None = None
    opened: Mapping[str, Source | None] = field(default_factory=dict)

    @cached_property
    def cautions(self) -> list[str]:
        """What to know before an accuracy on the held-out parts is believed; the samples are compared for it."""
        found = check_trained(self.labeled)
        if self.test is not None:
            found += compare_parts(self.labeled, self.test, "test")
        if self.validation is not None:
            found += compare_parts(self.train, self.validation, "validation")
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how the data was opened."""
        return tuple(dict.fromkeys(self.labeled.notes + self.train.notes))

    @property
    def skipped(self) -> dict[str, dict[str, str]]:
        """Record name -> reason, by part, of those found unreadable when the data was opened."""
        test = () if self.test is None else self.test.skipped
        return {"train": dict(self.labeled.skipped + self.train.skipped), "test": dict(test)}

    def contract(self, modality: str) -> InputContract:
        """The input contract of a new network: of the data, or of the transfer set if the data lacks the modality."""
        known = self.labeled if modality in ("", *modalities_of(self.labeled)) else self.train
        return replace(contract_of(known, modality), classes=self.labeled.classes)


def open_parts(
    options: TrainingOptions, data: object, pairs: dict[str, str], test_size: int | None
) -> tuple[Source, Source | None]:
    """The training part and the test part of some data, to be decoded at the sizes of the options.

    The split does not depend on the seed: another run, or its evaluation, must never find its test part among what this
    one was trained on.

    Args:
        test_size: pixels of the test images of a training on crops.
    """
    root = path_of(options.data_root, "the data root") if options.data_root else None
    splits = open_source(data, root=root, download=options.download, size=options.size, pairs=pairs)
    validation = splits.validation if options.with_validation else None
    train = splits.train if validation is None else concatenated(splits.train, validation)
    crop_size = options.augmentation.crop_size
    if not crop_size:
        return train, splits.test
    if len(train.shape) != 3:
        raise UnderstudyError(f"{train.name} holds vectors, which cannot be cropped; leave out --crop-size")
    test = None if splits.test is None else resize_square(splits.test, test_size or crop_size)
    return resize_square(train, crop_size), test


def in_subset(options: TrainingOptions, train: Source) -> Source:
    """The samples of a training part that the options' manifest names; all of them where there is none."""
    if not options.subset:
        return train
    return train.subset(read_subset(path_of(options.subset, "the subset")).rows(train))


def resolve_augmentation(config: AugmentationConfig, source: Source) -> Augmentation:
    """The augmentation of a source, with defaults that suit it.

    Color images are flipped, and translated by up to an eighth of their side where they are small arrays, or cropped to
    between 25% and all of their area where they are decoded on the fly; gray images are translated by up to 2 pixels in
    28 and never flipped. A crop size replaces translation and resized crops. Paired modalities share their
    augmentation, and have none by default where they differ in height or width.
    """
    if len(source.shape) != 3:
        return Augmentation(noise=config.noise)
    if any(pair.shape[1:] != source.shape[1:] for pair in source.pairs.values()):
        if config != AugmentationConfig():
            raise UnderstudyError(
                f"{source.name} has modalities of different heights and widths, which cannot share an augmentation; "
                "leave out the augmentation flags, or resize all to one size"
            )
        return NO_AUGMENTATION
    channels, height, _ = source.shape
    color, array = channels == 3, isinstance(source, ArraySource)
    crop_size = config.crop_size or 0
    translated = array and not crop_size and config.crop_scale is None
    translate = (height // 8 if color else height // 14) if translated else 0
    return Augmentation(
        translate=translate if config.translate is None else config.translate,
        flip=color if config.flip is None else config.flip,
        rotate=config.rotate,
        zoom=config.zoom,
        elastic=config.elastic,
        crop_scale=(1.0 if array or crop_size else 0.25) if config.crop_scale is None else config.crop_scale,
        crop_size=crop_size,
        resize=config.resize or crop_size,
        noise=config.noise,
    )
