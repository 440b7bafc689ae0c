"""Teachers' answers to augmented views of a pipeline's samples, shard by shard."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from lightning_fabric import Fabric
from torch import Tensor

from understudy.config.verbs import LabelConfig
from understudy.data import Source
from understudy.data.fingerprint import Fingerprint, differences
from understudy.data.loader import BatchLoader
from understudy.data.views import Views
from understudy.errors import Interrupted, UnderstudyError
from understudy.files import write_whole
from understudy.models import Network
from understudy.pipeline.basis import fit_bases
from understudy.pipeline.device import first_process, make_fabric, workers_of
from understudy.pipeline.distill import Distill
from understudy.pipeline.resumption import read_fingerprints, same_machine, write_fingerprints
from understudy.pipeline.sampled import These, look, npy
from understudy.pipeline.targets import LABELED
from understudy.pipeline.threads import blank_batch, threads_by_trial
from understudy.runs.folder import DATA
from understudy.runs.places import noted_places
from understudy.runs.targets import Rows, TargetsFolder, check_same
from understudy.teachers import adopt_classes
from understudy.teachers.encoding import Compact, Float16
from understudy.teachers.store import IDS, SAMPLED, Manifest, Shard, Stored, shards_of
from understudy.terminal import Terminal
from understudy.training import launch
from understudy.training.interrupt import stop_flag
from understudy.training.logging import ConsoleLogger

SHARD = 16
"""Batches of a shard."""
_FULL = 64  # classes of which all logits are kept


@dataclass(frozen=True)
class Labeling:
    """What is to be labeled, how, and where.

    Attributes:
        pipeline: whose training samples are labeled, by its teachers.
        part: (i, n): the i-th of n parts of all shards, counted from 1.
        merge: folders of other parts.
    """

    pipeline: Distill[Any]
    config: LabelConfig
    folder: TargetsFolder
    part: tuple[int, int] = (1, 1)
    merge: Sequence[Path] = ()

    @property
    def views(self) -> Views:
        return replace(self.pipeline.views, count=self.config.views)

    def batches(self, fabric: Fabric) -> BatchLoader:
        train = self.pipeline.data.train
        return BatchLoader(
            train, self.views, self.config.batch_size, 0, fabric.device, workers=workers_of(self.config),
            sampler=These(torch.arange(len(train))),
        )  # fmt: skip

    def manifest(self) -> Manifest:
        """What the store will hold."""
        train, classes = self.pipeline.data.train, self.pipeline.teacher_classes
        return Manifest(
            data=train.name, samples=len(train), shape=train.shape, classes=classes,
            teachers=self.pipeline.teacher_digests(), mean=self.pipeline.recipe.mean, views=asdict(self.views),
            decoder=f"Pillow {PIL.__version__}, torch {torch.__version__.partition('+')[0]}",
            batch=self.config.batch_size, shard=SHARD,
            signals=tuple(self._signals(len(classes) if self._matching else 0)),
            config=self.config.model_dump(mode="json", exclude=set(LabelConfig.fixed)),
        )  # fmt: skip

    @property
    def _matching(self) -> bool:
        """Whether the teachers predict the same classes, which are those of the data if it is labeled."""
        own, known = self.pipeline.data.labeled.classes, self.pipeline.teacher_classes
        return bool(known) and known == (own or known)

    def _signals(self, classes: int) -> Iterator[Stored]:
        config, teachers = self.config, list(self.pipeline.teachers.values())
        layers = "int8" if config.int8 else "float16"
        if not classes and config.logits in ("all", "compact"):
            raise UnderstudyError("the teachers do not predict the classes of the data; leave out --logits")
        if (not classes or config.logits == "none") and not (config.embedding or config.features):
            raise UnderstudyError("without logits there is nothing to keep; pass --embedding")
        auto = "all" if classes <= _FULL else "compact"
        asked = auto if config.logits == "auto" else config.logits
        smaller = Compact.row_bytes((classes,)) < Float16.row_bytes((classes,))
        logits = "compact" if asked == "compact" and smaller else "float16"
        if config.members and len(teachers) == 1:
            raise UnderstudyError("members keeps the answers of several teachers apart, and there is one; leave it out")
        apart = len(teachers) > 1 and (config.members or config.embedding or bool(config.features))
        for member, network in enumerate(teachers if apart else teachers[:1]):
            number, prefix = (member, f"{member}-") if apart else (None, "")
            shapes = network.shapes(config.features)
            if classes and config.logits != "none":
                yield Stored(
                    file=f"{prefix}logits.bin", member=number, name="logits", encoding=logits, shape=(classes,)
                )
            if config.embedding:
                width = (shapes.embedding,)
                yield Stored(
                    file=f"{prefix}embedding.bin", member=number, name="embedding", encoding=layers, shape=width
                )
            for place, (tap, shape) in enumerate(shapes.features.items()):
                yield Stored(file=f"{prefix}feature-{place}.bin", member=number, name=tap, encoding=layers, shape=shape)


class Labels(Distill[Any]):
    """The data and the teachers of a labeling, whose answers are kept whatever their classes are."""

    def match(self, name: str, network: Network, classes: tuple[str, ...]) -> None:
        adopt_classes(network, classes)


def label(job: Labeling) -> None:
    """Label what is missing in the job's part, and make the store once all is there.

    Of torchrun's processes, the first prepares the folder and makes the store.

    Raises:
        UnderstudyError: the folder holds other targets, or the data has changed.
        Interrupted: a signal asked to stop; what is done is kept.
    """
    folder, first = job.folder, first_process()
    if first:
        _prepare(job)
    fabric, started = make_fabric(job.config), time.monotonic()
    if job.config.devices * job.config.nodes > 1:
        launch(fabric, partial(_label, job=job), str(folder.path))
    else:
        _label(fabric, job)
    if first and not folder.finished:
        folder.note(seconds=folder.record.get("seconds", 0.0) + time.monotonic() - started)
        _finish(job)


def _prepare(job: Labeling) -> None:
    """Begin a folder, or check that it is of the same targets; take over what other parts have."""
    folder, train, manifest = job.folder, job.pipeline.data.train, job.manifest()
    parts = [TargetsFolder(path) for path in job.merge]
    for part in parts:
        part.require(manifest)
    if folder.exists:
        check_same(folder.manifest, manifest, folder.path)
        _check_data(folder, train)
        if folder.finished:
            return
    else:
        write_fingerprints(folder.path / DATA, {LABELED: Fingerprint.of(train)})
        places = noted_places(job.config, folder.path)
        folder.note(**manifest.model_dump(mode="json"), places=places)
    for line in (*job.pipeline.data.notes, describe(manifest, folder.path)):
        Terminal().say(line)
    for part in parts:
        folder.merge(part)


def _finish(job: Labeling) -> None:
    """Make the store if all shards are there, else say what is left."""
    folder, train, count = job.folder, job.pipeline.data.train, len(shards_of(job.folder.manifest))
    if left := len(folder.missing(count)):
        Terminal().say(
            f"{left:,} of {count:,} shards are left for the other parts; put all together with: understudy label ... "
            "--merge FOLDER ..."
        )
        return
    write_whole(folder.path / IDS, npy(train.ids.numpy()))
    write_whole(folder.path / SAMPLED, look(train, job.views).to_bytes())
    folder.join()


def describe(manifest: Manifest, path: Path) -> str:
    """What a store takes.

    >>> describe(Manifest(data="photos", samples=1000, shape=(3, 224, 224), classes=("a", "b"), teachers={},
    ...     mean="arithmetic", views={"count": 32, "augmentation": {}}, decoder="", batch=128, shard=16,
    ...     signals=(Stored(file="l", member=None, name="logits", encoding="float16", shape=(2,)),)), Path("targets"))
    'targets: 32 views of 1,000 samples of photos, 4 bytes each, 128.0 kB in all'
    """
    views, each = manifest.view_count, manifest.view_bytes
    total = views * manifest.samples * each
    return (
        f"{path}: {views:,} views of {manifest.samples:,} samples of {manifest.data}, {each:,} bytes each, "
        f"{_size(total)} in all"
    )


def _size(count: float) -> str:
    power = min(int(math.log10(max(count, 1)) // 3), 4)
    return f"{count / 1000**power:.1f} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def _check_data(folder: TargetsFolder, train: Source) -> None:
    known = read_fingerprints(folder.path / DATA).get(LABELED)
    changes = differences(known, train) if known is not None else []
    if changes:
        raise UnderstudyError(
            f"{train.name} has changed since {folder.path} was begun ({', '.join(changes)}); restore it, or choose "
            "another --out folder"
        )


def _label(fabric: Fabric, job: Labeling) -> None:
    """Label the missing shards of one process's share."""
    fabric.barrier()  # the first has prepared the folder
    folder, manifest = job.folder, job.folder.manifest
    if manifest.finished:
        return
    shards = shards_of(manifest)
    share = _share(len(shards), job.part, fabric.global_rank, fabric.world_size)
    missing = [number for number in folder.missing(len(shards)) if number in share]
    done = len(share) - len(missing)
    progress = ConsoleLogger("label", unit="view") if fabric.global_rank == 0 else None
    with same_machine(fabric, folder, lambda: _threads(fabric, job)), stop_flag() as flag:
        if fabric.global_rank == 0:
            fit_bases(fabric, job.pipeline, folder, job.views)
        fabric.barrier()
        if progress is not None:
            progress.on_train_start(done, len(share))
        for number, rows, found in _answered(fabric, job, manifest, missing):
            folder.write_shard(number, rows, found)
            done += 1
            if progress is not None:
                progress.on_step_end(done, len(found), list)
                views = done * manifest.view_count / len(shards)
                progress.on_epoch_end([{"step": done, "epoch": views, "part": "label"}])
            if flag.number and number != missing[-1]:
                raise Interrupted(str(folder.path), done, flag.number)
        if progress is not None:
            progress.on_train_end()
        fabric.barrier()


