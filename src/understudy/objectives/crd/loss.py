"""The contrastive loss of Tian, Krishnan and Isola (2020) as a function of tensors."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from understudy.objectives.crd.kernel import Compute, Contrast, Negatives, SumNegatives, negative_sums

DEFAULT_NEGATIVES = 16_384
"""The paper's N."""


def crd_loss(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    ids: Tensor,
    bank_student: Tensor,
    bank_teacher: Tensor,
    *,
    negative_ids: Tensor | None = None,
    groups: Tensor | None = None,
    nominal: int | None = None,
    temperature: float = 0.07,
    log_z: Tensor | None = None,
    compute: Compute = "auto",
) -> Tensor:
    """`-mean_b sum over both sides of (log h_b+ + sum_n log(1 - h_bn))`: minus the paper's L_critic, section 3.1.

    The critic is the paper's `h = e / (e + N/M)` with `e = exp(q'k / temperature) / Z`, so `h = sigmoid(l)` with
    `l = q'k / temperature - log Z - log(N / M)`. On the student's side, q is the student's embedding and the keys
    k are rows of the teacher's bank: the sample's own and its negatives'. The teacher's side is the reverse.

    Without `negative_ids`, all rows of other groups are negatives, each weighted N / (their number): exactly the
    expectation of the loss with N negatives drawn uniformly from those rows.

    Args:
        student_embedding: (B, D), projected and of norm 1, like `teacher_embedding`.
        ids: (B,) int64, each sample's row of the banks.
        bank_student: (M, D), any float dtype, like `bank_teacher`; a constant of the loss.
        negative_ids: (B, N) int64, rows of the banks, the same for both sides.
        groups: (M,) int64: rows of a sample's own group are not its negatives. None excludes only its own row.
        nominal: N, used without `negative_ids`; None for 16,384, or M - 1 if that is less.
        log_z: (2,), log Z of the student's side and of the teacher's; None for Z = 1.
        compute: whether scores of sampled rows are picked from a product with the whole bank ("dense") or their rows
            are copied ("gathered"); "auto" chooses the cheaper. The values are the same.

    >>> bank, ids = torch.eye(4), torch.tensor([0, 1])
    >>> round(crd_loss(bank[ids], bank[ids], ids, bank, bank, temperature=0.5).item(), 3)
    5.277
    """
    size = len(bank_teacher)
    if bool(((ids < 0) | (ids >= size)).any()):
        raise ValueError(f"ids must be rows of the bank, from 0 to {size - 1}; they range from {int(ids.min())} "
                         f"to {int(ids.max())}")  # fmt: skip
    if negative_ids is not None:
        number, negatives = negative_ids.shape[1], Negatives(ids=negative_ids)
    else:
        groups = torch.arange(size, device=ids.device) if groups is None else groups
        number = min(DEFAULT_NEGATIVES, size - 1) if nominal is None else nominal
        query_groups = groups[ids]
        counts = (groups != query_groups[:, None]).sum(1)
        if not bool(counts.all()):
            raise ValueError("all rows of the bank are in one group, so there are no negatives")
        negatives = Negatives(groups=groups, query_groups=query_groups, counts=counts, number=number)
    log_z = torch.zeros(2, device=ids.device) if log_z is None else log_z
    embeddings = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in (student_embedding, teacher_embedding)]
    with torch.autocast(ids.device.type, enabled=False):
        keys = [bank[ids.to(bank.device)].to(embeddings[0]) for bank in (bank_student, bank_teacher)]
        losses, _ = both_sides(
            embeddings, keys, [bank_student, bank_teacher], negatives, number / size, temperature, log_z, compute
        )
    return losses.sum() / max(len(ids), 1)


def mutual_information_bound(loss: Tensor, negatives: int) -> Tensor:
    """`log N - loss / 2` nats: a lower bound on the mutual information of the two embeddings (section 3.1).

    The bound `I(T; S) >= log N + L_critic(h)` holds for any critic h in expectation over samples and negatives from
    the whole set, and is tightest for the best h; `loss`, of `crd_loss` or `CRD` with negatives of any class, is minus
    the sum of both sides' L_critic.

    >>> round(mutual_information_bound(torch.tensor(4.0), negatives=1000).item(), 2)
    4.91
    """
    return math.log(negatives) - loss / 2


def both_sides(
    embeddings: list[Tensor], keys: list[Tensor], banks: list[Tensor], negatives: Negatives, prior: float,
    temperature: float, log_z: Tensor, compute: Compute, sum_negatives: SumNegatives = negative_sums,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Losses (B,) and log-sums of exponentials (B, 2). Lists are [student, teacher]; `prior` is N / M."""

    def contrast(side: int) -> tuple[Tensor, Tensor]:
        shift = (log_z[side] + math.log(prior)).to(embeddings[side].dtype)
        queries, others, bank = embeddings[side], keys[1 - side], banks[1 - side]
        result = Contrast.apply(queries, others, bank, negatives, temperature, shift, compute, sum_negatives)
        return cast(tuple[Tensor, Tensor], result)

    (loss, log_sum), (teacher_loss, teacher_log_sum) = contrast(0), contrast(1)
    return loss + teacher_loss, torch.stack([log_sum, teacher_log_sum], 1)
