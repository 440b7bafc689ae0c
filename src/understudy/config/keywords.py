"""The options of each verb as typed keywords: what an editor completes and a type checker checks.

They mirror the schemas, field by field; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict


class OptimizerKeywords(TypedDict, total=False):
    """Optimizer and learning rate schedule."""

    optimizer: Literal["sgd", "adamw"] | Mapping[str, Any]
    """Optimizer: SGD with momentum, or AdamW."""
    lr: float
    """Peak learning rate."""
    momentum: float
    """Momentum of SGD."""
    weight_decay: float
    """Weight decay of matrices and kernels."""
    decay_norms: bool
    """Also decay biases and the weights of norms."""
    decay_to: Literal["zero", "initial"]
    """Target of the weight decay: zero, or the initial weights (L2-SP)."""
    schedule: Literal["constant", "step", "cosine", "linear"]
    """Learning rate schedule after the warm-up."""
    warmup: float
    """Fraction of the steps over which the learning rate rises from zero."""
    warmup_steps: int | None
    """Warm-up in steps, the first of them at a learning rate of zero; overrides warmup."""
    milestones: Sequence[float]
    """Where the step schedule decays, as fractions of all steps."""
    milestone_steps: Sequence[int]
    """Where the step schedule decays, in steps; overrides milestones."""
    gamma: float
    """Factor of the learning rate at each milestone."""
    clip: float | None
    """Maximum gradient norm."""
    max_norm: float | None
    """Maximum norm of the incoming weights of each hidden unit."""
    ema: float | None
    """Decay of an exponential moving average of the weights, which becomes the result."""


class AugmentationKeywords(TypedDict, total=False):
    """Data augmentation. Where unset: what suits the data."""

    translate: int | None
    """Maximum shift in pixels, zero-padded."""
    flip: bool | None
    """Random horizontal flip; default: color images only."""
    rotate: float
    """Maximum rotation in degrees."""
    zoom: float
    """Maximum relative stretch of each axis."""
    elastic: float
    """Root mean square of a smooth random displacement, in pixels (Simard et al. 2003)."""
    crop_scale: float | None
    """Minimum area fraction of a random resized crop; 1 disables it."""
    resize: int | None
    """Resize to a square of this many pixels before the crop of crop_size."""
    crop_size: int | None
    """Random crop of this many pixels; test images are resized to it."""
    noise: float
    """Standard deviation of added noise: in units of a vector's values, as a fraction of the range of pixels."""
    augmentation: Mapping[str, Any]
    """The same options, nested."""


class DataKeywords(TypedDict, total=False):
    """Where the data is, and which of its classes to use."""

    data_root: str | None
    """Folder of the named data sets; default: $UNDERSTUDY_DATA, else ./data."""
    download: bool
    """Download a named data set that is missing."""
    size: int | None
    """Image size in pixels; default: 224 where image sizes differ."""
    only_classes: Sequence[str]
    """Train on these classes only."""
    omit_classes: Sequence[str]
    """Train on all but these classes."""


class SampleKeywords(DataKeywords, total=False):
    """Which samples to train on."""

    pair: Sequence[str] | Mapping[str, str]
    """A second modality of the same samples, matched by name, as in depth=FOLDER or depth=TABLE."""
    fraction: float
    """Fraction of the training samples to use, stratified by class."""
    subset: str | None
    """Manifest (JSON) of the training samples to use, as written by few-shot transfers."""
    with_validation: bool
    """Train on the data set's own validation part too."""
    validation: float
    """Fraction of the training part held out for validation."""


class MachineKeywords(TypedDict, total=False):
    """Where to compute."""

    precision: Literal["auto", "32", "bf16", "fp16"]
    """Precision of the forward pass; auto: bf16 where the hardware and the network gain by it, else 32."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"]
    """Device type."""
    devices: int
    """Number of devices; each batch is split over them."""
    nodes: int
    """Number of machines, when launched by torchrun or SLURM."""
    compile: bool
    """Compile the networks with torch.compile."""
    threads: int | None
    """CPU threads; default: what is fastest in a few timed steps, at most one per core that may be used."""
    workers: int | None
    """Data loading processes; default: one per core that may be used, at most 8."""
    checkpoint_every: float
    """Seconds between checkpoints."""
    tracker: Literal["none", "tensorboard", "csv", "wandb", "mlflow", "trackio"]
    """Experiment tracker, in addition to metrics.jsonl."""


class TrainingKeywords(SampleKeywords, MachineKeywords, OptimizerKeywords, AugmentationKeywords, total=False):
    """What every training takes."""

    epochs: int
    """Passes over the training samples."""
    steps: int | None
    """Number of updates, all of full batches; overrides epochs. 0 keeps the network as it starts."""
    batch_size: int
    """Samples per update, over all devices."""
    micro_batch: int | None
    """Samples per forward pass; gradients are accumulated to a batch exactly."""
    mixup: float
    """Alpha of MixUp; 0 disables it."""
    input_size: int | None
    """Input size of the trained network in pixels; default: the size of the samples."""
    precise_bn: bool
    """After training, take BatchNorm's statistics from images as they are at test, if that is better."""
    seed: int
    """Seed for shuffling, augmentation and initialization."""
    seeds: int
    """Number of initializations, trained side by side on the same batches."""
    qat: bool
    """Quantization-aware training: go on from trained weights, rounded as in an int8 file; export uses the ranges."""
    patience: int | None
    """Stop after this many epochs without a better validation accuracy, and keep the best weights."""
    class_bias: Sequence[str]
    """Add to the logit of a class after training, as in 3=+3.5."""
    class_priors: Sequence[str]
    """Fit class biases after training until the mean prediction matches these priors: uniform, or 3=0.1 ..."""