def _threads(fabric: Fabric, job: Labeling) -> int:
    """The number of CPU threads, by timed answers of the teachers."""

    def prepare() -> Callable[[int], object]:
        teacher, train = job.pipeline.live_teacher(fabric.device), job.pipeline.data.train
        assert teacher is not None, "targets have a teacher"
        return lambda size: teacher(blank_batch(train, size))

    return threads_by_trial(job.config, fabric, prepare, job.config.batch_size).announced()


def _answered(
    fabric: Fabric, job: Labeling, manifest: Manifest, numbers: Sequence[int]
) -> Iterator[tuple[int, dict[str, Rows], Rows]]:
    """The teachers' answers, shard by shard: rows by the file of the signal, and which of them there are."""
    teacher, train = job.pipeline.live_teacher(fabric.device), job.pipeline.data.train
    assert teacher is not None, "targets have a teacher"
    teacher.watch({one.name for one in manifest.signals} - {"logits"})
    batches, shards = job.batches(fabric), shards_of(manifest)
    codings = {one.file: one.coding(job.folder.path).to(fabric.device) for one in manifest.signals}
    if fabric.world_size == 1:  # else each process would keep all
        batches.keep_decoded(len(numbers) * SHARD, Terminal().say)
    for together in _consecutive(numbers):
        steps = [_steps(shards[number], manifest, batches.steps) for number in together]
        stream = batches.stream(steps[0].start, steps[-1].stop)
        for number, own in zip(together, steps, strict=True):
            _, first, last = shards[number]
            rows = {one.file: np.zeros((last - first, one.row_bytes), np.uint8) for one in manifest.signals}
            found = np.zeros(last - first, np.uint8)
            for _ in own:
                batch = next(stream)
                if not len(batch):
                    continue
                places = _places(train.ids[first:last], batch.ids.cpu())
                found[places] = 1
                with fabric.autocast():
                    signals = teacher(batch)
                for one in manifest.signals:
                    rows[one.file][places] = codings[one.file].encode(one.of(signals)).cpu().numpy()
            yield number, rows, found


def _places(ids: Tensor, answered: Tensor) -> Rows:
    """Where in a shard of these ids those are that have answers, in the same order."""
    return torch.isin(ids, answered).nonzero().flatten().numpy()


def _share(shards: int, part: tuple[int, int], rank: int, ranks: int) -> range:
    """The shards of one process: consecutive ones, so that it can stream their batches."""
    whole = range(shards * (part[0] - 1) // part[1], shards * part[0] // part[1])
    return whole[len(whole) * rank // ranks : len(whole) * (rank + 1) // ranks]


def _consecutive(numbers: Sequence[int]) -> list[list[int]]:
    """The numbers in runs without gaps.

    >>> _consecutive([1, 2, 5])
    [[1, 2], [5]]
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _steps(shard: Shard, manifest: Manifest, steps: int) -> range:
    """The batches of a shard, of so many a view."""
    last = steps if shard.last == manifest.samples else shard.last // manifest.batch
    return range(shard.view * steps + shard.first // manifest.batch, shard.view * steps + last)
