"""From images to depth on NYU-Depth v2, in "Contrastive Representation Distillation" (Tian et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.errors import UnderstudyError
from understudy.papers.crd import PAPER, TAKES, epochs_of, one_pair, ran, schedule, seeds_of, teacher
from understudy.papers.experiment import Bench, Comparison, Experiment, Line, Measured

if TYPE_CHECKING:
    import numpy as np

    from understudy.data import Source
    from understudy.evaluation.probe import Embeddings
    from understudy.models import Network

_FILE, _SIZE = "nyu_depth_v2_labeled.mat", 64
_LABELS = 13  # the most frequent ones
_POSITIONS = 20_000  # most that a probe is fitted to, and scored on
_METHODS = {"kd": "kd", "at": "at", "fitnet": "fitnet", "crd": "crd:exclude=sample"}  # none uses labels


def nyu(bench: Bench) -> Comparison:
    """`understudy reproduce crd-nyu --data nyu_depth_v2_labeled.mat [--pair TEACHER:STUDENT] [--epochs 24] [--size 64]`

    A teacher of color images, trained on the types of the scenes; students of depth without labels, and linear
    probes of their feature maps on the labels of the pixels. Expect: CRD first, and all above random weights.
    """
    from understudy.models import build

    place = Path(bench.data) if bench.data else bench.home / _FILE
    labels = _labels(place)  # fail before hours of training
    pair = one_pair(bench, "resnet20:resnet20")
    data: dict[str, Any] = {"data": str(place), "size": bench.size or _SIZE}
    color = teacher(bench, pair.teacher, modality="rgb", **data)
    student, epochs, seeds = f"cifar:{pair.student}", epochs_of(bench), seeds_of(bench)
    values = schedule(bench, pair.student, epochs, model=student, modality="depth", seeds=seeds, **data)
    supervised = bench.ensure(f"{pair.student}-on-scenes", TrainRecipe(**values))
    values = schedule(
        bench, pair.student, epochs, teacher=(str(color.path),), student=student, teacher_modality="rgb",
        student_modality="depth", method=tuple(_METHODS.values()), hard_weight=0.0, baseline=False, seeds=seeds, **data,
    )  # fmt: skip
    unlabeled = bench.ensure(f"{pair.folder}-unlabeled", DistillRecipe(**values))
    splits = bench.opened(data["data"], data["size"])
    if splits.test is None:
        raise UnderstudyError(f"{place} has too few scenes for a test part")

    def measured(networks: list[Network]) -> Measured:
        assert splits.test is not None
        found = [100 * _pixel_accuracy(network, splits.train, splits.test, labels) for network in networks]
        return Measured(tuple(found), digits=2, unit="%")

    plain = [supervised.network(f"model-{seed}") for seed in range(seeds)]
    random = [build(own.spec, own.contract, seed=seed) for seed, own in enumerate(plain)]
    lines: list[Line] = [
        ("teacher", "color", "scenes", measured([color.network("model-0")])),
        ("student, trained on scenes", "depth", "scenes", measured(plain)),
    ]
    for name, text in _METHODS.items():
        networks = [unlabeled.network(f"distilled-{text}-{seed}") for seed in range(seeds)]
        lines.append((f"student, {name}", "depth", "no", measured(networks)))
    lines.append(("student, random weights", "depth", "no", measured(random)))
    notes = [
        f"{pair.name} at {data['size']} pixels. Linear probes of the frozen feature maps, each position against the "
        f"label at its center, of the {_LABELS} most frequent ones; scenes are in one part only.",
        "In the paper the teacher has seen ImageNet, and students are fine-tuned for segmentation: compare the order.",
        *ran([color, unlabeled], data=None),
    ]
    return Comparison(("net", "input", "trained on labels", "positions classified correctly"), lines, notes)


def _labels(place: Path) -> np.ndarray:
    """The labels of the pixels, (N, H, W), 0 where there is none; of the center square as images are."""
    import numpy as np

    from understudy.data.formats.nyu import hdf5_for

    h5py = hdf5_for(str(place))
    try:
        with h5py.File(place) as file:
            if "labels" not in file:
                raise UnderstudyError(f"{place} has no labels of pixels; download {_FILE} again")
            found = np.asarray(file["labels"]).swapaxes(1, 2)  # MATLAB's order
    except OSError as error:
        raise UnderstudyError(f"{place} cannot be opened ({error}); pass the path of {_FILE} as --data") from None
    short = min(found.shape[1:])
    top, left = ((side - short) // 2 for side in found.shape[1:])
    return found[:, top : top + short, left : left + short]


def _pixel_accuracy(network: Network, train: Source, test: Source, labels: np.ndarray) -> float:
    """Accuracy of a linear probe of the feature maps on the most frequent labels of the training part."""
    import numpy as np

    from understudy.evaluation.probe import linear_probe

    numbers, counts = np.unique(labels[train.ids.numpy()], return_counts=True)
    known = sorted((-count, number) for number, count in zip(numbers.tolist(), counts.tolist(), strict=True) if number)
    frequent = {number: index for index, (_, number) in enumerate(known[:_LABELS])}
    fitted, scored = (_positions(network, part, labels, frequent) for part in (train, test))
    return linear_probe(fitted, scored, "maps").accuracy


def _positions(network: Network, source: Source, labels: np.ndarray, numbers: Mapping[int, int]) -> Embeddings:
    """The features and the label of each position of the network's maps, evenly spaced ones if there are many."""
    import numpy as np
    import torch

    from understudy.data import Source
    from understudy.data.loader import in_order
    from understudy.evaluation.probe import Embeddings
    from understudy.models import eval_mode
    from understudy.pipeline.device import device_of

    device = device_of()
    network.to(device).watch({"maps"})
    place = np.full(int(labels.max()) + 1, -1)
    place[list(numbers)] = list(numbers.values())
    x, y = [], []
    with torch.inference_mode(), eval_mode(network):
        for batch in in_order(source, 100, device):
            maps = network(batch).features["maps"].float().cpu()
            side = labels.shape[1]
            rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n in maps.shape[2:])
            y.append(torch.from_numpy(place[labels[batch.ids.cpu().numpy()][:, rows][:, :, columns]]).flatten())
            x.append(maps.movedim(1, 3).flatten(0, 2))
    features, targets = torch.cat(x), torch.cat(y)
    kept = (targets >= 0).nonzero().flatten()
    kept = kept[:: -(-len(kept) // _POSITIONS)]
    classes = tuple(map(str, numbers))
    return Embeddings(
        Source(source.name, classes, torch.arange(len(kept)), targets[kept], (features.shape[1],)),
        {"maps": features[kept].clone()},
    )


EXPERIMENTS = (
    Experiment(
        "crd-nyu", "distillation from color to depth, without labels, on NYU-Depth v2", PAPER, nyu, takes=TAKES,
    ),
)  # fmt: skip
