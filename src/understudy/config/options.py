"""The options that verbs share, in groups. A verb's schema inherits the groups that it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from understudy.config.values import (
    Amount,
    Count,
    Decay,
    Degrees,
    Extent,
    Fraction,
    Limit,
    PathText,
    Pixels,
    Positive,
    Seconds,
    Seed,
    Several,
    Share,
    Workers,
    check_text,
)
from understudy.errors import UnderstudyError

_LARGEST_LOGIT = 1e6


class Options(BaseModel):
    """A group of options: checked, frozen, every field with one line of help.

    Attributes:
        heading: the title of the fields that this class adds, in help.
        derived: fields whose default follows from the data where they are unset.
        fixed: inherited fields that the caller must not set.
        required: fields that a verb cannot do without, each with an example for who leaves it out.
        instead: fields that may be given in place of a required one.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, defer_build=True, allow_inf_nan=False
    )
    heading: ClassVar[str] = "Options"
    derived: ClassVar[frozenset[str]] = frozenset()
    fixed: ClassVar[frozenset[str]] = frozenset()
    required: ClassVar[Mapping[str, str]] = {}
    instead: ClassVar[Mapping[str, str]] = {}

    @field_validator("*", mode="after")
    @classmethod
    def _check_texts(cls, value: Any) -> Any:
        check_text(value)
        return value

    @model_validator(mode="after")
    def _check_fixed(self) -> Self:
        for name in sorted(self.fixed & self.model_fields_set):
            raise ValueError(f"{name} cannot be set here; leave it out")
        return self


class DataOptions(Options):
    """Where the data is, and which of its classes to use."""

    heading: ClassVar[str] = "Data"

    data_root: PathText | None = None
    """Folder of the named data sets; default: $UNDERSTUDY_DATA, else ./data."""
    download: bool = False
    """Download a named data set that is missing."""
    size: Pixels | None = None
    """Image size in pixels; default: 224 where image sizes differ."""
    only_classes: tuple[str, ...] = ()
    """Train on these classes only."""
    omit_classes: tuple[str, ...] = ()
    """Train on all but these classes."""


class SampleOptions(DataOptions):
    """Which samples to train on."""

    heading: ClassVar[str] = "Data"

    pair: tuple[str, ...] = ()
    """A second modality of the same samples, matched by name, as in depth=FOLDER or depth=TABLE."""
    fraction: Fraction = 1.0
    """Fraction of the training samples to use, stratified by class."""
    subset: PathText | None = None
    """Manifest (JSON) of the training samples to use, as written by few-shot transfers."""
    with_validation: bool = False
    """Train on the data set's own validation part too."""
    validation: Share = 0.0
    """Fraction of the training part held out for validation."""

    @field_validator("pair", mode="before")
    @classmethod
    def _paired(cls, value: object) -> object:
        """A list of NAME=PLACE, or in Python a mapping."""
        return tuple(f"{name}={place}" for name, place in value.items()) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        parse_pairs(self.pair)
        if self.only_classes and self.omit_classes:
            raise ValueError("only_classes and omit_classes both choose classes; use one")
        return self


class MachineOptions(Options):
    """Where to compute."""

    heading: ClassVar[str] = "Machine"

    precision: Literal["auto", "32", "bf16", "fp16"] = "auto"
    """Precision of the forward pass; auto: bf16 where the hardware and the network gain by it, else 32."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device type."""
    devices: Several = 1
    """Number of devices; each batch is split over them."""
    nodes: Several = 1
    """Number of machines, when launched by torchrun or SLURM."""
    compile: bool = False
    """Compile the networks with torch.compile."""
    threads: Several | None = None
    """CPU threads; default: what is fastest in a few timed steps, at most one per core that may be used."""
    workers: Workers | None = None
    """Data loading processes; default: one per core that may be used, at most 8."""
    checkpoint_every: Seconds = 60.0
    """Seconds between checkpoints."""
    tracker: Literal["none", "tensorboard", "csv", "wandb", "mlflow", "trackio"] = "none"
    """Experiment tracker, in addition to metrics.jsonl."""


