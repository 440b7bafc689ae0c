"""The bases of compact logits, fitted on teachers' answers to sampled views before any is kept."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric

from understudy.data.loader import BatchLoader
from understudy.data.views import Views
from understudy.files import write_whole
from understudy.pipeline.distill import Distill
from understudy.pipeline.sampled import These, sampled_rows
from understudy.runs.targets import TargetsFolder
from understudy.teachers.encoding import Compact

_VIEWS = 2048


def fit_bases(fabric: Fabric, pipeline: Distill[Any], folder: TargetsFolder, views: Views) -> None:
    """Write the bases that a folder lacks.

    They are a function of the teachers, the data and the views, whatever part of these is labeled.
    """
    manifest, train = folder.manifest, pipeline.data.train
    lacking = [one for one in manifest.signals if one.encoding == "compact" and not (folder.path / one.basis).exists()]
    if not lacking:
        return
    teacher, rows = pipeline.live_teacher(fabric.device), sampled_rows(train, 0, _VIEWS)
    assert teacher is not None, "targets have a teacher"
    batches = BatchLoader(train, views, manifest.batch, 0, fabric.device, sampler=These(rows))
    answers = {one.basis: list[torch.Tensor]() for one in lacking}
    passes = min(manifest.view_count, -(-_VIEWS // len(rows)))
    for batch in batches.stream(0, passes * batches.steps):
        if len(batch):  # else none of its samples can be decoded
            with fabric.autocast():
                signals = teacher(batch)
            for one in lacking:
                answers[one.basis].append(one.of(signals).float().cpu())
    for name, found in answers.items():
        write_whole(folder.path / name, Compact.fit(torch.cat(found)).to_bytes())
