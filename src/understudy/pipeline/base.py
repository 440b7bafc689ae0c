"""What the kinds of recipes share: a recipe with its data, its teachers and its members, each opened once.

A kind is one file with one class: it says where its recipe differs from `Pipeline`, and `pipeline.kinds` lists it.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from understudy.config.options import parse_pairs
from understudy.config.recipe import Recipe
from understudy.data import Source, fraction, omit_classes, only_classes, stratified_split
from understudy.data.loader import BatchLoader, EpochSampler
from understudy.data.modalities import check_modality
from understudy.data.views import Views
from understudy.errors import UnderstudyError
from understudy.evaluation import fit_class_bias, parse_bias, parse_priors, predict_logits
from understudy.evaluation.facts import RunFacts
from understudy.files import path_of, sha256
from understudy.models import (
    InputContract,
    Network,
    build,
    calibrate,
    is_code,
    load_network,
    quantize,
    read_weights,
    restore,
    start_from,
)
from understudy.objectives import BuildContext, FirstStage, Objective
from understudy.panels.panel import SpecialistPanel
from understudy.pipeline.device import slower_in_bf16
from understudy.pipeline.loss import Term, compose
from understudy.pipeline.modality import set_modality
from understudy.pipeline.representation import Watch
from understudy.pipeline.run_data import Overrides, RunData, in_subset, open_parts, require, resolve_augmentation
from understudy.pipeline.weights import weights_of
from understudy.runs.run import Run
from understudy.signals import Batch, Shapes
from understudy.teachers import Ensemble, Teacher
from understudy.teachers.store import Store
from understudy.training import Learner, Member

R = TypeVar("R", bound=Recipe)
_SHOWN = 4  # batches
LiveTeacher = Teacher | Ensemble | SpecialistPanel
AnyTeacher = LiveTeacher | Store


class Pipeline(ABC, Generic[R]):
    """A recipe of one kind, on its way from data to evaluation.

    Nothing is opened before it is asked for, so that a pipeline can be sent to other processes.

    Args:
        recipe: what to run.
        overrides: objects in place of the recipe's names.
    """

    def __init__(self, recipe: R, overrides: Overrides | None = None) -> None:
        self.recipe, self.overrides = recipe, overrides or Overrides()

    # --- data ---------------------------------------------------------------------------------------------

    @cached_property
    def data(self) -> RunData:
        """The data, opened, selected and split."""
        recipe = self.recipe
        whole, test = self.open_data()
        labeled = in_subset(recipe, whole)
        if labeled.classes:  # else they are the teacher's
            parse_bias(recipe.class_bias, labeled.classes)
            if recipe.class_priors:
                parse_priors(recipe.class_priors, labeled.classes)
        train, validation = labeled, None
        if recipe.validation:
            if labeled.targets is None:
                raise UnderstudyError(f"{labeled.name} has no labels to validate on; leave out --validation")
            kept, held_out = stratified_split(labeled, recipe.validation, recipe.seed)
            if not len(held_out):
                raise UnderstudyError(
                    f"{labeled.name} has one sample per class, so none can be held out; leave out --validation"
                )
            train, validation = labeled.subset(kept), labeled.subset(held_out)
        opened = {"training part": whole, "test part": test}
        if (transfer := self.transfer_set(train, labeled)) is not train:
            opened |= {"transfer set": transfer}
            train = transfer
        if recipe.only_classes:
            train = train.subset(only_classes(train, recipe.only_classes))
        if recipe.omit_classes:
            train = train.subset(omit_classes(train, recipe.omit_classes))
        if recipe.fraction < 1:
            train = train.subset(fraction(train, recipe.fraction, recipe.seed))
        train, calibration = (train, validation) if validation is not None else self.hold_out(train)
        if recipe.steps is None and recipe.batch_size > len(train):
            raise UnderstudyError(
                f"a batch size of {recipe.batch_size} exceeds the {len(train)} samples; "
                f"pass --batch-size {len(train)} or less, or --steps, with which batches span epochs"
            )
        if recipe.batch_size < recipe.devices * recipe.nodes:
            raise UnderstudyError(f"a batch of {recipe.batch_size} cannot be split over {recipe.devices} devices")
        augmentation = resolve_augmentation(recipe.augmentation, train)
        return RunData(labeled, train, validation, test, augmentation, self.sampler(train), calibration, opened)

    def open_data(self) -> tuple[Source, Source | None]:
        """The training part of the recipe's data, and its test part."""
        recipe, data = self.recipe, self.overrides.data
        named = recipe.data if data is None else data
        return open_parts(recipe, named, parse_pairs(recipe.pair), self.test_size)

    @property
    def test_size(self) -> int | None:
        """Pixels of the test images of a training on crops; those of the crops where None."""
        return None

    def transfer_set(self, train: Source, labeled: Source) -> Source:
        """What the loop trains on, given the training part less the held-out samples, and the whole of it."""
        return train

    def hold_out(self, train: Source) -> tuple[Source, Source | None]:
        """What the loop trains on where there is no validation part, and what is held out from it to calibrate on."""
        return train, None

    def sampler(self, train: Source) -> EpochSampler | None:
        """Which samples each epoch shows; all where None."""
        return None

    def batches(self, device: torch.device, rank: int = 0, world: int = 1, workers: int = 0) -> BatchLoader:
        """The training batches of one process."""
        data, recipe = self.data, self.recipe
        return BatchLoader(
            data.train, self.views, recipe.batch_size, recipe.seed, device, rank, world, workers, recipe.steps,
            sampler=data.sampler,
        )  # fmt: skip

    @property
    def views(self) -> Views:
        """What the samples look like in each epoch."""
        return Views(self.data.augmentation, self.recipe.seed, mixup=self.recipe.mixup)

    # --- teachers -----------------------------------------------------------------------------------------

    @cached_property
    def teachers(self) -> dict[str, Network]:
        """The teachers' networks by name, on the CPU."""
        return {}

    @property
    def teacher_files(self) -> list[str]:
        """The files that the teachers, or what the model starts from, are read from."""
        return []

    def teacher(self, device: torch.device) -> AnyTeacher | None:
        """Who answers beside the students, ready on a device."""
        return None

    @property
    def teacher_classes(self) -> tuple[str, ...] | None:
        """The classes that the teachers predict, () if not the same; None where there is no teacher."""
        return None

    def teacher_digests(self) -> dict[str, str]:
        """The SHA-256 of the teachers' files, or of their weights."""
        files = {file: sha256(Path(file)) for file in self.teacher_files}
        return files or {name: _digest(network) for name, network in self.teachers.items()}

    def teacher_notes(self) -> list[str]:
        """What there is to say about where the teachers' answers come from."""
        return [f"teacher {name}: {network.init_from}" for name, network in self.teachers.items() if network.init_from]

    def verify(self) -> None:
        """Check what is opened at the start of a run against what it was made of.

        Raises:
            UnderstudyError: it does not fit.
        """

    # --- members ------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check what can be checked before anything is opened.

        Raises:
            UnderstudyError: something is missing, or unknown.
        """
        require(self.recipe, self.overrides)

    @property
    @abstractmethod
    def spec(self) -> str:
        """The name of the model to train."""

    @abstractmethod
    def losses(self) -> Mapping[str, tuple[Term, ...]]:
        """The terms of each member's loss, by role and method: "model"; or "alone", "distilled" or "distilled-crd"."""

    @abstractmethod
    def contract(self) -> InputContract:
        """The input contract of a new network."""

    def members(self) -> list[Member]:
        """The networks to train with their losses, one of each for every initialization: "model-0", "distilled-0"."""
        recipe, losses = self.recipe, self.losses()
        contract = self.contract()
        members = []
        for number in range(recipe.seeds):
            seed = recipe.seed + number
            for name, terms in losses.items():
                network = self.student(contract, number, several=recipe.seeds > 1 or len(losses) > 1)
                self.adapt(terms, network, seed)
                objective = self.objective(terms, network, seed)
                self._check_objective(name, objective)
                self._check_batch_size(name, network, objective)
                role = name.partition("-")[0]
                uses_teacher = role == "distilled" or bool(objective.needs.teacher)
                first = self.first_stage(objective)
                learner = Learner(network, objective if first is None or first.then is None else first.then)
                known = self.teacher_classes
                members.append(Member(
                    f"{name}-{number}", role, seed, learner, recipe.optimizer, uses_teacher, first=first,
                    compared=known is None or (bool(known) and known == network.classes),
                ))  # fmt: skip
        return members

    def student(self, contract: InputContract, number: int, *, several: bool) -> Network:
        """A network ready to be trained; `several` as for `network`."""
        recipe = self.recipe
        network = self.network(contract, number, several=several)
        network.full_precision = slower_in_bf16(recipe, network)
        for source in filter(None, (self.data.train, self.data.validation)):
            check_modality(source, network.contract.modality)
        if side := recipe.input_size or recipe.augmentation.crop_size:
            network.set_input_size(side)
        network.check()
        self.initialize(network)
        if self.recipe.qat and not network.int8:
            if not network.init_from and self.overrides.model is None:
                raise UnderstudyError(
                    f"{self.spec} has no trained weights to go on from with --qat; name a run folder or weights file"
                )
            calibrate(quantize(network), self._shown)
        return network

    @cached_property
    def _shown(self) -> list[Batch]:
        """The first batches of the training, from which ranges of activations are measured before it begins."""
        loader = self.batches(torch.device("cpu"))
        shown = loader.stream(0, min(_SHOWN, self.recipe.steps or self.recipe.epochs * loader.steps))
        return [batch for batch in shown if len(batch)]

    def network(self, contract: InputContract, number: int, *, several: bool) -> Network:
        """What initialization `number` starts from: a new network, or a file's, of several files each in turn."""
        return new_network(self.spec, self.overrides, contract, number, self.recipe.seed, several=several)

    def initialize(self, network: Network) -> None:
        """Prepare a network for training."""

    def begin(self, members: Sequence[Member], run: Run) -> None:
        """What is done to the networks once, before the first step of a run, and is found again in its checkpoints."""

    def watch(self, source: Source | None, device: torch.device) -> Watch | None:
        """What shows on some samples whether members without classes learn; None of members with classes."""
        return None

    @property
    def starts_well(self) -> bool:
        """Whether the networks may be best as they start, so that training has to beat that on the validation part."""
        return False

    def adapt(self, terms: Sequence[Term], network: Network, seed: int) -> None:
        """Change a network in the way that its loss needs."""

    def objective(self, terms: Sequence[Term], network: Network, seed: int) -> Objective:
        """The loss of a member."""
        return compose(terms, self.build_contexts(terms, network), seed)

    def first_stage(self, objective: Objective) -> FirstStage | None:
        """What trains before the other epochs; None for one stage."""
        return None

    def build_contexts(self, terms: Sequence[Term], network: Network) -> list[BuildContext]:
        """What objectives are built for, one for each teacher."""
        shapes, train = Shapes(len(network.classes), 0), self.data.train
        return [BuildContext(shapes, shapes, train.ids, train.targets) for _ in self.teachers or [None]]

    def _check_objective(self, name: str, objective: Objective) -> None:
        if self.recipe.micro_batch and not objective.per_sample:
            raise UnderstudyError(f"the loss of {name} compares the samples of a batch; leave out --micro-batch")
        if self.recipe.mixup and not objective.supports_mixup:
            raise UnderstudyError(f"the loss of {name} does not support MixUp; leave out --mixup, or use kd alone")

    def _check_batch_size(self, name: str, network: Network, objective: Objective) -> None:
        trained = {} if network.frozen else {network.spec or "the model": network}
        for where, module in (trained | {f"the loss of {name}": objective}).items():
            normalized = any(isinstance(layer, _BatchNorm) for layer in module.modules())
            for flag, size in (("--batch-size", self.recipe.batch_size), ("--micro-batch", self.recipe.micro_batch)):
                if size == 1 and normalized:
                    raise UnderstudyError(
                        f"{where} has BatchNorm layers, which need at least two samples at a time; pass {flag} 2 or "
                        "more"
                    )

    # --- results ------------------------------------------------------------------------------------------

    def set_test_size(self, name: str, network: Network, run: Run, device: torch.device) -> None:
        """Set the input size at which a trained network is used, if it is not that of the training."""

    def finish(self, name: str, network: Network, run: Run, device: torch.device) -> None:
        """What is done to a trained network before it is saved."""
        recipe = self.recipe
        if recipe.class_bias:
            network.set_class_bias(parse_bias(recipe.class_bias, network.classes))
        if recipe.class_priors:
            predictions = predict_logits(network, self.data.labeled, device=device)
            priors = parse_priors(recipe.class_priors, network.classes)
            network.set_class_bias(fit_class_bias(predictions.logits, priors))

    def load(self, file: Path) -> Network:
        """A trained network as it was saved."""
        if self.overrides.model is None:
            return load_network(file, trust_code=self.overrides.trust_code).eval()
        network = build(copy.deepcopy(self.overrides.model), self.contract())
        weights = read_weights(file)
        if weights.contract is None:
            raise UnderstudyError(f"{file} was not written by understudy; resume the run that it is in")
        restore(network, weights)
        return network.eval()

    def evaluation_teacher(self, device: torch.device) -> LiveTeacher | None:
        """Who the trained networks are compared with."""
        return None

    @property
    def gallery_temperature(self) -> float | None:
        """Temperature of the probabilities shown for sample images; None shows none."""
        return None

    def title(self, run: Run) -> str:
        """What the console calls the run."""
        return self.recipe.kind

    def complete(self, run: Run, facts: RunFacts) -> RunFacts:
        """Add to the evaluation what is measured for this kind of run alone."""
        return facts