class OptimizerConfig(Options):
    """Optimizer and learning rate schedule."""

    heading: ClassVar[str] = "Optimizer"

    name: Literal["sgd", "adamw"] = "adamw"
    """Optimizer: SGD with momentum, or AdamW."""
    lr: Limit = 1e-3
    """Peak learning rate."""
    momentum: Share = 0.9
    """Momentum of SGD."""
    weight_decay: Amount = 0.0
    """Weight decay of matrices and kernels."""
    decay_norms: bool = False
    """Also decay biases and the weights of norms."""
    decay_to: Literal["zero", "initial"] = "zero"
    """Target of the weight decay: zero, or the initial weights (L2-SP)."""
    schedule: Literal["constant", "step", "cosine", "linear"] = "cosine"
    """Learning rate schedule after the warm-up."""
    warmup: Share = 0.02
    """Fraction of the steps over which the learning rate rises from zero."""
    warmup_steps: Count | None = None
    """Warm-up in steps, the first of them at a learning rate of zero; overrides warmup."""
    milestones: tuple[Fraction, ...] = (0.625, 0.75, 0.875)
    """Where the step schedule decays, as fractions of all steps."""
    milestone_steps: tuple[Positive, ...] = ()
    """Where the step schedule decays, in steps; overrides milestones."""
    gamma: Fraction = 0.1
    """Factor of the learning rate at each milestone."""
    clip: Limit | None = None
    """Maximum gradient norm."""
    max_norm: Limit | None = None
    """Maximum norm of the incoming weights of each hidden unit."""
    ema: Decay | None = None
    """Decay of an exponential moving average of the weights, which becomes the result."""


class AugmentationConfig(Options):
    """Data augmentation. Where unset: what suits the data."""

    heading: ClassVar[str] = "Augmentation"
    derived: ClassVar[frozenset[str]] = frozenset({"translate", "flip", "crop_scale"})

    translate: Extent | None = None
    """Maximum shift in pixels, zero-padded."""
    flip: bool | None = None
    """Random horizontal flip; default: color images only."""
    rotate: Degrees = 0.0
    """Maximum rotation in degrees."""
    zoom: Share = 0.0
    """Maximum relative stretch of each axis."""
    elastic: Amount = 0.0
    """Root mean square of a smooth random displacement, in pixels (Simard et al. 2003)."""
    crop_scale: Fraction | None = None
    """Minimum area fraction of a random resized crop; 1 disables it."""
    resize: Pixels | None = None
    """Resize to a square of this many pixels before the crop of crop_size."""
    crop_size: Pixels | None = None
    """Random crop of this many pixels; test images are resized to it."""
    noise: Amount = 0.0
    """Standard deviation of added noise: in units of a vector's values, as a fraction of the range of pixels."""


class TrainingOptions(SampleOptions, MachineOptions):
    """What every training takes."""

    heading: ClassVar[str] = "Training"

    epochs: Positive = 30
    """Passes over the training samples."""
    steps: Count | None = None
    """Number of updates, all of full batches; overrides epochs. 0 keeps the network as it starts."""
    batch_size: Positive = 128
    """Samples per update, over all devices."""
    micro_batch: Positive | None = None
    """Samples per forward pass; gradients are accumulated to a batch exactly."""
    mixup: Amount = 0.0
    """Alpha of MixUp; 0 disables it."""
    input_size: Pixels | None = None
    """Input size of the trained network in pixels; default: the size of the samples."""
    precise_bn: bool = True
    """After training, take BatchNorm's statistics from images as they are at test, if that is better."""
    seed: Seed = 0
    """Seed for shuffling, augmentation and initialization."""
    seeds: Several = 1
    """Number of initializations, trained side by side on the same batches."""
    qat: bool = False
    """Quantization-aware training: go on from trained weights, rounded as in an int8 file; export uses the ranges."""
    patience: Positive | None = None
    """Stop after this many epochs without a better validation accuracy, and keep the best weights."""
    class_bias: tuple[str, ...] = ()
    """Add to the logit of a class after training, as in 3=+3.5."""
    class_priors: tuple[str, ...] = ()
    """Fit class biases after training until the mean prediction matches these priors: uniform, or 3=0.1 ..."""
    optimizer: OptimizerConfig = OptimizerConfig()
    augmentation: AugmentationConfig = AugmentationConfig()

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        if self.patience is not None and self.validation == 0:
            raise ValueError("patience needs a validation part; set validation to 0.1, say")
        if self.class_bias and self.class_priors:
            raise ValueError("class_bias and class_priors both set the class biases; choose one")
        augmentation = self.augmentation
        if augmentation.resize is not None and augmentation.resize < (augmentation.crop_size or self._least_crop):
            raise ValueError(f"resize={augmentation.resize} needs a crop_size of at most {augmentation.resize}")
        if augmentation.crop_size is not None and augmentation.crop_scale is not None:
            raise ValueError("crop_scale and crop_size both crop; choose one")
        for text in (*self.class_bias, *(p for p in self.class_priors if p != "uniform")):
            parse_assignment(text)
        return self

    @property
    def _least_crop(self) -> float:
        """What a resize without a crop size is checked against: it needs one."""
        return float("inf")


