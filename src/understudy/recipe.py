"""What a run is: typed, checked, and saved as it was resolved. Python, YAML and flags are its three doors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from cyclopts import Group, Parameter
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from understudy.errors import UnderstudyError

Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(ge=1)]

_MODELS = Parameter(group=Group("Models", sort_key=1))  # how --help gathers the flags
_SAMPLES = Parameter(group=Group("Samples", sort_key=3))
_OPTIMIZER = Group("Optimizer", sort_key=4)
_VIEWS = Group("Views", sort_key=5)
_MACHINE = Parameter(group=Group("Machine", sort_key=6))

COMPARED = ("kd", "crd", "crd+kd", "dkd")
"""What `compare` compares where nothing is said: methods of logits and embeddings, which fit any two networks."""


def parse_assignment(text: str) -> tuple[str, float]:
    """`"3=+3.5"` -> ("3", 3.5)."""
    name, equals, value = text.rpartition("=")
    try:
        if not (equals and name):
            raise ValueError
        return name, float(value)
    except ValueError:
        raise UnderstudyError(f"{text!r} is not understood: write CLASS=NUMBER, as in 3=+3.5") from None


def parse_pairs(texts: Sequence[str]) -> dict[str, str]:
    """`["depth=maps/"]` -> {"depth": "maps/"}."""
    for text in texts:
        if not re.fullmatch(r"\w+=.+", text):
            raise UnderstudyError(f"pair {text!r} is not understood: write NAME=FOLDER, as in depth=maps/")
    return {name: place for name, _, place in (text.partition("=") for text in texts)}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, defer_build=True)


@Parameter(name="*", group=_OPTIMIZER)
class Optimizer(_Strict):
    """How the weights are moved."""

    optimizer: Literal["sgd", "adamw"] = "adamw"
    """Stochastic gradient descent with momentum, or AdamW."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decay of weight matrices and kernels; biases and norms are left alone."""
    decay_to: Literal["zero", "initial"] = "zero"
    """What weights decay towards: zero, or what they were before the first step."""
    schedule: Literal["constant", "step", "cosine", "linear"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of the steps over which the learning rate rises from zero."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """The same in steps, the first of them at a rate of zero."""
    milestones: tuple[Share, ...] = (0.625, 0.75, 0.875)
    """Where the step schedule falls, as shares of all steps."""
    milestone_steps: tuple[Positive, ...] = ()
    """The same in steps: the first update of each lower rate."""
    gamma: Share = 0.1
    """What the learning rate is multiplied by at each milestone."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of a gradient."""
    max_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the weights coming into any one hidden unit."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which then is the result."""


@Parameter(name="*", group=_VIEWS)
class Views(_Strict):
    """How a sample is varied each time it is shown. Unset: what suits the data."""

    jitter: Annotated[int, Field(ge=0)] | None = None
    """Shift by up to this many pixels, with zeros beyond the edge."""
    flip: bool | None = None
    """Mirror left to right, half of the time."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Turn by up to this many degrees."""
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stretch each axis by up to this share."""
    elastic: Annotated[float, Field(ge=0)] = 0.0
    """Root mean square of a smooth random displacement, in pixels (Simard et al. 2003)."""
    crop: Share | None = None
    """Smallest share of the area that a random crop, brought back to the size, keeps; 1 is no crop."""
    resize: Positive | None = None
    """Pixels a side of the square that whole images are brought to, for a window to be cut from it."""
    window: Positive | None = None
    """Pixels a side of that window, at random; in tests whole images are brought straight to its size."""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Deviation of what is added to each value: in units of a vector's, as a share of the range of pixels."""


class Recipe(_Strict):
    """What `train` and `distill` share."""

    data: Annotated[str, Parameter(parse=False)] = ""
    """What to learn from: a set's name, a folder, a zip, a CSV, a parquet file or tar shards."""
    data_root: Annotated[str | None, _SAMPLES] = None
    """Folder of the named sets; UNDERSTUDY_DATA, then ./data, where unset."""
    download: Annotated[bool, _SAMPLES, Parameter(negative=())] = False
    """Fetch a named set that is not there."""
    size: Annotated[Positive | None, _SAMPLES] = None
    """Pixels a side that images are brought to; where unset, 224 if their sizes differ."""
    read_size: Annotated[Positive | None, _SAMPLES] = None
    """Pixels a side that the net in training reads, whatever the samples have; those of the samples where unset."""
    only_classes: Annotated[tuple[str, ...], _SAMPLES] = ()
    """Learn from the samples of these classes only."""
    omit_classes: Annotated[tuple[str, ...], _SAMPLES] = ()
    """Leave the samples of these classes out."""
    pair: Annotated[tuple[str, ...], _SAMPLES] = ()
    """The same samples in another modality, matched by name, as in depth=FOLDER or depth=TABLE."""
    fraction: Annotated[Share, _SAMPLES] = 1.0
    """Share of the samples to learn from, drawn evenly over the classes."""
    subset: Annotated[str | None, _SAMPLES] = None
    """A manifest (JSON) of the samples to learn from, as transfer --shots writes it."""
    with_validation: Annotated[bool, _SAMPLES, Parameter(negative=())] = False
    """Learn from the set's own validation part too."""
    epochs: Positive = 30
    """Passes over the samples."""
    steps: Positive | None = None
    """Updates, in place of epochs: all of whole batches, which then run on from one pass to the next."""
    batch_size: Positive = 128
    """Samples a step, over all devices."""
    micro_batch: Positive | None = None
    """Samples a forward pass; smaller ones are accumulated to a batch with exact weights."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Mix each sample with another of its batch, by one weight a batch from Beta(a, a) with this a; 0 mixes none."""
    seed: int = 0
    """Of the order, the views and, counted on from it, the initial weights."""
    seeds: Positive = 1
    """How many initialisations to train side by side on the same batches."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training part kept to watch and to choose by."""
    patience: Positive | None = None
    """Stop after this many epochs without a better validation accuracy, and keep the best weights."""
    class_bias: tuple[str, ...] = ()
    """Raise a class's logit after training, as in 3=+3.5."""
    class_priors: tuple[str, ...] = ()
    """Fit the class biases until the mean prediction has these priors: uniform, or 3=0.1 ..."""
    optimizer: Optimizer = Optimizer()
    views: Views = Views()
    precision: Annotated[Literal["auto", "32", "bf16", "fp16"], _MACHINE] = "auto"
    """Of the forward pass; auto is bf16 where the processor has units for it and the net gains by it, else 32."""
    accelerator: Annotated[Literal["auto", "cpu", "cuda", "mps"], _MACHINE] = "auto"
    """Where to compute."""
    devices: Annotated[Positive, _MACHINE] = 1
    """How many processes share each batch."""
    nodes: Annotated[Positive, _MACHINE] = 1
    """Machines, where torchrun or SLURM started one process a device."""
    workers: Annotated[Annotated[int, Field(ge=0)] | None, _MACHINE] = None
    """Processes that decode images; one a core, at most 8, where unset."""
    checkpoint_every: Annotated[float, Field(ge=0), _MACHINE] = 60.0
    """Seconds between checkpoints."""
    tracker: Annotated[Literal["none", "tensorboard"], _MACHINE] = "none"
    """Where metrics go beside metrics.jsonl."""

    @field_validator("pair", mode="before")
    @classmethod
    def _paired(cls, value: object) -> object:
        """A list of NAME=PLACE, or in Python a mapping."""
        return tuple(f"{name}={place}" for name, place in value.items()) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        parse_pairs(self.pair)
        if self.patience is not None and self.validation == 0:
            raise ValueError("patience needs a validation part to choose by; set validation to 0.1, say")
        if self.class_bias and self.class_priors:
            raise ValueError("class_bias and class_priors both set the class biases; choose one")
        if self.only_classes and self.omit_classes:
            raise ValueError("only_classes and omit_classes both choose classes; use one")
        views = self.views
        if views.resize is not None and (views.window is None or views.window > views.resize):
            raise ValueError(f"resize needs a window to be cut from its {views.resize} pixels, and no larger one")
        if views.window is not None and views.crop is not None:
            raise ValueError("crop and window both cut a part out of an image; choose one")
        for text in (*self.class_bias, *(p for p in self.class_priors if p != "uniform")):
            parse_assignment(text)
        return self


class TrainRecipe(Recipe):
    """A teacher or a baseline, trained on the labels alone."""

    kind: Annotated[Literal["train"], Parameter(show=False, parse=False)] = "train"
    model: Annotated[str, _MODELS] = ""
    """The model to train, as in mlp:1200x2?dropout=0.5 or timm:resnet18; a run folder or weights file to begin from."""
    sees: Annotated[str, _MODELS] = ""
    """What the model sees: rgb, grey, luminance, chrominance, or a pair's name; the samples as they are where unset."""
    freeze: Annotated[bool, _MODELS, Parameter(negative=())] = False
    """Train the model's last layer, its head, alone."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """What the labels are learnt by: one softmax over the classes, or a sigmoid for each of them."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target spread evenly over the classes."""
    zero_head: Annotated[bool, _MODELS, Parameter(negative=())] = False
    """Begin with a last layer of zeros."""
    calibrate: Annotated[bool, _MODELS, Parameter(negative=())] = False
    """Scale the logits after training until mean confidence is accuracy, on the validation part or what was learnt."""
    test_size: Annotated[Positive | None, _MODELS] = None
    """Pixels a side that the trained model reads; those it was trained at where unset."""

    @model_validator(mode="after")
    def _one_loss(self) -> Self:
        if self.loss == "sigmoid" and self.label_smoothing:
            raise ValueError("label_smoothing is of the softmax's targets; leave it out with the sigmoid loss")
        if self.loss == "sigmoid" and self.calibrate:
            raise ValueError("calibrate is of the softmax; leave it out with the sigmoid loss")
        return self


class SpecialistRecipe(TrainRecipe):
    """One specialist of a panel: the generalist, trained on to tell a group of classes apart."""

    kind: Annotated[Literal["specialist"], Parameter(show=False, parse=False)] = "specialist"  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]
    epochs: Positive = 10
    """Passes over the group's samples, beside as many others."""
    group: tuple[str, ...] = ()
    """The classes that it tells apart; all others are its dustbin."""
    soft: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the generalist's soft targets for the other classes, which then stay apart; 0 for none."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of these soft targets."""


