"""`probe`: linear classifiers fitted to the frozen representations of a run's networks, on any data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from understudy.config.places import shown
from understudy.data import Source, only_classes, open_source
from understudy.data.skipped import count_skip_reasons
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import ProbedSet, ProbeFacts
from understudy.evaluation.probe import Embeddings, extract_embeddings, hold_out, linear_probe
from understudy.evaluation.representation import check_embeddings, knn_accuracy
from understudy.files import path_of, write_whole
from understudy.models import InputContract, Network, as_given, names_model, parse_spec
from understudy.pipeline.device import device_of
from understudy.pipeline.evaluate import hardware
from understudy.pipeline.modality import contract_of
from understudy.pipeline.run import versions
from understudy.pipeline.weights import load_teacher, networks_of, pretrained, weights_of
from understudy.reporting import render
from understudy.runs.folder import EVALUATION, REPORT
from understudy.verbs.arguments import page_folder


def probe(
    target: str | Path | Mapping[str, Network],
    *data: object,
    teacher: Sequence[str | Path] = (),
    only_classes: Sequence[str | int] = (),
    knn: bool = False,
    data_root: str | Path | None = None,
    download: bool = False,
    size: int | None = None,
    trust_code: bool = False,
    out: str | Path | None = None,
    command: Sequence[str] = (),
) -> list[ProbedSet]:
    """Fit linear probes to the frozen penultimate layers of networks, on data of any classes, sizes and channels.

    Args:
        target: a run folder, a weights file, a pre-trained model's name (timm:resnet18?weights=FILE), or networks by
            name, all on one device; names such as "alone-0" and "alone-1" are seeds of one kind.
        data: whatever `open_source` opens. Of data without a labeled test part, a fifth of each class is held out.
        teacher: run folders, weights files or pre-trained models' names to probe too.
        only_classes: of the data, by name or index; all where empty.
        knn: measure nearest neighbors too.
        data_root, download, size: as for `open_source`.
        trust_code: whether the function that made a network (pkg.mod:fn) may be imported.
        out: a folder for `evaluation.json` and a page, `report.html`; by default none is written.
        command: what was typed, for the page.

    Returns:
        One for each data set, in their order.

    Raises:
        UnderstudyError: data without labels, with a single class or too few samples, or a network that cannot be
            probed.
    """
    if not data:
        raise UnderstudyError("no data to probe on; name data sets, as in: understudy probe RUN digits photos/")
    folder = None if out is None else page_folder(out)
    root = None if data_root is None else path_of(data_root, "the data root")
    opened = [open_source(one, root=root, download=download, size=size) for one in data]
    contract = partial(contract_of, opened[0].train)
    if isinstance(target, Mapping):
        networks = dict(target)
    elif names_model(str(target)):
        networks = placed({"model-0": _pretrained(str(target), contract)})
    else:
        networks = placed(networks_of(target, trust_code=trust_code))
    networks = _teachers(teacher, contract) | networks
    if not networks:
        raise UnderstudyError("no network to probe; give at least one")
    found = [_probed(networks, splits.train, splits.test, only_classes, knn) for splits in opened]
    if folder is not None:
        name = "networks" if isinstance(target, Mapping) else shown(str(target))
        facts = ProbeFacts(name=name, hardware=hardware(), command=list(command), versions=versions(), results=found)
        write_whole(folder / EVALUATION, facts.model_dump_json() + "\n")
        write_whole(folder / REPORT, render(facts, folder))
    return found


def _probed(
    networks: Mapping[str, Network], train: Source, test: Source | None, names: Sequence[str | int], knn: bool
) -> ProbedSet:
    if train.targets is None:
        raise UnderstudyError(f"{train.name} has no labels to fit a linear probe to; give labeled data")
    if test is not None and test.targets is None:
        test = None
    if names:
        train = train.subset(only_classes(train, names))
        test = None if test is None else test.subset(only_classes(test, names))
    if test is None:
        kept, held_out = hold_out(train)
        train, test = train.subset(kept), train.subset(held_out)
    skipped = dict(train.skipped) | dict(test.skipped)
    fit, scored = (extract_embeddings(networks, part, skipped=skipped) for part in (train, test))
    return ProbedSet(
        data=train.name,
        classes=len(fit.targets.unique()),
        train=len(fit.targets),
        test=len(scored.targets),
        probes={name: linear_probe(fit, scored, name) for name in networks},
        skipped=count_skip_reasons(skipped),
        neighbors={name: _neighbors(fit, scored, name) for name in networks} if knn else {},
    )


def _neighbors(train: Embeddings, test: Embeddings, name: str) -> float:
    x, keys = (check_embeddings(part.by_network[name], name) for part in (test, train))
    return knn_accuracy(x, test.targets, keys, train.targets)


def _pretrained(name: str, contract: Callable[[], InputContract]) -> Network:
    """A pre-trained model by its name, with a head that is not used.

    Raises:
        UnderstudyError: it has no weights by that name.
    """
    if parse_spec(name).family not in ("timm", "torchvision", "hf-hub"):
        raise UnderstudyError(
            f"{name} has no pre-trained weights, and a random network is not worth probing; give a run folder, a "
            "weights file, or a timm: or torchvision: model"
        )
    return as_given(pretrained(name), replace(contract(), classes=()))


def _teachers(files: Sequence[str | Path], contract: Callable[[], InputContract]) -> dict[str, Network]:
    """Teachers of one architecture count as seeds of one kind."""
    named = [_pretrained(str(name), contract) for name in files if names_model(str(name))]
    known = [load_teacher(file) for name in files if not names_model(str(name)) for file in weights_of(name)]
    networks = named + known
    several = len({network.spec for network in networks}) > 1
    return placed({f"teacher-{n.spec}-{i}" if several else f"teacher-{i}": n for i, n in enumerate(networks)})


def placed(networks: Mapping[str, Network]) -> dict[str, Network]:
    """The networks on one device, the accelerator if there is one."""
    return {name: network.to(device_of()) for name, network in networks.items()}
