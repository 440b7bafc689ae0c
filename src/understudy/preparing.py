"""From a recipe to what the loop is fed: sources, views, contract, teachers, members."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from understudy import specialist
from understudy.composing import Term, compose, methods_of
from understudy.contracts import check_seen, contract_of, modalities_of, tell
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
from understudy.models import InputContract, Network, build, find_head, is_code, is_depthwise, load_network, start_from
from understudy.objectives import Setting
from understudy.panels import MANIFEST, load_teacher, parts_of
from understudy.recipe import AnyRecipe, DistillRecipe, SpecialistRecipe, TrainRecipe, parse_pairs
from understudy.runs import Run, find_run
from understudy.signals import Shapes
from understudy.teachers import Ensemble, SpecialistPanel, Teacher, check_classes
from understudy.training import Learner, Member


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


def check_recipe(recipe: AnyRecipe, given: Given) -> None:
    """Say what a recipe lacks."""
    verb = recipe.kind
    if not recipe.data and given.data is None:
        raise UnderstudyError(f"there is nothing to learn from; write understudy {verb} DATA, as in digits or photos/")
    if isinstance(recipe, TrainRecipe):
        if not recipe.model and given.model is None:
            raise UnderstudyError("there is no model to train; pass --model, as in --model mlp:300x2")
        return
    if not recipe.teacher and not given.teachers:
        raise UnderstudyError("there is no teacher; pass --teacher with a run folder or a weights file")
    if not recipe.student and given.model is None:
        raise UnderstudyError("there is no student; pass --student, as in --student mlp:300x2")
    methods_of(recipe)  # a name or an option that there is none of is said before anything is opened


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
        return PLAIN
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
    )


def prepare_teachers(recipe: AnyRecipe, given: Given, material: Material) -> tuple[dict[str, Network], list[str]]:
    """The teachers' networks by name, and the files they, or a specialist, were read from."""
    if isinstance(recipe, SpecialistRecipe):
        return {recipe.model: load_network(Path(recipe.model))} if recipe.soft else {}, [recipe.model]
    if not isinstance(recipe, DistillRecipe):
        return {}, []
    networks: dict[str, Network] = {}
    for index, module in enumerate(given.teachers):
        network = networks[f"teacher-{index}"] = build(module, material.contract(recipe.teacher_sees))
        if not network.classes:  # neither the data nor the module has names
            names = map(str, range(network.shapes(()).classes))
            network.contract = replace(network.contract, classes=tuple(names))
    files = [] if given.teachers else [file for name in recipe.teacher for file in weights_of(name)]
    for file in files:
        networks[str(file)] = load_teacher(file)  # a file's word is not the caller's: its code is never run
    for network in networks.values():
        network.full_precision = loses_by_bf16(recipe, network)
    classes = material.labelled.classes or next(iter(networks.values())).classes
    for name, network in networks.items():
        check_classes(network, f"teacher {name}", classes)
        tell(network, f"teacher {name}", recipe.teacher_sees)
        check_seen(material.train, network.contract.modality)
    return networks, [str(part) for file in files for part in parts_of(file)]


def weights_of(name: str) -> list[Path]:
    """The weights files that a run folder or a file's path stands for: the distilled ones where there are any."""
    path = Path(name)
    if (path / MANIFEST).is_file():
        return [path / MANIFEST]  # a panel of specialists
    if path.is_dir():
        models = Run(path).models
        if not models:
            raise UnderstudyError(f"{name} holds no trained model; finish it with: understudy resume {name}")
        distilled = [file for member, file in models.items() if member.startswith("distilled")]
        return distilled or list(models.values())
    if not path.is_file():
        raise UnderstudyError(f"there is no run folder or weights file {name}")
    return [path]


def networks_of(target: str | Path) -> dict[str, Network]:
    """The networks of a run folder, or of one weights file, by name, as "distilled-0"."""
    path = Path(target)
    (file, *_) = weights_of(str(path))  # complains of what is not there, and of a run without a trained model
    if path.is_dir():
        if file.name == MANIFEST:
            return {"model-0": load_teacher(file)}
        return {name: load_network(file) for name, file in find_run(path).models.items()}
    name = path.stem if path.stem.rpartition("-")[0] in ("alone", "distilled", "model") else "model-0"
    return {name: load_network(path)}


