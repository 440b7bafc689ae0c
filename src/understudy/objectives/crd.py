"""Contrastive representation distillation (Tian, Krishnan, Isola 2020), with exact and cheap negatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.banks import first_of_each, first_rows, from_every_rank, move_rows, rank, ranks
from understudy.objectives.base import Needs, Objective, Setting, teacher_of
from understudy.objectives.crd_kernel import Compute
from understudy.objectives.crd_loss import PAPERS_NEGATIVES, both_sides
from understudy.objectives.roster import Queue, Roster
from understudy.objectives.sharding import Shard
from understudy.signals import Batch, Signals

Normalizer = Literal["running", "first", "paper"]

EMBEDDING = frozenset({"embedding"})
_BANKS = "bank_student", "bank_teacher"
_DTYPES = "float32", "bfloat16", "float16", "float64"


class CRD(Objective):
    """Contrastive representation distillation; see `crd_loss`. Needs no labels, and uses them where they are there.

    `project_student` and `project_teacher` are linear and normalised; the banks `bank_student` and `bank_teacher`
    hold an average of each sample's projected embeddings. In training mode each forward pass moves the batch's
    rows, `row <- normalise(momentum * row + (1 - momentum) * embedding)`, on every rank those of all ranks: banks
    are alike everywhere, and a step of several ranks is that of one process with the joined batch, once
    gradients are averaged in proportion to the ranks' shares of it.

    Micro-batches do not add up to the batch exactly, as rows written by one are read by the next.

    Args:
        student_dim, teacher_dim: widths of the embeddings.
        bank_size: M, the number of samples; their ids are 0 .. M - 1 unless `ids` tells them.
        dim: D, the width of the projections.
        negatives: "all", every row that may be one, weighted to the expectation of `nominal` sampled ones; or N,
            sampled anew for each sample and step.
        exclude: whether rows of the same "class" are never negatives, or only the "sample" itself.
        nominal: the N that "all" stands for; None for 16,384, or M - 1 where that is less.
        normalizer: Z is 1 ("paper"), estimated once from the first batch ("first", the released code), or a
            moving average of such estimates ("running"), since the banks' first rows are random.
        z_decay: of the moving average.
        compute: see `crd_loss`.
        bank: "samples", a row for each; or "queue:65536", the embeddings of the last 65,536 samples, for streams
            without ids: a sample's positive is then its own pair.
        bank_dtype: type of the banks' numbers; "float32", "bfloat16" or "float16".
        bank_folder: where to keep the banks in files that are mapped into memory, made anew: a folder of its own
            for each CRD. None for in memory.
        sharded: whether each rank holds a block of the banks' rows only, and all ranks add up what theirs say to
            everyone's queries: the same values, for banks that do not fit one rank. Then every forward pass and
            every `state_dict()` is a matter of all ranks; the first rank's state has the whole banks, and is loaded
            by any number of ranks.
        seed: of the banks' first rows.
        ids: (M,) int64, the samples' ids in any order.
        targets: (M,) int64, the classes of `ids` (or of 0 .. M - 1), -1 where unlabelled.
    """

    needs = Needs(student=EMBEDDING, teacher=EMBEDDING)
    summary = "contrast of both sides' embeddings with memory banks (Tian et al. 2020)"
    weight = 0.8
    rowwise = False
    mixable = False  # a bank's row is of one sample
    alike = frozenset(_BANKS) | {f"roster.{name}" for name in Roster.BUFFERS}
    # how torch's data parallelism is told, where it wraps this module itself
    _ddp_params_and_buffers_to_ignore: ClassVar[list[str]] = sorted(alike)

    bank_student: Tensor
    bank_teacher: Tensor
    log_z: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        bank_size: int,
        dim: int = 128,
        negatives: int | Literal["all"] = "all",
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
        _check(temperature, momentum, z_decay, negatives, nominal, size, queue=bank != "samples")
        _check_choice("normalizer", normalizer, get_args(Normalizer))
        _check_choice("exclude", exclude, ("class", "sample"))
        _check_choice("compute", compute, get_args(Compute))
        _check_choice("bank_dtype", str(bank_dtype).removeprefix("torch."), _DTYPES)
        self.negatives, self.temperature, self.momentum = negatives, temperature, momentum
        self.exclude, self.normalizer, self.z_decay = exclude, normalizer, z_decay
        self.compute: Compute = compute
        self.number = negatives if negatives != "all" else nominal or min(PAPERS_NEGATIVES, size - 1)
        self.project_student, self.project_teacher = nn.Linear(student_dim, dim), nn.Linear(teacher_dim, dim)
        dtype: torch.dtype = getattr(torch, str(bank_dtype).removeprefix("torch."))
        if sharded and bank != "samples":
            raise ValueError("a queue is held whole by every rank; leave out sharded")
        self.size, self.shard = size, Shard(size) if sharded else None
        kept = self.shard.rows if self.shard else slice(None)
        for index, name in enumerate(_BANKS):
            file = None if bank_folder is None else Path(bank_folder) / f"{name}-{rank()}.bin"
            self.register_buffer(name, first_rows(size, dim, 2 * seed + index, dtype, file, kept))
        self.mapped = bank_folder is not None
        self.register_buffer("log_z", torch.full((2,), 0.0 if normalizer == "paper" else math.nan))
        self.roster = Roster(size, ids, targets if exclude == "class" else None) if bank == "samples" else None
        self.queue = Queue(size, by_class=exclude == "class") if self.roster is None else None

    @classmethod
    def suited(cls, setting: Setting, **options: Any) -> Self:
        return cls(
            setting.student.embedding,
            setting.teacher.embedding,
            len(setting.ids),
            ids=setting.ids,
            targets=setting.targets,
            **options,
        )

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        teacher = teacher_of(self, teacher)
        with torch.autocast(self.log_z.device.type, enabled=False):
            embeddings = [
                self._projected(student.embedding, self.project_student, "student"),
                self._projected(teacher.embedding, self.project_teacher, "teacher"),
            ]
            banks = [self.bank_student, self.bank_teacher]
            if self.queue is not None:
                rows = self.queue.groups_of(batch)
                negatives = self.queue.negatives(rows, self.number)
                keys = [x.detach() for x in embeddings]
            else:
                assert self.roster is not None
                rows, sampled = self.roster.rows(batch.ids), self.negatives != "all"
                if self.shard is None:
                    negatives = self.roster.negatives(rows, self.number, sampled=sampled)
                    keys = [bank[rows.to(bank.device)].to(embeddings[0]) for bank in banks]
                else:
                    negatives = self.shard.negatives(self.roster, rows, self.number, sampled=sampled)
                    keys = self.shard.keys(banks, rows, embeddings[0].detach())

            def losses(log_z: Tensor) -> tuple[Tensor, Tensor]:
                return both_sides(embeddings, keys, banks, negatives, self.number / self.size, self.temperature,
                                   log_z, self.compute, self.shard and self.shard.summed)  # fmt: skip

            each, log_sums = losses(self._normalizer(losses))
            if self.training:
                self._learn(rows, torch.cat([*(x.detach() for x in embeddings), log_sums], 1))
            return each.sum() / max(len(batch), 1)

    def _projected(self, embedding: Tensor | None, project: nn.Linear, side: str) -> Tensor:
        if embedding is None:
            raise ValueError(f"CRD needs the {side}'s embedding; its signals have none")
        dtype = torch.promote_types(project.weight.dtype, torch.float32)
        # what a teacher gives in inference mode cannot be kept for the projector's backward pass
        embedding = embedding.clone() if embedding.is_inference() else embedding
        x = F.linear(embedding.to(dtype), project.weight.to(dtype), project.bias.to(dtype))
        # the squares of large numbers overflow; the scale has no part in the result
        return F.normalize(x / x.detach().abs().amax(1, keepdim=True).clamp_min(1e-12), dim=1)

    def _normalizer(self, losses: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """log Z (2,): what has been learnt, or this batch's own where nothing has."""
        if not bool(self.log_z.isnan().any()):
            return self.log_z
        with torch.no_grad():
            _, log_sums = losses(torch.zeros_like(self.log_z))
        found = self._estimate(from_every_rank(log_sums)[0] if self.training else log_sums)
        if self.training:
            self.log_z.copy_(found)
        return found

    def _estimate(self, log_sums: Tensor) -> Tensor:
        """`log (M * mean of exp(q'k / tau))` over the samples and their N + 1 keys, (2,) of (B, 2)."""
        count = len(log_sums) * (self.number + 1) / self.size
        return torch.logsumexp(log_sums, 0) - math.log(count)

    @torch.no_grad()
    def _learn(self, own: Tensor, values: Tensor) -> None:
        """Move log Z and the banks by what all ranks saw; `own` are rows of the banks, or groups for the queue."""
        own, values = from_every_rank(own, values)
        student, teacher, log_sums = values.split([self.bank_student.shape[1], self.bank_teacher.shape[1], 2], 1)
        if self.normalizer == "running" and len(values):
            found = self._estimate(log_sums) + math.log1p(-self.z_decay)
            self.log_z.copy_(torch.logaddexp(self.log_z + math.log(self.z_decay), found))
        momentum = self.momentum
        if self.queue is not None:
            kept = slice(-self.size, None)
            rows, momentum = self.queue.enter(own[kept]), 0.0
        else:
            kept = first_of_each(own) if ranks() > 1 else slice(None)
            rows = own[kept]
        if self.shard is not None:
            held = self.shard.holds(rows)
            rows, student, teacher = rows[held] - self.shard.first, student[kept][held], teacher[kept][held]
            kept = slice(None)
        move_rows(self.bank_student, rows, student[kept], momentum)
        move_rows(self.bank_teacher, rows, teacher[kept], momentum)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # mapped banks stay where they are: they are mapped because they do not fit elsewhere
        banks = {name: self._buffers.pop(name) for name in _BANKS} if self.mapped else {}
        super()._apply(fn, recurse)
        self._buffers.update(banks)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.shard is not None:
            for name in _BANKS:
                destination[prefix + name] = self.shard.whole(getattr(self, name), self.log_z.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **named: Any) -> None:
        if self.shard is not None:
            for name in (prefix + bank for bank in _BANKS):
                if len(state_dict.get(name, ())) == self.size:
                    state_dict[name] = state_dict[name][self.shard.rows]
        super()._load_from_state_dict(state_dict, prefix, *args, **named)

    def extra_repr(self) -> str:
        return f"{self.size} rows, negatives={self.negatives}, temperature={self.temperature:g}"