class ClassifierKeywords(TrainingKeywords, total=False):
    """What training on labels takes."""

    modality: str
    """Input of the model: rgb, gray, luminance, chrominance, or a pair's name; default: the samples as they are."""
    freeze: bool
    """Train the classifier head only."""
    loss: Literal["softmax", "sigmoid"]
    """Softmax cross-entropy, or binary cross-entropy with one sigmoid per class."""
    label_smoothing: float
    """Label smoothing."""
    head: Literal["keep", "zero", "probe", "best"]
    """Classifier to start from: its own, zeros, a linear probe of the frozen network, or the best of own and probe."""
    calibrate: bool
    """Temperature scaling after training, on the validation part, else on a tenth of the samples, held out for it."""
    test_size: int | None
    """Input size of the trained model in pixels; default: that of training."""


class TrainKeywords(ClassifierKeywords, total=False):
    """A teacher or a baseline, trained on labels."""


class DistillKeywords(TrainingKeywords, total=False):
    """A student trained on its teachers' soft targets, with the same student trained alone as the baseline."""

    targets: str | Path | None
    """Folder of the teachers' answers, as understudy label wrote it, in place of the teachers."""
    teacher_modality: str
    """Input of the teachers; needed only for those that do not say."""
    teacher_size: int | None
    """Input size of pre-trained teachers in pixels; default: their own, at most 224 and twice the images'."""
    student_modality: str
    """Input of the student: rgb, gray, luminance, chrominance, or a pair's name."""
    baseline: bool
    """Also train the same student alone, on the same batches."""
    method: str | Sequence[str]
    """Distillation method: kd, or a sum as in crd+kd; several are trained side by side."""
    objective: Sequence[str]
    """Terms of the loss in place of a method, as in crd:weight=0.8,negatives=16384 kd:temperature=4."""
    student_taps: Sequence[str]
    """Layers whose features are distilled, from input to output; default: the ends of the stages."""
    teacher_taps: Sequence[str]
    """The same of every teacher."""
    temperature: float
    """Temperature of kd and dkd."""
    hard_weight: float | None
    """Weight of the labels' cross-entropy; default: the method's own, 0.1 (and 0.9 for kd) with kd alone, mostly 1."""
    mean: Literal["arithmetic", "geometric"]
    """Mean of the teachers' distributions."""
    initial_epochs: int | None
    """Epochs before the others, of the first stage of methods of two (ab, fsp, ft); default: an eighth as many."""
    transfer_beside: bool
    """Distill on the training part, with its labels, and the transfer set, without labels, together."""


class CompareKeywords(DistillKeywords, total=False):
    """A student trained by several methods, and alone, on the same batches."""


class LabelKeywords(SampleKeywords, MachineKeywords, AugmentationKeywords, total=False):
    """Teachers' answers to augmented views of the samples, kept on the disk for any number of students."""

    views: int
    """Augmented views of each sample; students see them in turn."""
    embedding: bool
    """Keep the teacher's embedding too, for methods such as crd."""
    features: Sequence[str]
    """Keep these layers' outputs too."""
    int8: bool
    """Keep embeddings and features as int8 with a scale; default: float16."""
    logits: Literal["auto", "all", "compact", "none"]
    """All as float16, compact: nearly as good in 32 bytes, or none; auto: all, up to 64 classes, where they match."""
    members: bool
    """Keep the answers of several teachers apart, as methods on embeddings need them."""
    mean: Literal["arithmetic", "geometric"]
    """Mean of the teachers' distributions."""
    teacher_modality: str
    """Input of the teachers; needed only for those that do not say."""
    teacher_size: int | None
    """Input size of pre-trained teachers in pixels; default: their own, at most 224 and twice the images'."""
    mixup: float
    """Alpha of MixUp of the views; 0 disables it."""
    batch_size: int
    """Samples per forward pass of the teachers."""
    seed: int
    """Seed of the views."""


