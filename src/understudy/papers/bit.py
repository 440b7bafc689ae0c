"""Few examples, VTAB-1k and the ablations of "Big Transfer" (Kolesnikov, Beyer et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from understudy.errors import UnderstudyError
from understudy.papers.crd_probes import held_out
from understudy.papers.experiment import Bench, Comparison, Experiment, Line, Measured

if TYPE_CHECKING:
    from understudy.evaluation.facts import SuiteFacts, TaskResult
    from understudy.runs.run import Run

PAPER = "Kolesnikov, Beyer, Zhai, Puigcerver, Yung, Gelly and Houlsby, Big Transfer, ECCV 2020"
SHOTS = (1, 5, 10)
_TASKS: Mapping[str, tuple[float | None, ...]] = {  # BiT-M R50x1: top-1 in % by SHOTS, and of all examples
    "cifar10": (57.9, 82.3, None, 97.4),
    "cifar100": (35.2, 65.5, None, 86.6),
    "pets": (),
    "flowers102": (),
}
_VTAB = {"BiT-S R152x4": 66.87, "BiT-M R152x4": 70.64, "BiT-L R152x4": 76.29}  # the mean of 19 tasks
_NORMS = {  # top-1 of R50x1 on ILSVRC-2012, and on VTAB-1k after it
    "bn": ("BatchNorm", "75.6%", "67.7%"),
    "bn+ws": ("BatchNorm and WS", "75.8%", "66.8%"),
    "gn": ("GroupNorm", "70.2%", "68.8%"),
    "gn+ws": ("GroupNorm and WS", "76.0%", "70.4%"),
}
_EPOCHS, _BATCH, _QUICK_STEPS = 90, 128, 30


def few_shot(bench: Bench) -> Comparison:
    """`understudy reproduce bit-few-shot --backbone BACKBONE [--data SET]`

    Medians of five draws, from the worst to the best. Expect: more examples are better; one of each class is far above
    chance.
    """
    tasks = [bench.data] if bench.data else list(_TASKS)
    drawn = _suite(bench, "few", tasks, shots=SHOTS, **({"draws": 2} if bench.quick else {}))
    whole = _suite(bench, "all", tasks)
    lines: list[Line] = []
    for few, every in zip(drawn.tasks, whole.tasks, strict=True):
        here = [result.accuracies for task in (few, every) for result in task.results]
        if published := _TASKS.get(few.name):
            lines.append((few.name, "paper, BiT-M R50x1", *(f"{x}%" if x else "" for x in published)))
        cells = [_spread(values) for values in here] if len(here) == len(SHOTS) + 1 else [""] * (len(SHOTS) + 1)
        lines.append(("" if published else few.name, "here", *cells))
    heads = ("task", "", *(f"{n} a class" for n in SHOTS), "all")
    return Comparison(heads, lines, [f"Backbone: {drawn.backbone}.", *_failures([drawn, whole])])


def vtab(bench: Bench) -> Comparison:
    """`understudy reproduce bit-vtab --backbone BACKBONE [--data FOLDER]`

    1,000 examples of each task. FOLDER has some of the 19 tasks, in folders of their names, in place of the named sets.
    """
    from understudy.data import GROUPS, NAMED

    home = Path(bench.data) if bench.data else bench.home
    places = {name: home / name for tasks in GROUPS.values() for name in tasks}
    found = [
        str(place) if place.is_dir() and (bench.data or name not in NAMED) else name
        for name, place in places.items()
        if place.is_dir() or (name in NAMED and not bench.data)
    ]
    if not found:
        raise UnderstudyError(f"{home} has no folder of a VTAB task, such as {home / 'eurosat'}; put them there")
    facts = _suite(bench, "vtab", found, vtab=True)
    results = {task.name: _mean(task) for task in facts.tasks}
    known = {name: value for name, value in results.items() if value is not None}
    lines: list[Line] = []
    for group, tasks in GROUPS.items():
        of_group = [known[name] for name in tasks if name in known]
        lines += [(f"{group} ({len(of_group)})", _percent(fmean(of_group)))] if of_group else []
        lines += [(name, _percent(known[name])) for name in tasks if name in known]
    if known:
        lines.append((f"mean of {len(known)} tasks", _percent(fmean(known.values()))))
    lines += [(f"paper, {name}, mean of 19 tasks", f"{value}%") for name, value in _VTAB.items()]
    missing = [name for name in places if name not in results]
    notes = [f"Backbone: {facts.backbone}. The examples of each task are drawn here, and are not VTAB's own lists."]
    notes += [f"Not there: {', '.join(missing)}."] if missing else []
    return Comparison(("task", "here"), lines, [*notes, *_failures([facts])])


def ablation(bench: Bench) -> Comparison:
    """`understudy reproduce bit-ablation --data SET --held-out 5 [--backbone bit:R26x0.5] [--size 64] [--epochs 30]`

    Pre-trained on all classes but some, and transferred to those. Expect: GroupNorm and Weight Standardization together
    first in transfer; a tenth of the weight decay worse.
    """
    from understudy.config.verbs import PretrainConfig, TransferConfig
    from understudy.pipeline.run_data import Overrides
    from understudy.verbs import pretrain, transfer
    from understudy.verbs.arguments import configure

    if not bench.data or not bench.held_out:
        raise UnderstudyError("pass --data SET --held-out 5, say: upstream is SET without these classes")
    splits = bench.opened(bench.data, bench.size)
    held = held_out(splits, bench.held_out)
    known = tuple(name for name in splits.train.classes if name not in held)
    model = bench.backbone or "bit:R50x1"
    shared = {"data_root": bench.data_root, "seeds": bench.seeds or 1, "batch_size": _BATCH}

    def upstream(name: str, norm: str, **changes: Any) -> Run:
        values = {**shared, "omit_classes": held, "epochs": bench.epochs(_EPOCHS, quick=3), **changes}
        values |= {"size": bench.size} if bench.size else {}
        spec = f"{model}{'&' if '?' in model else '?'}norm={norm}"
        config = configure(PretrainConfig, values, data=bench.data, model=spec)
        return bench.ensure(f"upstream-{name}", pretrain.plan(config, Overrides()).recipes["pretrain"])

    def downstream(name: str, source: Run, **changes: Any) -> Run:
        values = {**shared, "only_classes": held, "rule": "bit", "crop_size": bench.size, **changes}
        values |= {"steps": _QUICK_STEPS} if bench.quick else {}
        config = configure(TransferConfig, values, data=bench.data, backbone=source.path)
        return bench.ensure(f"transfer-{name}", transfer.plan(config, Overrides()).recipes["transfer"])

    lines: list[Line] = []

    def add(title: str, name: str, source: Run, ilsvrc: str = "", after: str = "", **changes: Any) -> None:
        run = downstream(name, source, **changes)
        lines.append((title, ilsvrc, _among(bench, source, known), after, _among(bench, run, held)))

    plain = {norm: upstream(norm, norm) for norm in _NORMS}
    for norm, (title, ilsvrc, after) in _NORMS.items():
        add(title, norm, plain[norm], ilsvrc, after)
    add("GroupNorm and WS, weight decay 1e-5 upstream", "decay", upstream("decay", "gn+ws", weight_decay=1e-5))
    add("GroupNorm and WS, MixUp 0.1 upstream", "mixup", upstream("mixup", "gn+ws", mixup=0.1))
    add("GroupNorm and WS, MixUp 0.1 in the transfer", "gn+ws-mixup", plain["gn+ws"], mixup=0.1)
    return Comparison(
        ("network", "ILSVRC-2012, paper", "upstream, here", "VTAB-1k, paper", "held-out classes, here"), lines,
        [f"{model}, upstream without {', '.join(held)}, to which it is transferred by BiT-HyperRule. Each is tested "
         "on the images of its classes, among these."],
    )  # fmt: skip


def _suite(bench: Bench, name: str, tasks: Sequence[str], **options: Any) -> SuiteFacts:
    """The backbone on some tasks; what is finished is not repeated."""
    from understudy.config.verbs import SuiteConfig
    from understudy.runs.collection import RunCollection, as_set
    from understudy.verbs.arguments import configure
    from understudy.verbs.suite import suite

    if not bench.backbone:
        raise UnderstudyError(
            "pass a pre-trained network as --backbone: bit:BiT-M-R50x1.npz, a run of understudy pretrain, or timm:NAME"
        )
    options |= {"steps": _QUICK_STEPS, "batch_size": _BATCH} if bench.quick else {}
    options |= {"crop_size": bench.size} if bench.size else {}
    options |= {"data_root": bench.data_root, "download": bench.download}
    found = RunCollection(bench.place(name))
    config = configure(SuiteConfig, {**options, "data": tuple(tasks)}, backbone=bench.backbone)
    if found.finished and found.record["config"] == as_set(config):
        return found.facts
    return suite(tasks, bench.backbone, run=found.path, **options).facts


def _among(bench: Bench, run: Run, classes: Sequence[str]) -> Measured:
    """Test accuracy in percent, per seed, on the images of some classes and among these."""
    import torch

    from understudy.data import only_classes, resize_square
    from understudy.evaluation import accuracy, predict_logits
    from understudy.pipeline.device import device_of

    test = bench.opened(run.recipe.data, bench.size).test
    if test is None:
        raise UnderstudyError(f"{run.recipe.data} has no labeled test part, so nothing can be scored")
    test = test.subset(only_classes(test, classes))
    columns = torch.tensor([test.classes.index(name) for name in classes])
    found = []
    for name in run.models:
        network = run.network(name).to(device_of())
        source = resize_square(test, network.contract.shape[1])  # as crops of the whole image are seen
        predictions = predict_logits(network, source, device=device_of())
        assert predictions.targets is not None
        among = (predictions.targets[:, None] == columns).int().argmax(1)
        found.append(100 * accuracy(predictions.logits[:, columns], among))
    return Measured(tuple(found), digits=2, unit="%")


def _failures(suites: Sequence[SuiteFacts]) -> list[str]:
    return list(dict.fromkeys(f"{name}: {reason}" for facts in suites for name, reason in facts.failed.items()))


def _mean(task: TaskResult) -> float | None:
    return fmean(task.results[0].accuracies) if task.results else None


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _spread(shares: Sequence[float]) -> str:
    """The median in percent, and the worst and the best of several.

    >>> _spread([0.5, 0.25, 0.375]), _spread([0.5])
    ('37.5% (25.0 to 50.0)', '50.0%')
    """
    found = f"{100 * median(shares):.1f}%"
    return f"{found} ({100 * min(shares):.1f} to {100 * max(shares):.1f})" if len(shares) > 1 else found


EXPERIMENTS = (
    Experiment(
        "bit-few-shot", "a backbone from 1, 5, 10 and all examples of each class; --backbone", PAPER, few_shot,
        takes=frozenset({"backbone", "data", "size"}),
    ),
    Experiment(
        "bit-vtab", "a backbone on the 19 tasks of VTAB-1k; --backbone", PAPER, vtab,
        takes=frozenset({"backbone", "data", "size"}),
    ),
    Experiment(
        "bit-ablation", "norms, Weight Standardization, weight decay and MixUp; --data and --held-out", PAPER, ablation,
        takes=frozenset({"backbone", "data", "size", "held_out", "chosen_epochs", "seeds"}),
    ),
)  # fmt: skip
