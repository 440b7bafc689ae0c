"""Contrastive representation distillation (CRD, Tian, Krishnan, Isola 2020)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.base import BuildContext, Needs, Objective, check_number, require_teacher
from understudy.objectives.crd.bank import first_places, initial_rows, momentum_update
from understudy.objectives.crd.kernel import Compute, negative_sums, takes_all
from understudy.objectives.crd.loss import DEFAULT_NEGATIVES, both_sides
from understudy.objectives.crd.negatives import NegativeSampler, Queue
from understudy.objectives.crd.sharding import Shard
from understudy.objectives.ranks import all_gather, rank
from understudy.signals import Batch, Signals

Normalizer = Literal["running", "first", "paper"]

EMBEDDING = frozenset({"embedding"})
_BANKS = "bank_student", "bank_teacher"
_WIDEST = 65_536  # of a projection
_DTYPES = "float32", "bfloat16", "float16", "float64"


class CRD(Objective):
    """Contrastive representation distillation; see `crd_loss`, also for `compute`. Labels are optional.

    `project_student` and `project_teacher` are linear and followed by normalization; the banks `bank_student` and
    `bank_teacher` hold a moving average of each sample's projected embeddings. In training mode, each forward pass
    updates the batch's rows, `row <- normalize(momentum * row + (1 - momentum) * embedding)`, on every rank those of
    all ranks. The banks thus stay equal on all ranks, and a step of several ranks equals that of one process with the
    joint batch, if gradients are averaged in proportion to the ranks' shares of it.

    Micro-batches do not add up to the batch exactly, as each reads rows that the previous one updated.

    Args:
        bank_size: M, the number of samples; their ids are 0 .. M - 1 unless given by `ids`.
        dim: D, the width of the projections.
        negatives: "all" possible rows, weighted to the expectation of `nominal` sampled ones; N, sampled for each
            sample and step; or "auto", all of up to 4 times `nominal` rows and `nominal` sampled ones of more.
        exclude: whether rows of the same "class" are never negatives, or only the "sample" itself.
        nominal: the N of "auto" and "all"; None for 16,384, or M - 1 if that is less.
        normalizer: Z is 1 ("paper"), estimated once from the first batch ("first", the released code), or a moving
            average of such estimates with decay `z_decay` ("running"), since the banks start with random rows.
        bank: "samples", one row per sample; or "queue:65536", the embeddings of the last 65,536 samples, for streams
            without ids, where a sample's positive is its own other embedding.
        bank_folder: a folder for new files that the banks are mapped from, one folder per CRD; None for memory.
        sharded: whether each rank holds only a block of the banks' rows. The values are the same, for banks that do
            not fit on one rank. Every forward pass and every `state_dict()` is then collective; the first rank's state
            has the whole banks and can be loaded by any number of ranks.
        ids: (M,) int64, the samples' ids in any order.
        targets: (M,) int64, the classes of `ids` (or of 0 .. M - 1), -1 for unlabeled samples.

    >>> crd = CRD(student_dim=8, teacher_dim=16, bank_size=100, targets=torch.arange(100) % 10)
    >>> crd.bank_student.shape, crd.number
    (torch.Size([100, 128]), 99)
    >>> crd.negatives, CRD(8, 16, bank_size=1000, nominal=200).negatives
    ('all', 200)
    """

    needs = Needs(student=EMBEDDING, teacher=EMBEDDING)
    summary = "contrast of the embeddings with memory banks (CRD, Tian et al. 2020)"
    weight = 0.8
    per_sample = False
    supports_mixup = False  # each row of a bank belongs to one sample
    synced_buffers = frozenset(_BANKS) | {f"sampler.{name}" for name in (*NegativeSampler.BUFFERS, "missing")}
    # read by DistributedDataParallel if it wraps this module directly
    _ddp_params_and_buffers_to_ignore: ClassVar[list[str]] = sorted(synced_buffers)

    bank_student: Tensor
    bank_teacher: Tensor
    log_z: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        bank_size: int,
        dim: int = 128,
        negatives: int | Literal["auto", "all"] = "auto",
        temperature: float = 0.07,
        momentum: float = 0.5,
        *,
        exclude: Literal["class", "sample"] = "class",
        nominal: int | None = None,
        normalizer: Normalizer = "running",
        z_decay: float = 0.99,
        compute: Compute = "auto",
        bank: str = "samples",
        bank_dtype: torch.dtype | str = torch.float32,
        bank_folder: str | Path | None = None,
        sharded: bool = False,
        seed: int = 0,
        ids: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> None:
        super().__init__()
        size = _queue_size(bank) or bank_size
        dtype_name = str(bank_dtype).removeprefix("torch.")
        _check_ranges(temperature, size, {"momentum": momentum, "z_decay": z_decay},
                      {"negatives": negatives, "nominal": nominal})  # fmt: skip
        for name, value, choices in (
            ("normalizer", normalizer, get_args(Normalizer)), ("exclude", exclude, ("class", "sample")),
            ("compute", compute, get_args(Compute)), ("bank_dtype", dtype_name, _DTYPES),
        ):  # fmt: skip
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; it is {value!r}")
        check_number("dim", dim, least=1, most=_WIDEST, whole=True)
        check_number("seed", seed, most=2**32 - 1, whole=True)
        if bank != "samples" and negatives not in ("auto", "all"):
            raise ValueError("a queue uses all its rows as negatives; leave negatives at 'auto'")
        if bank != "samples" and sharded:
            raise ValueError("a queue cannot be sharded; leave out sharded")
        self.temperature, self.momentum = temperature, momentum
        self.exclude, self.normalizer, self.z_decay = exclude, normalizer, z_decay
        self.compute: Compute = compute
        self.number = nominal or min(DEFAULT_NEGATIVES, size - 1) if isinstance(negatives, str) else negatives
        if negatives == "auto":
            negatives = "all" if bank != "samples" or takes_all(size, self.number) else self.number
        self.negatives: int | Literal["all"] = negatives
        self.project_student, self.project_teacher = nn.Linear(student_dim, dim), nn.Linear(teacher_dim, dim)
        dtype: torch.dtype = getattr(torch, dtype_name)
        self.size, self.shard = size, Shard(size) if sharded else None
        kept = self.shard.rows if self.shard else slice(None)
        for index, name in enumerate(_BANKS):
            file = None if bank_folder is None else Path(bank_folder) / f"{name}-{rank()}.bin"
            self.register_buffer(name, initial_rows(size, dim, 2 * seed + index, dtype, file, kept))
        self.mapped = bank_folder is not None
        self.register_buffer("log_z", torch.full((2,), 0.0 if normalizer == "paper" else math.nan))
        self._has_z = False
        by_class = exclude == "class"
        self.sampler = NegativeSampler(size, ids, targets if by_class else None) if bank == "samples" else None
        self.queue = Queue(size, by_class=by_class) if self.sampler is None else None

    @classmethod
    def from_shapes(cls, context: BuildContext, **options: Any) -> Self:
        widths = context.student.embedding, context.teacher.embedding
        return cls(*widths, len(context.ids), ids=context.ids, targets=context.targets, **options)

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        teacher = require_teacher(self, teacher)
        with torch.autocast(self.log_z.device.type, enabled=False):
            embeddings = [self._projected(student.embedding, self.project_student, "student"),
                          self._projected(teacher.embedding, self.project_teacher, "teacher")]  # fmt: skip
            banks = [self.bank_student, self.bank_teacher]
            sum_negatives = self.shard.negative_sums if self.shard else negative_sums
            if self.queue is not None:
                rows = self.queue.groups_of(batch)
                negatives = self.queue.negatives(rows, self.number)
                keys = [x.detach() for x in embeddings]
            else:
                assert self.sampler is not None
                rows, sampled = self.sampler.rows(batch.ids), self.negatives != "all"
                if self.shard is None:
                    negatives = self.sampler.negatives(rows, self.number, sampled=sampled)
                    keys = [bank[rows.to(bank.device)].to(embeddings[0]) for bank in banks]
                else:
                    negatives = self.shard.negatives(self.sampler, rows, self.number, sampled=sampled)
                    keys = self.shard.keys(banks, rows, embeddings[0].detach())

            def losses(log_z: Tensor) -> tuple[Tensor, Tensor]:
                return both_sides(embeddings, keys, banks, negatives, self.number / self.size, self.temperature,
                                   log_z, self.compute, sum_negatives)  # fmt: skip

            per_sample, log_sums = losses(self._normalizer(losses))
            if self.training:
                self._update(rows, torch.cat([*(x.detach() for x in embeddings), log_sums], 1))
            return per_sample.sum() / max(len(batch), 1)

    def _projected(self, embedding: Tensor | None, project: nn.Linear, side: str) -> Tensor:
        if embedding is None:
            raise ValueError(f"CRD needs the {side}'s embedding; its signals have none")
        dtype = torch.promote_types(project.weight.dtype, torch.float32)
        # inference tensors cannot be saved for the projector's backward pass
        embedding = embedding.clone() if embedding.is_inference() else embedding
        x = F.linear(embedding.to(dtype), project.weight.to(dtype), project.bias.to(dtype))
        # dividing by the largest entry avoids overflow of the squares and does not change the direction
        return F.normalize(x / x.detach().abs().amax(1, keepdim=True).clamp_min(1e-12), dim=1)

    def _normalizer(self, losses: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """log Z (2,): the current estimate, or one from this batch if there is none."""
        # looked at until it is there, and not again: it would be waited for in every step
        self._has_z = self._has_z or not bool(self.log_z.isnan().any())
        if self._has_z:
            return self.log_z
        with torch.no_grad():
            _, log_sums = losses(torch.zeros_like(self.log_z))
        estimate = self._estimate(all_gather(log_sums)[0] if self.training else log_sums)
        if self.training:
            self.log_z.copy_(estimate)
        return estimate

    def _estimate(self, log_sums: Tensor) -> Tensor:
        """`log (M * mean of exp(q'k / tau))` over the samples and their N + 1 keys, (B, 2) -> (2,)."""
        count = len(log_sums) * (self.number + 1) / self.size
        return torch.logsumexp(log_sums, 0) - math.log(count)

    @torch.no_grad()
    def _update(self, rows: Tensor, values: Tensor) -> None:
        """Update log Z and the banks from all ranks' rows (B,), groups for the queue, and values (B, 2 D + 2)."""
        rows, values = all_gather(rows, values)
        student, teacher, log_sums = values.split([self.bank_student.shape[1], self.bank_teacher.shape[1], 2], 1)
        if self.normalizer == "running" and len(values):
            estimate = self._estimate(log_sums) + math.log1p(-self.z_decay)
            self.log_z.copy_(torch.logaddexp(self.log_z + math.log(self.z_decay), estimate))
        momentum = self.momentum
        if self.queue is not None:
            newest = slice(-self.size, None)
            rows, momentum = self.queue.enqueue(rows[newest]), 0.0
            student, teacher = student[newest], teacher[newest]
        else:
            first = first_places(rows)
            student, teacher = student[first], teacher[first]
        if self.shard is not None:
            held = self.shard.holds(rows)
            rows, student, teacher = rows[held] - self.shard.first, student[held], teacher[held]
        momentum_update(self.bank_student, rows, student, momentum)
        momentum_update(self.bank_teacher, rows, teacher, momentum)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # mapped banks are not moved: they are mapped because they do not fit elsewhere
        banks = {name: self._buffers.pop(name) for name in _BANKS} if self.mapped else {}
        super()._apply(fn, recurse)
        self._buffers.update(banks)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.shard is not None:
            for name in _BANKS:
                destination[prefix + name] = self.shard.gather(getattr(self, name), self.log_z.device)

    def check(self) -> None:
        if self.sampler is not None:
            self.sampler.check()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **named: Any) -> None:
        self._has_z = False
        if self.shard is not None:
            for name in (prefix + bank for bank in _BANKS):
                if len(state_dict.get(name, ())) == self.size:
                    state_dict[name] = state_dict[name][self.shard.rows]
        super()._load_from_state_dict(state_dict, prefix, *args, **named)

    def extra_repr(self) -> str:
        return f"{self.size} rows, negatives={self.negatives}, temperature={self.temperature:g}"


def _queue_size(bank: str) -> int | None:
    """65536 for "queue:65536", None for "samples"."""
    kind, _, size = bank.partition(":")
    if bank == "samples":
        return None
    if kind != "queue" or not re.fullmatch(r"\d{1,8}", size) or int(size) < 2:
        raise ValueError(f"bank must be 'samples' or 'queue:' and 2 to 99999999 rows (queue:65536); it is {bank!r}")
    return int(size)


def _check_ranges(
    temperature: float, size: int, fractions: dict[str, float], numbers: dict[str, int | str | None]
) -> None:
    check_number("temperature", temperature, least=1e-4, most=1e3)
    for name, value in fractions.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1; it is {value}")
    for name, value in numbers.items():
        if isinstance(value, str) and value not in ("auto", "all"):
            raise ValueError(f"{name} must be 'auto', 'all' or a number; it is {value!r}")
        if isinstance(value, int) and not 1 <= value < size:
            raise ValueError(f"{name} must be from 1 to {size - 1}, as the bank has {size} rows; it is {value}")