def _queue_size(bank: str) -> int | None:
    """The rows of a "queue:65536", None of "samples"."""
    kind, _, size = bank.partition(":")
    if bank == "samples":
        return None
    if kind != "queue" or not size.isdecimal() or int(size) < 2:
        raise ValueError(
            f"bank must be 'samples' or 'queue:' and a number of rows, as in 'queue:65536'; it is {bank!r}"
        )
    return int(size)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; it is {value!r}")


def _check(
    temperature: float,
    momentum: float,
    z_decay: float,
    negatives: int | str,
    nominal: int | None,
    size: int,
    *,
    queue: bool,
) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be above 0; it is {temperature}")
    for name, value in (("momentum", momentum), ("z_decay", z_decay)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be from 0 to below 1; it is {value}")
    if size < 2:
        raise ValueError(f"a bank needs at least 2 rows, a sample and a negative; bank_size is {size}")
    for name, value in (("negatives", negatives), ("nominal", nominal)):
        if isinstance(value, str) and value != "all":
            raise ValueError(f"{name} must be 'all' or a number; it is {value!r}")
        if isinstance(value, int) and not 1 <= value < size:
            raise ValueError(f"{name} must be from 1 to {size - 1}, as the bank has {size} rows; it is {value}")
    if queue and negatives != "all":
        raise ValueError("a queue gives all its rows as negatives; leave negatives at 'all'")