def _digest(network: Network) -> str:
    """The SHA-256 of a network's weights."""
    state = hashlib.sha256()
    for name, value in network.state_dict().items():
        state.update(name.encode())
        state.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def as_teacher(network: Network, device: torch.device) -> Teacher | SpecialistPanel:
    """A network, or a panel of specialists, ready to answer on a device."""
    return network.placed(device) if isinstance(network, SpecialistPanel) else Teacher(network, device)


def new_network(
    spec: str, overrides: Overrides, contract: InputContract, number: int, seed: int, *, several: bool
) -> Network:
    """A network to train.

    Args:
        spec: a model's name, or a run folder or weights file to start from, of several files each in turn.
        number: of the initialization.
        several: whether more than one network is trained: a module from Python is copied then.
    """
    if overrides.model is not None:
        return build(copy.deepcopy(overrides.model) if several else overrides.model, contract)
    if path_of(spec, "the model").exists():
        files = weights_of(spec)
        network = start_from(files[number % len(files)], contract.classes, seed=seed + number)
        set_modality(network, spec, contract.modality)
        return network
    return build(spec, contract, seed=seed + number, trust_code=overrides.trust_code and is_code(spec))


def for_crops(contract: InputContract, recipe: Recipe) -> InputContract:
    """The contract of a network that is trained on crops: of their size, test images resized to it."""
    size = recipe.augmentation.crop_size
    return replace(contract, shape=(contract.shape[0], size, size), crop_mode="squash") if size else contract