def join(teachers: Sequence[Network], recipe: AnyRecipe, device: torch.device) -> Teacher | Ensemble | SpecialistPanel:
    """One teacher, or an ensemble of several."""
    frozen = [
        network.placed(device) if isinstance(network, SpecialistPanel) else Teacher(network, device)
        for network in teachers
    ]
    return Ensemble(frozen, recipe.mean) if isinstance(recipe, DistillRecipe) and len(frozen) > 1 else frozen[0]


def prepare_members(
    recipe: AnyRecipe, given: Given, material: Material, teachers: Sequence[Network] = ()
) -> list[Member]:
    """The cohort, by initialisation: the model; or the student alone, unless there is no baseline, and by each method.

    Names are "model-0", "alone-0", "distilled-0", and "distilled-crd+kd-0" where there are several methods.
    """
    jobs: dict[str, tuple[Term, ...]]
    if isinstance(recipe, TrainRecipe):
        softmax = Term("hard", 1.0, {"label_smoothing": recipe.label_smoothing})
        jobs = {"model": (Term("sigmoid", 1.0) if recipe.loss == "sigmoid" else softmax,)}
    else:
        methods = methods_of(recipe)
        jobs = {"distilled" if len(methods) == 1 else f"distilled-{label}": terms for label, terms in methods.items()}
        if recipe.baseline and material.train.targets is not None:
            jobs = {"alone": (Term("hard", 1.0),)} | jobs
    spec = recipe.model if isinstance(recipe, TrainRecipe) else recipe.student
    contract = student_contract(recipe, material, teachers)
    members = []
    for number in range(recipe.seeds):
        seed = recipe.seed + number
        for name, terms in jobs.items():
            if isinstance(recipe, SpecialistRecipe):
                network = specialist.network(recipe, contract)
            else:
                network = build_student(spec, given, contract, number, recipe.seed, recipe.seeds > 1 or len(jobs) > 1)
            network.full_precision = loses_by_bf16(recipe, network)
            for source in filter(None, (material.train, material.validation)):
                check_seen(source, network.contract.modality)
            if side := recipe.read_size or recipe.views.window:
                network.feed(side)
            if isinstance(recipe, TrainRecipe):
                _begin(network, recipe)
            objective = compose(terms, _settings(recipe, terms, network, teachers, material), seed)
            if isinstance(recipe, SpecialistRecipe):
                objective = specialist.objective(recipe, network.classes, objective)
            if recipe.micro_batch and not objective.rowwise:
                raise UnderstudyError(
                    f"{name} compares the samples of a batch with one another; leave out --micro-batch"
                )
            if recipe.mixup and not objective.mixable:
                raise UnderstudyError(
                    f"{name} has a term that takes an input for one sample of one class, which MixUp's are not; "
                    "leave out --mixup, or learn by soft targets alone"
                )
            role = name.partition("-")[0]
            learner = Learner(network, objective)
            taught = role == "distilled" or bool(objective.needs.teacher)
            members.append(Member(f"{name}-{number}", role, seed, learner, recipe.optimizer, taught))
    return members


def _begin(network: Network, recipe: TrainRecipe) -> None:
    """Make a network what training is to begin with."""
    if recipe.test_size and not network.reads(recipe.test_size):
        size = "x".join(map(str, network.contract.shape[1:]))
        raise UnderstudyError(
            f"{network.spec or 'the model'} reads images of {size} pixels only; leave out --test-size"
        )
    if recipe.zero_head:
        for weights in network.module.get_submodule(find_head(network.module)).parameters():
            nn.init.zeros_(weights)
        network.began += ", set to zeros" if network.began else ""
    if recipe.freeze:
        network.freeze()


