"""From a recipe to who is in the loop: teachers, students and what they learn by."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from understudy import specialist
from understudy.composing import Term, compose, methods_of
from understudy.contracts import check_seen, tell
from understudy.errors import UnderstudyError
from understudy.machine import loses_by_bf16
from understudy.material import Given, Material
from understudy.models import InputContract, Network, build, find_head, is_code, load_network, start_from
from understudy.objectives import Setting
from understudy.panels import MANIFEST, load_teacher, parts_of
from understudy.recipe import AnyRecipe, DistillRecipe, SpecialistRecipe, TrainRecipe
from understudy.runs import Run, find_run
from understudy.signals import Shapes
from understudy.teachers import Ensemble, SpecialistPanel, Teacher, check_classes
from understudy.training import Learner, Member


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


def networks_of(target: str | Path, *, trust_code: bool = False) -> dict[str, Network]:
    """The networks of a run folder, or of one weights file, by name, as "distilled-0"."""
    path = Path(target)
    (file, *_) = weights_of(str(path))  # complains of what is not there, and of a run without a trained model
    if path.is_dir():
        if file.name == MANIFEST:
            return {"model-0": load_teacher(file)}
        return {name: load_network(file, trust_code=trust_code) for name, file in find_run(path).models.items()}
    name = path.stem if path.stem.rpartition("-")[0] in ("alone", "distilled", "model") else "model-0"
    return {name: load_network(path, trust_code=trust_code)}


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
    if recipe.calibrate:
        find_head(network.module)  # complains now, not after the training
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
