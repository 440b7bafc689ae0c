"""What a run is: typed, checked, and saved with every field. Python, YAML and the command line share this schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from understudy.config.options import ClassifierOptions, TrainingOptions
from understudy.config.values import Amount, Count, PathText, Pixels, Positive, Several, Temperature, listed_names

COMPARED = ("kd", "crd", "crd+kd", "dkd")
"""The default methods of `compare`: of logits and embeddings, which fit any two networks."""


class Recipe(TrainingOptions):
    """What the recipes of all kinds share."""

    kind: str = ""
    data: str = ""
    """Training data: a name, a folder, a zip, a CSV, a parquet file or tar shards."""


class TrainRecipe(Recipe, ClassifierOptions):
    """A teacher or a baseline, trained on labels."""

    heading: ClassVar[str] = "Model"
    required: ClassVar[Mapping[str, str]] = {
        "data": "write understudy train digits, say; understudy datasets lists named data sets",
        "model": "write --model mlp:256x2, say; understudy models lists models",
    }

    kind: str = "train"
    model: str = ""
    """Model to train, as in mlp:1200x2?dropout=0.5 or timm:resnet18; or a run folder or weights file to start from."""


class SpecialistRecipe(TrainRecipe):
    """One specialist of a panel: the generalist, fine-tuned to tell the classes of a group apart."""

    heading: ClassVar[str] = "Specialist"

    kind: str = "specialist"
    epochs: Positive = 10
    """Passes over the group's samples, with as many others."""
    group: tuple[str, ...] = ()
    """The classes to tell apart; all others are its dustbin class."""
    soft: Amount = 0.0
    """Weight of the generalist's soft targets for the other classes, which then stay apart; 0 for none."""
    temperature: Temperature = 1.0
    """Temperature of these soft targets."""
    targets: PathText | None = None
    """Folder of these soft targets, as understudy label wrote it; default: the generalist gives them in each step."""

    @model_validator(mode="after")
    def _check_targets(self) -> Self:
        if self.targets is not None and not self.soft:
            raise ValueError("targets are read for soft targets only; pass --soft 1, say, or leave out --targets")
        return self


class DistillRecipe(Recipe):
    """A student trained on its teachers' soft targets, with the same student trained alone as the baseline."""

    heading: ClassVar[str] = "Distillation"
    required: ClassVar[Mapping[str, str]] = {
        "data": "write understudy distill digits, say; understudy datasets lists named data sets",
        "teacher": "write --teacher runs/teacher, say; understudy train makes a teacher",
        "student": "write --student mlp:16x1, say; understudy models lists models",
    }
    instead: ClassVar[Mapping[str, str]] = {"teacher": "targets"}

    kind: str = "distill"
    teacher: tuple[str, ...] = ()
    """Run folders, weights files or pre-trained models, as in timm:NAME?weights=FILE; several make an ensemble."""
    student: str = ""
    """Model to train, as in mlp:800x2 or timm:resnet18."""
    targets: PathText | None = None
    """Folder of the teachers' answers, as understudy label wrote it, in place of the teachers."""
    teacher_modality: str = ""
    """Input of the teachers; needed only for those that do not say."""
    teacher_size: Pixels | None = None
    """Input size of pre-trained teachers in pixels; default: their own, at most 224 and twice the images'."""
    student_modality: str = ""
    """Input of the student: rgb, gray, luminance, chrominance, or a pair's name."""
    baseline: bool = True
    """Also train the same student alone, on the same batches."""
    method: tuple[str, ...] = ("kd",)
    """Distillation method: kd, or a sum as in crd+kd; several are trained side by side."""
    objective: tuple[str, ...] = ()
    """Terms of the loss in place of a method, as in crd:weight=0.8,negatives=16384 kd:temperature=4."""
    student_taps: tuple[str, ...] = ()
    """Layers whose features are distilled, from input to output; default: the ends of the stages."""
    teacher_taps: tuple[str, ...] = ()
    """The same of every teacher."""
    temperature: Temperature = 4.0
    """Temperature of kd and dkd."""
    hard_weight: Amount | None = None
    """Weight of the labels' cross-entropy; default: the method's own, 0.1 (and 0.9 for kd) with kd alone, mostly 1."""
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    """Mean of the teachers' distributions."""
    initial_epochs: Count | None = None
    """Epochs before the others, of the first stage of methods of two (ab, fsp, ft); default: an eighth as many."""
    transfer_set: PathText | None = None
    """Samples to distill on in place of the training part; labels are not needed."""
    transfer_beside: bool = False
    """Distill on the training part, with its labels, and the transfer set, without labels, together."""

    @field_validator("method", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return listed_names(value)

    @model_validator(mode="after")
    def _check_distillation(self) -> Self:
        if not self.method:
            raise ValueError("method is empty; understudy methods lists what there is")
        if self.transfer_beside and not self.transfer_set:
            raise ValueError("transfer_beside needs a transfer set; pass --transfer-set")
        if self.objective and self.method != ("kd",):
            raise ValueError("method and objective both define the loss; choose one")
        return self


class CompareRecipe(DistillRecipe):
    """A student trained by several methods, and alone, on the same batches."""

    kind: str = "compare"
    method: tuple[str, ...] = COMPARED
    """Distillation methods, as in kd crd crd+kd; understudy methods lists them."""
    seeds: Several = 3
    """Number of initializations, the same ones for every method."""


class SpeechTrainRecipe(TrainRecipe):
    """An acoustic model, or with several seeds an ensemble of them."""

    kind: str = "speech-train"
    model: str = "mlp:512x4"
    """Model to train, as in mlp:2560x8."""
    epochs: Positive = 10
    """Passes over the frames."""
    batch_size: Positive = 256
    """Frames per update, over all devices."""


class SpeechDistillRecipe(DistillRecipe):
    """An ensemble of acoustic models distilled into one; temperature and weight are among Hinton et al.'s."""

    kind: str = "speech-distill"
    student: str = "mlp:512x4"
    """Model to train, as in mlp:2560x8."""
    epochs: Positive = 10
    """Passes over the frames."""
    batch_size: Positive = 256
    """Frames per update, over all devices."""
    temperature: Temperature = 2.0
    """Temperature of kd and dkd."""
    hard_weight: Amount | None = 0.5
    """Weight of the labels' cross-entropy."""


RECIPES: dict[str, type[Recipe]] = {
    "train": TrainRecipe,
    "specialist": SpecialistRecipe,
    "distill": DistillRecipe,
    "compare": CompareRecipe,
    "speech-train": SpeechTrainRecipe,
    "speech-distill": SpeechDistillRecipe,
}
"""The schema of each kind of run. A new kind adds its line here, and its class in `understudy.pipeline`."""
