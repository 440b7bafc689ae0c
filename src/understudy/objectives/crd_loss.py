"""The contrastive loss of Tian, Krishnan and Isola (2020) on bare tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from understudy.objectives.crd_kernel import Compute, Negatives, SumNegatives, contrast

PAPERS_NEGATIVES = 16_384


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
    `l = q'k / temperature - log Z - log(N / M)`. On the student's side q is the student's embedding and the keys
    k are rows of the teacher's bank, the sample's own and its negatives'; on the teacher's side the other way round.

    Without `negative_ids`, all rows of another group are negatives, each at weight N / (their number): exactly the
    expectation of the loss with N negatives drawn evenly from those rows.

    Args:
        student_embedding, teacher_embedding: (B, D), projected and of norm 1.
        ids: (B,) int64, each sample's row of the banks.
        bank_student, bank_teacher: (M, D), any float type; they are constants of the loss.
        negative_ids: (B, N) int64, rows of the banks, the same for both sides; taken as they are.
        groups: (M,) int64, used without `negative_ids`: rows of a sample's own group are not its negatives.
            None: only its own row is not.
        nominal: N, used without `negative_ids`; None for 16,384, or M - 1 where that is less.
        log_z: (2,), log Z of the student's side and of the teacher's; None for Z = 1.
        compute: whether sampled rows are looked up in a product of the whole bank ("dense") or copied
            ("gathered"); "auto" takes the cheaper. The values are the same.

    Returns:
        A scalar of the sum of both sides, in float32, or float64 where the embeddings are.
    """
    size = len(bank_teacher)
    if bool(((ids < 0) | (ids >= size)).any()):
        raise ValueError(f"ids must be rows of the bank, from 0 to {size - 1}; they reach from {int(ids.min())} "
                         f"to {int(ids.max())}")  # fmt: skip
    if negative_ids is not None:
        number, negatives = negative_ids.shape[1], Negatives(ids=negative_ids)
    else:
        groups = torch.arange(size, device=ids.device) if groups is None else groups
        number = min(PAPERS_NEGATIVES, size - 1) if nominal is None else nominal
        own = groups[ids]
        counts = (groups != own[:, None]).sum(1)
        if not bool(counts.all()):
            raise ValueError("all rows of the bank are of one group, so there are no negatives")
        negatives = Negatives(groups=groups, own=own, counts=counts, number=number)
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
    the whole set, and is tightest for the best h; `loss` is minus the sum of both sides' L_critic.

    Args:
        loss: what `crd_loss` or `CRD` gives, with negatives of any class.
        negatives: N.
    """
    return math.log(negatives) - loss / 2


def both_sides(
    embeddings: list[Tensor],
    keys: list[Tensor],
    banks: list[Tensor],
    negatives: Negatives,
    prior: float,
    temperature: float,
    log_z: Tensor,
    compute: Compute,
    summed: SumNegatives | None = None,
) -> tuple[Tensor, Tensor]:
    """Losses (B,) and logs of the sums of exponentials (B, 2). Lists are student, teacher; `prior` is N / M."""
    losses, log_sums = zip(
        *(
            contrast(
                embeddings[side],
                keys[1 - side],
                banks[1 - side],
                negatives,
                temperature=temperature,
                shift=(log_z[side] + math.log(prior)).to(embeddings[side].dtype),
                compute=compute,
                summed=summed,
            )
            for side in (0, 1)
        ),
        strict=True,
    )
    return losses[0] + losses[1], torch.stack(log_sums, 1)