class DistillRecipe(Recipe):
    """A student trained on its teachers' soft targets, beside the same student trained alone."""

    kind: Annotated[Literal["distill"], Parameter(show=False, parse=False)] = "distill"
    teacher: Annotated[tuple[str, ...], _MODELS] = ()
    """Run folders or weights files; several make an ensemble, and so do the seeds of one run."""
    student: Annotated[str, _MODELS] = ""
    """The model to train, as in mlp:800x2 or timm:resnet18."""
    teacher_sees: Annotated[str, _MODELS] = ""
    """What the teachers see, as they were trained to; it need not be said of those that were told."""
    student_sees: Annotated[str, _MODELS] = ""
    """What the student sees: rgb, grey, luminance, chrominance, or a pair's name."""
    baseline: bool = True
    """Train the same student alone on the same batches, to compare."""
    method: Annotated[tuple[str, ...], Parameter(name=("--method", "--methods"))] = ("kd",)
    """What the student learns: kd, or objectives added up as in crd+kd; several are trained side by side."""
    objective: tuple[str, ...] = ()
    """Terms of the loss in place of a method, as in crd:weight=0.8,negatives=16384 soft:temperature=4."""
    student_taps: Annotated[tuple[str, ...], _MODELS] = ()
    """Layers that objectives of features read, from input to output; the ends of the stages where unset."""
    teacher_taps: Annotated[tuple[str, ...], _MODELS] = ()
    """The same of every teacher."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Of the soft targets of kd and dkd."""
    hard_weight: Annotated[float, Field(ge=0)] | None = None
    """Weight of the labels: 0.1 beside kd alone, which has the rest, and 1 beside other methods where unset."""
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    """How the teachers' distributions are joined."""
    transfer_set: Annotated[str | None, _SAMPLES] = None
    """Samples to distil on in place of the data's training part; they need no labels."""
    transfer_beside: Annotated[bool, _SAMPLES, Parameter(negative=())] = False
    """Distil on the data's training part as well as on the transfer set, all without labels."""

    @field_validator("method", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """`"kd,crd"`, one name, or a list of them."""
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            return value
        return tuple(dict.fromkeys(name for names in names for name in names.split(",") if name))

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if not self.method:
            raise ValueError("method names nothing to learn; understudy methods lists what there is")
        if self.transfer_beside and not self.transfer_set:
            raise ValueError("transfer_beside is said of a transfer set, and there is none; pass --transfer-set")
        if self.objective and self.method != ("kd",):
            raise ValueError("method and objective both say what to learn; choose one")
        return self


AnyRecipe = TrainRecipe | DistillRecipe