class ClassifierOptions(TrainingOptions):
    """What training on labels takes."""

    heading: ClassVar[str] = "Model"

    modality: str = ""
    """Input of the model: rgb, gray, luminance, chrominance, or a pair's name; default: the samples as they are."""
    freeze: bool = False
    """Train the classifier head only."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Softmax cross-entropy, or binary cross-entropy with one sigmoid per class."""
    label_smoothing: Share = 0.0
    """Label smoothing."""
    head: Literal["keep", "zero", "probe", "best"] = "keep"
    """Classifier to start from: its own, zeros, a linear probe of the frozen network, or the best of own and probe."""
    calibrate: bool = False
    """Temperature scaling after training, on the validation part, else on a tenth of the samples, held out for it."""
    test_size: Pixels | None = None
    """Input size of the trained model in pixels; default: that of training."""

    @model_validator(mode="after")
    def _check_loss(self) -> Self:
        if self.loss == "sigmoid" and self.label_smoothing:
            raise ValueError("label_smoothing needs the softmax loss")
        if self.loss == "sigmoid" and self.calibrate:
            raise ValueError("calibrate needs the softmax loss")
        return self


NESTED: dict[str, type[Options]] = {"optimizer": OptimizerConfig, "augmentation": AugmentationConfig}
"""The groups that are one level deeper in YAML, and flat in Python and on the command line."""


def flat_fields(schema: type[Options]) -> dict[str, tuple[str] | tuple[str, str]]:
    """Each option of a schema by its flat name, with its path in the schema.

    >>> from understudy.config.recipe import TrainRecipe
    >>> flat_fields(TrainRecipe)["lr"], flat_fields(TrainRecipe)["optimizer"]
    (('optimizer', 'lr'), ('optimizer', 'name'))
    """
    found: dict[str, tuple[str] | tuple[str, str]] = {}
    for name in schema.model_fields:
        if name in schema.fixed or name == "kind":
            continue
        if name in NESTED:
            for inner in NESTED[name].model_fields:
                found.setdefault(name if inner == "name" else inner, (name, inner))
        else:
            found[name] = (name,)
    return found


def nest(schema: type[Options], values: Mapping[str, Any]) -> dict[str, Any]:
    """Flat values as the schema nests them; values that are nested already, and unknown names, stay as they are."""
    paths = flat_fields(schema)
    nested: dict[str, Any] = {}
    for name, value in values.items():
        path = paths.get(name, (name,))
        if len(path) == 1 or (name in NESTED and isinstance(value, (Mapping, BaseModel))):
            nested[name] = value
        else:
            nested.setdefault(path[0], {})[path[1]] = value
    return nested


def parse_assignment(text: str) -> tuple[str, float]:
    """`"3=+3.5"` -> ("3", 3.5).

    >>> parse_assignment("3=+3.5")
    ('3', 3.5)
    """
    name, equals, value = text.rpartition("=")
    try:
        number = float(value if equals and name else "")
    except ValueError:
        raise UnderstudyError(f"cannot parse {text!r}: write CLASS=NUMBER, as in 3=+3.5") from None
    if not abs(number) <= _LARGEST_LOGIT:
        raise UnderstudyError(f"the number in {text!r} must be finite and at most {_LARGEST_LOGIT:g}, as in 3=+3.5")
    return name, number


def parse_pairs(texts: Sequence[str]) -> dict[str, str]:
    """`["depth=maps/"]` -> {"depth": "maps/"}.

    >>> parse_pairs(["depth=maps/"])
    {'depth': 'maps/'}
    """
    for text in texts:
        if not re.fullmatch(r"\w+=.+", text):
            raise UnderstudyError(f"cannot parse pair {text!r}: write NAME=FOLDER, as in depth=maps/")
    return {name: place for name, _, place in (text.partition("=") for text in texts)}
