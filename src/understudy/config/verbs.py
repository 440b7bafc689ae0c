"""What the verbs that make recipes take: a rule resolves their options on the data into the recipes of runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from understudy.config.hyperrule import Variant
from understudy.config.options import (
    AugmentationConfig,
    ClassifierOptions,
    DataOptions,
    MachineOptions,
    Options,
    SampleOptions,
)
from understudy.config.recipe import RECIPES, SpecialistRecipe
from understudy.config.upstream import Scale
from understudy.config.values import (
    Amount,
    Count,
    Limit,
    PathText,
    Pixels,
    Positive,
    Seed,
    Several,
    Temperature,
    Views,
    listed_names,
)
from understudy.errors import UnderstudyError


class TransferOptions(ClassifierOptions):
    """What differs from the rule; options that are left out are the rule's."""

    heading: ClassVar[str] = "Rule"
    derived: ClassVar[frozenset[str]] = frozenset({"mixup", "optimizer", "augmentation", "head"})
    fixed: ClassVar[frozenset[str]] = frozenset({"epochs"})
    required: ClassVar[Mapping[str, str]] = {
        "data": "write understudy transfer photos/ --backbone timm:resnet50, say",
        "backbone": "write --backbone timm:resnetv2_50x1_bit.goog_in21k, say, or a run folder",
    }

    backbone: str = ""
    """Pre-trained model: timm: or torchvision:, which come with their weights, a run folder or a weights file."""
    from_scratch: bool = False
    """Accept a model without pre-trained weights."""
    rule: Literal["auto", "bit", "finetune"] = "auto"
    """BiT-HyperRule, or fine-tuning from a linear probe; auto: the first for networks with GroupNorm, as BiT's."""
    variant: Variant = "code"
    """BiT-HyperRule as in the released code, or as in the paper."""
    batch_size: Positive = 512
    """Images per update, and the learning rate scales with it; default: 512 by BiT-HyperRule, else 32."""
    steps: Count | None = None
    """Number of updates, to which BiT-HyperRule is scaled; 0: the linear probe."""
    crop_size: Pixels | None = None
    """Input size in pixels; default: the rule's."""
    random_crop: bool = True
    """Random crops; without, images are resized to the input size."""
    shots: tuple[Positive, ...] = ()
    """Few-shot transfers: training images per class, as in 1,5,10."""
    draws: Several = 5
    """Few-shot transfers: number of random draws of each size."""

    @field_validator("shots", mode="after")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(value)))

    @field_validator("shots", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """`"1,5,10"`, one number, or a list of either."""
        parts = value if isinstance(value, (list, tuple)) else [value]
        return tuple(
            word for part in parts for word in (part.split(",") if isinstance(part, str) else [part]) if word != ""
        )

    @model_validator(mode="after")
    def _check_shots(self) -> Self:
        if self.shots and (self.validation or self.subset or self.fraction < 1):
            raise ValueError("shots choose the training samples; leave out validation, subset and fraction")
        return self

    @property
    def _least_crop(self) -> float:
        return self.crop_size or 0


class TransferConfig(TransferOptions):
    """A pre-trained backbone fine-tuned by a rule that takes its numbers from the data."""

    kind: str = "transfer"
    data: str = ""
    """Training data: a name, a folder, a zip, a CSV, a parquet file or tar shards."""


class SuiteConfig(TransferOptions):
    """One backbone transferred to many tasks."""

    heading: ClassVar[str] = "Suite"
    fixed: ClassVar[frozenset[str]] = TransferOptions.fixed | {"subset", "fraction"}
    required: ClassVar[Mapping[str, str]] = {
        **TransferOptions.required,
        "data": "write understudy suite digits photos/ --backbone timm:resnet50, say",
    }

    kind: str = "suite"
    data: tuple[str, ...] = ()
    """The tasks: named data sets, folders of class folders, zips, CSVs or parquet files."""
    vtab: bool = False
    """Train on VTAB-1k's 1,000 examples of each task, 800 + 200."""

    @model_validator(mode="after")
    def _check_suite(self) -> Self:
        if self.vtab and self.shots:
            raise ValueError("vtab and shots both choose the training samples; choose one")
        return self


class PretrainConfig(ClassifierOptions):
    """A backbone pre-trained as Big Transfer's are."""

    heading: ClassVar[str] = "Scale"
    derived: ClassVar[frozenset[str]] = frozenset({"loss", "epochs", "optimizer", "augmentation"})
    required: ClassVar[Mapping[str, str]] = {"data": "write understudy pretrain photos/ --model bit:R50x1, say"}

    kind: str = "pretrain"
    data: str = ""
    """Training data: a name, a folder, a zip, a CSV, a parquet file or tar shards."""
    model: str = "bit:R50x1"
    """Model to train, as in bit:R50x1 or 'bit:R26x1?norm=bn'; or a run folder or weights file to start from."""
    scale: Scale = "S"
    """S: 90 epochs, softmax. M: 90 epochs, sigmoids. L: 40 epochs, sigmoids."""
    batch_size: Positive = 4096
    """Images per update; the learning rate scales with it, 0.03 at 256."""
    size: Pixels | None = 224
    """Image and input size in pixels."""


class CompressConfig(DataOptions, MachineOptions):
    """A backbone transferred to the data, distilled into a student, and exported."""

    heading: ClassVar[str] = "Compression"
    required: ClassVar[Mapping[str, str]] = {
        "data": "write understudy compress photos/ --backbone ..., say",
        "backbone": "write --backbone timm:resnetv2_50x1_bit.goog_in21k, say, or a run folder",
    }
    instead: ClassVar[Mapping[str, str]] = {"backbone": "teacher"}

    kind: str = "compress"
    data: str = ""
    """Training data: a name, a folder, a zip, a CSV, a parquet file or tar shards."""
    backbone: tuple[str, ...] = ()
    """Pre-trained model: timm: or torchvision:, a run folder or a weights file; several make an ensemble."""
    teacher: tuple[str, ...] = ()
    """Run folders or weights files that know the classes, in place of a backbone: they teach as they are."""
    student: tuple[str, ...] = ()
    """Small models to try, as in timm:mobilenetv3_small_100 cnn:16-32-64; default: a ladder for the image size."""
    transfer_set: PathText | None = None
    """Images to distill on in addition to the training data; labels are not needed."""
    format: tuple[str, ...] = ("onnx", "int8")
    """Files to export: onnx, int8, torch, web (a page that classifies images in the browser)."""
    from_scratch: bool = False
    """Accept a backbone without pre-trained weights."""
    budget: str | float | None = None
    """Time for the whole command, as in 30m or 1h30m; sizes, views and steps are chosen by measured speed."""
    latency: str | float | None = None
    """Time that one image may take on one thread, as in 5ms; measured here, in ONNX Runtime."""
    device_latency: Limit = 1.0
    """How many times slower than this machine the device is that --latency is for."""
    max_size: str | float | None = None
    """Largest file, as in 2MB."""
    max_flops: str | float | None = None
    """Most floating point operations per image, as in 300M."""
    method: tuple[str, ...] = ()
    """Distillation methods to try, as in kd dist, or auto; default: pkt+cosine+kd, and kd+ce above 50,000 images."""
    temperature: Temperature = 2.0
    """Temperature of kd and dkd."""
    hard_weight: Amount | None = None
    """Weight of the labels' cross-entropy; default: the method's own, 0.1 with kd alone, else mostly 1."""
    seeds: Several = 1
    """Number of initializations of the student, trained side by side."""
    baseline: bool = True
    """Also train the same student alone, as long; without, the student has twice the time, and no gain is shown."""
    steps: Positive | None = None
    """Updates of the student; default: 200 passes over the images."""
    teacher_steps: Count | None = None
    """Updates of the fine-tuning; 0: the frozen backbone teaches."""
    crop_size: Pixels | None = None
    """Input size of the teacher in pixels; default: the backbone's, at most 224 and twice the images'."""
    views: Views = 32
    """Augmented views of each image that the teachers answer, once for all students; fewer where fewer are shown."""
    student_size: Pixels | None = None
    """Input size of the student in pixels; default: that of the images and the teacher, and what time allows."""
    micro_batch: Positive | None = None
    """Images per forward pass of the fine-tuning; gradients are accumulated to a batch exactly."""
    flip: bool | None = None
    """Random horizontal flip; default: color images only."""
    seed: Seed = 0
    """Seed for shuffling, augmentation and initialization."""

    @field_validator("backbone", "teacher", "student", "format", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("method", mode="before")
    @classmethod
    def _methods(cls, value: object) -> object:
        return listed_names(value)

    @model_validator(mode="after")
    def _check_compression(self) -> Self:
        if self.budget is not None and (self.steps or self.teacher_steps):
            raise ValueError("a budget chooses the steps; leave it out, or steps and teacher_steps")
        if self.teacher and self.backbone:
            raise ValueError("a teacher takes the place of a backbone; give one of them")
        if self.device_latency != 1 and self.latency is None:
            raise ValueError("device_latency is for a limit of latency; give --latency too")
        return self


class SpecialistsConfig(SpecialistRecipe):
    """Classes grouped by what a generalist confuses, and a specialist for each group."""

    heading: ClassVar[str] = "Panel"
    required: ClassVar[Mapping[str, str]] = {
        "data": "write understudy specialists photos/ --generalist runs/generalist, say",
        "generalist": "write --generalist runs/generalist, say; understudy train makes one",
    }
    fixed: ClassVar[frozenset[str]] = frozenset(
        ("model", "group", "seeds", "class_bias", "class_priors", "only_classes", "omit_classes", "freeze",
         "head", "calibrate")
    )  # fmt: skip

    kind: str = "specialists"
    generalist: str = ""
    """The network that knows all classes: a run folder of one network, or a weights file."""
    clusters: Positive = 5
    """Number of groups."""
    group_size: Positive | None = None
    """Classes per group, the nearest to its center, so that groups may overlap; default: the clusters as they are."""
    columns: Literal["correlation", "covariance"] = "correlation"
    """What is clustered: columns of the predictions' correlation, or, as in the paper, of their covariance."""
    top_n: Positive = 1
    """How many of the generalist's most probable classes activate specialists."""
    only: Count | None = None
    """Train this specialist only, counted from 0."""
    parallel: Several = 1
    """How many specialists to train at a time."""
    student: tuple[str, ...] = ()
    """Run folders or weights files of networks distilled from the panel, to show on its page."""


class LabelConfig(SampleOptions, MachineOptions):
    """Teachers' answers to augmented views of the samples, kept on the disk for any number of students."""

    heading: ClassVar[str] = "Targets"
    required: ClassVar[Mapping[str, str]] = {
        "data": "write understudy label photos/ --teacher runs/teacher, say",
        "teacher": "write --teacher runs/teacher, say; understudy train makes a teacher",
    }
    fixed: ClassVar[frozenset[str]] = frozenset({"compile"})  # nothing is trained

    kind: str = "label"
    data: str = ""
    """Samples to label: a name, a folder, a zip, a CSV, a parquet file or tar shards; labels are not needed."""
    teacher: tuple[str, ...] = ()
    """Run folders, weights files or pre-trained models, as in timm:NAME?weights=FILE; several make an ensemble."""
    views: Views = 32
    """Augmented views of each sample; students see them in turn."""
    embedding: bool = False
    """Keep the teacher's embedding too, for methods such as crd."""
    features: tuple[str, ...] = ()
    """Keep these layers' outputs too."""
    int8: bool = False
    """Keep embeddings and features as int8 with a scale; default: float16."""
    logits: Literal["auto", "all", "compact", "none"] = "auto"
    """All as float16, compact: nearly as good in 32 bytes, or none; auto: all, up to 64 classes, where they match."""
    members: bool = False
    """Keep the answers of several teachers apart, as methods on embeddings need them."""
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    """Mean of the teachers' distributions."""
    teacher_modality: str = ""
    """Input of the teachers; needed only for those that do not say."""
    teacher_size: Pixels | None = None
    """Input size of pre-trained teachers in pixels; default: their own, at most 224 and twice the images'."""
    mixup: Amount = 0.0
    """Alpha of MixUp of the views; 0 disables it."""
    batch_size: Positive = 128
    """Samples per forward pass of the teachers."""
    seed: Seed = 0
    """Seed of the views."""
    augmentation: AugmentationConfig = AugmentationConfig()

    @model_validator(mode="after")
    def _check_targets(self) -> Self:
        if self.int8 and not (self.embedding or self.features):
            raise ValueError("int8 is for embeddings and features; pass --embedding or --features, or leave out --int8")
        return self


VERBS: dict[str, type[Options]] = {
    **{kind: RECIPES[kind] for kind in ("train", "distill", "compare", "speech-train", "speech-distill")},
    "transfer": TransferConfig,
    "suite": SuiteConfig,
    "pretrain": PretrainConfig,
    "compress": CompressConfig,
    "label": LabelConfig,
    "specialists": SpecialistsConfig,
}
"""What each verb that trains takes, by the `kind` that its YAML has."""


def parse_config(values: dict[str, Any], where: str = "the recipe") -> type[Options]:
    """The schema that plain values name by their `kind`."""
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in VERBS:
        raise UnderstudyError(f"{where} needs a kind: one of {', '.join(VERBS)}")
    return VERBS[kind]