def wanted(members: Sequence[Member]) -> set[str]:
    """What a cohort reads of its teacher beside the logits."""
    return {name for member in members for name in member.learner.objective.needs.teacher} - {"logits"}


def _settings(
    recipe: AnyRecipe, terms: Sequence[Term], student: Network, teachers: Sequence[Network], material: Material
) -> list[Setting]:
    """What objectives are fitted to, for each teacher; layers are looked at only where a term reads them."""
    plain = Shapes(len(student.classes), 0)
    sides = [plain], [plain for _ in teachers] or [plain]
    if isinstance(recipe, DistillRecipe) and not all(term.reads_logits_alone for term in terms):
        sides = (
            [student.shapes(recipe.student_taps or None)],
            [teacher.shapes(recipe.teacher_taps or None) for teacher in teachers],
        )
    (own,), others = sides
    return [Setting(own, other, material.train.ids, material.train.targets) for other in others]


def student_contract(recipe: AnyRecipe, material: Material, teachers: Sequence[Network]) -> InputContract:
    """What a new student is to be fed; of data without labels it learns the teachers' classes."""
    contract = material.contract(recipe.sees if isinstance(recipe, TrainRecipe) else recipe.student_sees)
    if recipe.views.window:
        contract = replace(contract, shape=(contract.shape[0], *[recipe.views.window] * 2), fit="whole")
    return contract if contract.classes or not teachers else replace(contract, classes=teachers[0].classes)


def build_student(spec: str, given: Given, contract: InputContract, number: int, seed: int, several: bool) -> Network:
    """What initialisation `number` begins with: a fresh network, or a file's, of several each in turn.

    A module from Python is copied where the cohort needs several; each starts as given.
    """
    if given.model is not None:
        return build(copy.deepcopy(given.model) if several else given.model, contract)
    if Path(spec).exists():
        files = weights_of(spec)
        network = start_from(files[number % len(files)], contract.classes, seed=seed + number)
        tell(network, spec, contract.modality)
        return network
    return build(spec, contract, seed=seed + number, trust_code=given.trust_code and is_code(spec))


def multiplies_bf16(accelerator: str) -> bool:
    """Whether the processor has units for bf16 matrix products; without them autocast is slower than float32."""
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    units = torch.cpu.get_capabilities()
    return accelerator == "cpu" and bool(units.get("amx_bf16") or units.get("avx512_bf16"))


def loses_by_bf16(recipe: AnyRecipe, network: Network) -> bool:
    """Whether precision, left to choose itself, is float32 for this net: on CPUs depthwise kernels are slow in bf16.

    `benchmarks/precision.py` measures it.
    """
    return recipe.precision == "auto" and accelerator_of(recipe) == "cpu" and is_depthwise(network.module)


def accelerator_of(recipe: AnyRecipe) -> str:
    """Where to compute: a GPU where there is one, unless the recipe says."""
    if recipe.accelerator != "auto":
        return recipe.accelerator
    return "cuda" if torch.cuda.is_available() else "cpu"


def make_fabric(recipe: AnyRecipe) -> Fabric:
    """Fabric as the recipe says; several devices start processes of their own unless torchrun did."""
    accelerator = accelerator_of(recipe)
    precision = recipe.precision
    if precision == "auto":
        precision = "bf16" if multiplies_bf16(accelerator) else "32"
    here = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if here.get(accelerator, recipe.devices) < recipe.devices:
        raise UnderstudyError(
            f"{recipe.devices} {accelerator} devices were asked for and {here[accelerator]} are here; "
            "pass fewer --devices, or --accelerator cpu"
        )
    if precision == "fp16" and accelerator == "cpu":
        raise UnderstudyError("fp16 needs a GPU; pass --precision bf16 or 32")
    several = recipe.devices * recipe.nodes > 1
    launched = "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_JOB_ID" in os.environ
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would say again what the recipe says
    return Fabric(
        accelerator=accelerator,
        devices=recipe.devices,
        num_nodes=recipe.nodes,
        strategy=("ddp" if launched else "ddp_spawn") if several else "auto",
        precision={"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[precision],  # type: ignore[arg-type]
    )
