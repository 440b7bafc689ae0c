"""What a distilled representation is worth: against the random student, other losses, labels, and the teacher.

    python benchmarks/represent.py DATA --teacher 'timm:vit_small_patch14_dinov2?weights=FILE' --minutes 20
    python benchmarks/represent.py flowers12.zip --student timm:mobilenetv3_small_100 --teacher ... --seeds 3

The teacher answers `--views` views of the training part of DATA once, without its labels. Each method then trains the
student for so many minutes of one process on these answers; "labels" trains it with cross-entropy on the labels for as
many epochs as the last method. All are measured frozen on the test part: 20 nearest neighbors among the training part,
a linear probe, and logistic regression on 1, 5 and 10 images a class (the median of five draws). The test part chooses
nothing, and the last step counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import torch

import understudy
from understudy.data import Source, draw_shots, open_source
from understudy.evaluation.probe import Embeddings, extract_embeddings, fit_logistic, linear_probe
from understudy.evaluation.representation import effective_rank, knn_accuracy
from understudy.models import Network
from understudy.pipeline.modality import contract_of
from understudy.pipeline.weights import networks_of, teachers_of

SHOTS, DRAWS, DECAY = (1, 5, 10), 5, 1e-2
COLUMNS = ("k-NN", "linear probe", *(f"{shots} a class" for shots in SHOTS), "rank")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", default="timm:mobilenetv3_small_100")
    parser.add_argument("--methods", nargs="+", default=["cosine", "queue", "crd", "represent"])
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, for each method and seed")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--size", type=int, default=None, help="of the images, in pixels")
    parser.add_argument("--teacher-size", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--folder", type=Path, default=None, help="keep the answers and runs here")
    return parser.parse_args()


def quiet(work: Any, *args: Any, **named: Any) -> Any:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        return work(*args, **named)


def measures(name: str, fitted: Embeddings, scored: Embeddings, shots: Mapping[int, list[np.ndarray]]) -> list[float]:
    """Accuracies in percent, and the effective rank, in the order of `COLUMNS`."""
    keys, x = fitted.by_network[name], scored.by_network[name]
    found = [
        100 * knn_accuracy(x, scored.targets, keys, fitted.targets),
        100 * linear_probe(fitted, scored, name).accuracy,
    ]
    for draws in shots.values():
        right = []
        for rows in draws:
            model = fit_logistic(keys.double().numpy()[rows], fitted.targets.numpy()[rows], DECAY, floor=0.1)
            right.append(float((model.predict(x.double().numpy()) == scored.targets.numpy()).mean()))
        found.append(100 * median(right))
    return [*found, effective_rank(x)]


def shots_of(train: Source, fitted: Embeddings) -> dict[int, list[np.ndarray]]:
    """The rows of the embedded training part that each draw has."""
    place = {int(id): row for row, id in enumerate(fitted.source.ids)}
    drawn = {}
    for shots in SHOTS:
        rows = [draw_shots(train, shots, 0, draw).rows(train) for draw in range(DRAWS)]
        drawn[shots] = [np.array([place[int(id)] for id in train.ids[one] if int(id) in place]) for one in rows]
    return drawn


def main() -> None:
    asked = options()
    folder = asked.folder or Path(tempfile.mkdtemp())
    splits = open_source(asked.data, size=asked.size)
    train, test = splits.train, splits.test
    assert test is not None and train.targets is not None, "DATA needs labels and a test part, for measuring only"  # noqa: PT018
    photos = replace(train, targets=None, classes=())
    machine: dict[str, Any] = {"batch_size": asked.batch_size, "accelerator": "auto"}
    started = time.monotonic()
    targets = quiet(
        understudy.label, photos, asked.teacher, embedding=True, logits="none", views=asked.views, size=asked.size,
        teacher_size=asked.teacher_size, out=folder / "targets", **machine,
    )  # fmt: skip
    print(f"{asked.views} views answered in {time.monotonic() - started:.0f} s", flush=True)

    def trained(method: str, seed: int, epochs: int) -> Any:
        length = {"epochs": epochs} if epochs else {"steps": 0}
        path = folder / f"{method}-{seed}-{epochs}"
        common: dict[str, Any] = machine | length | {"lr": asked.lr, "clip": 1.0, "seed": seed, "run": path}
        if method == "labels":
            return quiet(understudy.train, train, asked.student, size=asked.size, precise_bn=False, **common)
        return quiet(understudy.distill, photos, None, asked.student, targets=targets.path, method=method, **common)

    networks: dict[str, Network] = {}
    last = 0
    for method in (*asked.methods, "labels"):
        for seed in range(asked.seeds):
            if method != "labels":
                seconds = trained(method, seed, 1).record["seconds"]  # of an epoch, and of what comes before it
                last = max(int(asked.minutes * 60 / seconds), 2)
            started = time.monotonic()
            run = trained(method, seed, last)
            print(f"{method}, seed {seed}: {last:,} epochs in {time.monotonic() - started:.0f} s", flush=True)
            networks[f"{method}-{seed}"] = next(iter(networks_of(run.path).values()))
            start = networks_of(trained(method, seed, 0).path) if method == asked.methods[0] else {}
            networks |= {f"random-{seed}": network for network in start.values()}
    contract = contract_of(photos)
    (teacher,) = teachers_of(asked.teacher, lambda: contract, size=asked.teacher_size).values()
    networks["teacher-0"] = teacher
    fitted, scored = (extract_embeddings(networks, part, batch_size=32) for part in (train, test))
    drawn = shots_of(train, fitted)
    print(f"\n| {asked.data} | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for kind in dict.fromkeys(name.rpartition("-")[0] for name in networks):
        rows = [measures(name, fitted, scored, drawn) for name in networks if name.rpartition("-")[0] == kind]
        cells = [
            f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
            for values in zip(*rows, strict=True)
        ]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