class SpeechTrainKeywords(ClassifierKeywords, total=False):
    """An acoustic model, or with several seeds an ensemble of them."""

    model: str
    """Model to train, as in mlp:2560x8."""


class SpeechDistillKeywords(DistillKeywords, total=False):
    """An ensemble of acoustic models distilled into one; temperature and weight are among Hinton et al.'s."""

    student: str
    """Model to train, as in mlp:2560x8."""
    transfer_set: str | None
    """Samples to distill on in place of the training part; labels are not needed."""


class TransferKeywords(ClassifierKeywords, total=False):
    """What differs from the rule; options that are left out are the rule's."""

    from_scratch: bool
    """Accept a model without pre-trained weights."""
    rule: Literal["auto", "bit", "finetune"]
    """BiT-HyperRule, or fine-tuning from a linear probe; auto: the first for networks with GroupNorm, as BiT's."""
    variant: Literal["code", "paper"]
    """BiT-HyperRule as in the released code, or as in the paper."""
    random_crop: bool
    """Random crops; without, images are resized to the input size."""
    draws: int
    """Few-shot transfers: number of random draws of each size."""


class SuiteKeywords(TransferKeywords, total=False):
    """One backbone transferred to many tasks."""

    shots: Sequence[int]
    """Few-shot transfers: training images per class, as in 1,5,10."""
    vtab: bool
    """Train on VTAB-1k's 1,000 examples of each task, 800 + 200."""


class PretrainKeywords(ClassifierKeywords, total=False):
    """A backbone pre-trained as Big Transfer's are."""

    scale: Literal["S", "M", "L"]
    """S: 90 epochs, softmax. M: 90 epochs, sigmoids. L: 40 epochs, sigmoids."""


class CompressKeywords(DataKeywords, MachineKeywords, total=False):
    """A backbone transferred to the data, distilled into a student, and exported."""

    teacher: Sequence[str]
    """Run folders or weights files that know the classes, in place of a backbone: they teach as they are."""
    format: str | Sequence[str]
    """Files to export: onnx, int8, torch, web (a page that classifies images in the browser)."""
    from_scratch: bool
    """Accept a backbone without pre-trained weights."""
    budget: str | float | None
    """Time for the whole command, as in 30m or 1h30m; sizes, views and steps are chosen by measured speed."""
    latency: str | float | None
    """Time that one image may take on one thread, as in 5ms; measured here, in ONNX Runtime."""
    device_latency: float
    """How many times slower than this machine the device is that --latency is for."""
    max_size: str | float | None
    """Largest file, as in 2MB."""
    max_flops: str | float | None
    """Most floating point operations per image, as in 300M."""
    method: str | Sequence[str]
    """Distillation methods to try, as in kd dist, or auto; default: pkt+cosine+kd, and kd+ce above 50,000 images."""
    temperature: float
    """Temperature of kd and dkd."""
    hard_weight: float | None
    """Weight of the labels' cross-entropy; default: the method's own, 0.1 with kd alone, else mostly 1."""
    seeds: int
    """Number of initializations of the student, trained side by side."""
    baseline: bool
    """Also train the same student alone, as long; without, the student has twice the time, and no gain is shown."""
    steps: int | None
    """Updates of the student; default: 200 passes over the images."""
    teacher_steps: int | None
    """Updates of the fine-tuning; 0: the frozen backbone teaches."""
    crop_size: int | None
    """Input size of the teacher in pixels; default: the backbone's, at most 224 and twice the images'."""
    views: int
    """Augmented views of each image that the teachers answer, once for all students; fewer where fewer are shown."""
    student_size: int | None
    """Input size of the student in pixels; default: that of the images and the teacher, and what time allows."""
    micro_batch: int | None
    """Images per forward pass of the fine-tuning; gradients are accumulated to a batch exactly."""
    flip: bool | None
    """Random horizontal flip; default: color images only."""
    seed: int
    """Seed for shuffling, augmentation and initialization."""


class SpecialistsKeywords(ClassifierKeywords, total=False):
    """Classes grouped by what a generalist confuses, and a specialist for each group."""

    soft: float
    """Weight of the generalist's soft targets for the other classes, which then stay apart; 0 for none."""
    temperature: float
    """Temperature of these soft targets."""
    targets: str | Path | None
    """Folder of these soft targets, as understudy label wrote it; default: the generalist gives them in each step."""
    clusters: int
    """Number of groups."""
    group_size: int | None
    """Classes per group, the nearest to its center, so that groups may overlap; default: the clusters as they are."""
    columns: Literal["correlation", "covariance"]
    """What is clustered: columns of the predictions' correlation, or, as in the paper, of their covariance."""
    top_n: int
    """How many of the generalist's most probable classes activate specialists."""
    only: int | None
    """Train this specialist only, counted from 0."""
    parallel: int
    """How many specialists to train at a time."""
    student: Sequence[str]
    """Run folders or weights files of networks distilled from the panel, to show on its page."""
