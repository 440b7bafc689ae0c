"""Contrastive representation distillation: the module's banks, sampling and error messages."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.objectives import CRD, BuildContext, Objective, crd_loss
from understudy.objectives.crd.kernel import takes_all
from understudy.objectives.crd.negatives import NegativeSampler
from understudy.signals import Batch, Shapes, Signals

D, M, N, TAU = 6, 40, 12, 0.07
CLASSES = 4


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def same(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


WIDTHS = (8, 12)


def signals(rows: Tensor, side: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Signals:
    table = randn(M, WIDTHS[side], seed=10 * seed + side, dtype=torch.float32)
    embedding = table[rows].to(dtype).requires_grad_(side == 0)
    return Signals(torch.zeros(len(rows), CLASSES), embedding)


def batch_of(rows: Tensor, targets: Tensor | None = None) -> Batch:
    return Batch(rows, rows, torch.zeros(len(rows), 1), targets)


def crd(**options: Any) -> CRD:
    torch.manual_seed(0)
    return CRD(*WIDTHS, M, **({"dim": D, "targets": torch.arange(M) % CLASSES} | options))


def step(objective: Objective, rows: Tensor, seed: int = 0) -> Tensor:
    student = signals(rows, 0, seed)
    loss = objective(student, signals(rows, 1, seed), batch_of(rows))
    objective.zero_grad()
    loss.backward()
    return loss.detach()


ROWS = torch.tensor([3, 8, 21, 34, 12, 39])


def test_module_equals_function() -> None:
    objective = crd(normalizer="paper", nominal=N)
    banks = objective.bank_student.clone(), objective.bank_teacher.clone()
    student, teacher = signals(ROWS, 0), signals(ROWS, 1)
    loss = objective(student, teacher, batch_of(ROWS))
    assert student.embedding is not None
    assert teacher.embedding is not None
    pair = [
        F.normalize(objective.project_student(student.embedding), dim=1),
        F.normalize(objective.project_teacher(teacher.embedding), dim=1),
    ]
    expected = crd_loss(pair[0], pair[1], ROWS, *banks, groups=torch.arange(M) % CLASSES, nominal=N)
    same(loss, expected, 1e-5)
    parameters = [student.embedding, *objective.parameters()]
    for ours, theirs in zip(*(torch.autograd.grad(x, parameters) for x in (loss, expected)), strict=True):
        same(ours, theirs, 1e-4)
    for bank, old, new in zip((objective.bank_student, objective.bank_teacher), banks, pair, strict=True):
        same(bank[ROWS], F.normalize(0.5 * old[ROWS] + 0.5 * new.detach(), dim=1), 1e-5)
        rest = [m for m in range(M) if m not in ROWS]
        assert torch.equal(bank[rest], old[rest])


def test_of_a_sample_twice_in_a_batch_the_first_is_kept() -> None:
    """A batch may span two epochs: both views learn, and the row of the bank is the first one's."""
    rows = torch.tensor([3, 8, 3, 21, 8, 3])
    twice, once = crd(), crd()
    seeds = torch.arange(len(rows))
    views = [randn(len(rows), width, seed=width, dtype=torch.float32) for width in WIDTHS]

    def update(objective: CRD, of: Tensor) -> Tensor:
        student, teacher = (Signals(torch.zeros(len(of), CLASSES), view[of]) for view in views)
        return objective(student, teacher, batch_of(rows[of]))

    assert update(twice, seeds).isfinite()
    update(once, torch.tensor([0, 1, 3]))
    assert torch.equal(twice.bank_student, once.bank_student)
    assert torch.equal(twice.bank_teacher, once.bank_teacher)
    swapped = crd()
    update(swapped, torch.tensor([2, 4, 3]))
    assert not torch.equal(twice.bank_student, swapped.bank_student)


def test_banks_are_constant_in_eval_mode_and_rows_then_add_up() -> None:
    objective = crd()
    step(objective, ROWS)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.eval()
    whole = step(objective, ROWS)
    parts = [step(objective, ROWS[s]) * len(ROWS[s]) for s in (slice(0, 2), slice(2, 6))]
    same(torch.stack(parts).sum() / len(ROWS), whole, 1e-5)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


@pytest.mark.parametrize("negatives", ["all", 20])
def test_normalizers(negatives: Any) -> None:
    """Z is M times the mean of exp(s / tau) over the positives and the N negatives."""

    def first_z(objective: CRD) -> float:
        with torch.no_grad():
            query = F.normalize(objective.project_student(signals(ROWS, 0).embedding), dim=1)
        scores = torch.exp(query @ objective.bank_teacher.t() / TAU)
        other = (torch.arange(M) % CLASSES) != (ROWS % CLASSES)[:, None]
        positive = scores[torch.arange(len(ROWS)), ROWS]
        number = objective.number
        negative = (scores * other).sum(1) / other.sum(1) * number
        return math.log(M * float((positive + negative).sum()) / (number + 1) / len(ROWS))

    kinds: dict[str, CRD] = {kind: crd(normalizer=kind, negatives=negatives) for kind in ("paper", "first", "running")}
    expected = first_z(kinds["first"])
    for objective in kinds.values():
        torch.manual_seed(1)
        step(objective, ROWS)
    assert not kinds["paper"].log_z.any()
    assert float(kinds["first"].log_z[0]) == pytest.approx(expected, abs=1e-4 if negatives == "all" else 0.7)
    started = {kind: objective.log_z.clone() for kind, objective in kinds.items()}
    same(started["first"], started["running"], 1e-5)
    for _ in range(3):
        for objective in kinds.values():
            step(objective, ROWS, seed=1)
    assert torch.equal(kinds["first"].log_z, started["first"])
    assert not torch.equal(kinds["running"].log_z, started["running"])
    assert float((kinds["running"].log_z - started["running"]).abs().max()) < 0.5


@pytest.mark.parametrize("options", [{}, {"negatives": 9}, {"bank_dtype": "bfloat16"}, {"bank": "queue:16"}])
def test_a_resumed_run_ends_with_the_same_bytes(options: dict[str, Any]) -> None:
    def run(objective: CRD, steps: range) -> dict[str, Tensor]:
        optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
        for number in steps:
            torch.manual_seed(number)
            rows = torch.randperm(M)[:6]
            step(objective, rows, seed=number)
            optimizer.step()
        return {name: value.clone() for name, value in objective.state_dict().items()}

    whole = crd(**options)
    halfway = run(whole, range(3))
    assert {"bank_student", "bank_teacher", "log_z"} <= set(halfway)
    resumed = crd(**options, seed=7)
    resumed.load_state_dict(halfway)
    a, b = run(whole, range(3, 6)), run(resumed, range(3, 6))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("nominal", "chosen"), [(None, "all"), (10, "all"), (9, 9)])
def test_auto_takes_all_negatives_of_a_small_bank_and_samples_those_of_a_large_one(
    nominal: int | None, chosen: int | Literal["all"]
) -> None:
    """A bank of M = 40 is small for 10 negatives and large for 9. The values are those of the explicit choice."""
    auto, explicit = crd(nominal=nominal), crd(nominal=nominal, negatives=chosen)
    assert auto.negatives == chosen
    assert auto.number == explicit.number
    for number in range(3):
        losses = []
        for objective in (auto, explicit):
            torch.manual_seed(number)
            losses.append(step(objective, ROWS, seed=number))
        assert torch.equal(*losses)
    assert all(torch.equal(x, explicit.state_dict()[name]) for name, x in auto.state_dict().items())


def test_auto_is_a_rule_of_sizes() -> None:
    assert takes_all(50_000, 16_384)
    assert not takes_all(1_281_167, 16_384)
    assert not takes_all(50_000, 4_096)


def test_arbitrary_ids_map_to_rows_and_classes() -> None:
    ids = torch.tensor([2**60, -5, 77, 10**12, 3])
    targets = torch.tensor([0, 1, -1, -1, 1])
    setting = BuildContext(Shapes(CLASSES, 8), Shapes(CLASSES, 12), ids, targets)
    objective = CRD.from_shapes(setting, dim=D)
    sampler = objective.sampler
    assert sampler is not None
    rows = sampler.rows(ids)
    assert rows.tolist() == [4, 0, 2, 3, 1]
    allowed = {b: [a for a in range(5) if a != b and not (targets[a] == targets[b] >= 0)] for b in range(5)}
    assert sampler.counts(rows).tolist() == [len(allowed[b]) for b in range(5)]
    drawn = sampler.draw(rows, 500)
    assert [sorted(set(row.tolist())) for row in drawn] == [sorted(int(rows[a]) for a in allowed[b]) for b in range(5)]
    with pytest.raises(ValueError, match="sample 4 has no row in the bank"):
        sampler.rows(torch.tensor([3, 4]))


def test_draws_are_uniform_and_depend_on_the_sample_only() -> None:
    sampler = NegativeSampler(M, targets=torch.arange(M) % CLASSES)
    rows = torch.tensor([5, 6, 30])
    torch.manual_seed(3)
    drawn = sampler.draw(rows, 60_000)
    for row, seen in zip(rows.tolist(), drawn, strict=True):
        counts = torch.bincount(seen, minlength=M).double()
        allowed = torch.arange(M) % CLASSES != row % CLASSES
        assert not counts[~allowed].any()
        even = 60_000 / int(allowed.sum())
        assert float(((counts[allowed] - even) ** 2 / even).sum()) < 60  # chi-square of 29 degrees of freedom
    torch.manual_seed(3)
    assert torch.equal(sampler.draw(rows[1:], 60_000), drawn[1:])
    torch.manual_seed(4)
    assert not torch.equal(sampler.draw(rows, 60_000), drawn)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 6e4), (torch.bfloat16, 1e35), (torch.bfloat16, 1e-30)])
@pytest.mark.parametrize("temperature", [0.07, 1e-4])
def test_extreme_embeddings_in_half_precision(dtype: torch.dtype, size: float, temperature: float) -> None:
    objective = crd(temperature=temperature, bank_dtype=dtype)
    for seed in range(3):
        student, teacher = (signals(ROWS, side, seed) for side in (0, 1))
        assert student.embedding is not None
        assert teacher.embedding is not None
        extreme = (student.embedding.detach().sign() * size).to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=dtype):
            loss = objective(
                Signals(student.logits, extreme),
                Signals(teacher.logits, (teacher.embedding.sign() * size).to(dtype)),
                batch_of(ROWS),
            )
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        loss.backward()
        assert extreme.grad is not None
        assert extreme.grad.isfinite().all()
    assert all(value.isfinite().all() for value in objective.state_dict().values())


def test_autocast_and_inference_tensors_change_nothing() -> None:
    plain, cast = crd(), crd()
    with torch.inference_mode():
        teacher = signals(ROWS, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cast(signals(ROWS, 0), teacher, batch_of(ROWS))
    loss.backward()
    assert torch.equal(loss.detach(), step(plain, ROWS))
    assert cast.project_teacher.weight.grad is not None


def test_half_precision_banks_are_close() -> None:
    exact = step(crd(), ROWS)
    for dtype in ("bfloat16", "float16"):
        objective = crd(bank_dtype=dtype)
        assert objective.bank_student.dtype == getattr(torch, dtype)
        same(step(objective, ROWS), exact, 0.02)


def test_banks_in_files(tmp_path: Path) -> None:
    plain, mapped = crd(), crd(bank_folder=tmp_path / "banks", bank_dtype=torch.float32)
    for seed in range(2):
        assert torch.equal(step(plain, ROWS, seed), step(mapped, ROWS, seed))
    mapped.double()
    assert mapped.project_student.weight.dtype == torch.float64
    assert mapped.bank_student.dtype == torch.float32
    file = torch.from_file(str(tmp_path / "banks" / "bank_teacher-0.bin"), size=M * D)
    assert torch.equal(file.view(M, D), plain.bank_teacher)


def test_queue_for_streams_without_ids() -> None:
    objective = crd(bank="queue:16", targets=None)
    kept: list[Tensor] = []
    for number in range(4):
        rows = torch.randperm(M)[:6]
        targets = torch.full((6,), number) if number else None
        teacher = signals(rows, 1)
        with torch.no_grad():
            kept.append(F.normalize(objective.project_teacher(teacher.embedding), dim=1))
        loss = objective(signals(rows, 0), teacher, Batch(torch.zeros(6).long(), rows, rows, targets))
        assert loss.isfinite()
        loss.backward()
    newest = torch.cat(kept)[-16:]
    scores = objective.bank_teacher @ newest.t()
    same(scores.max(0).values, torch.ones(16), 1e-5)
    assert objective.queue is not None
    assert sorted(objective.queue.groups.tolist()) == [1] * 4 + [2] * 6 + [3] * 6


def test_unlabeled_samples_contrast_with_all_others() -> None:
    free, blank = crd(targets=None), crd(targets=torch.full((M,), -1))
    sample = crd(exclude="sample")
    assert torch.equal(step(free, ROWS), step(blank, ROWS))
    assert torch.equal(step(crd(targets=None), ROWS), step(sample, ROWS))
    assert not torch.equal(step(crd(), ROWS), step(crd(targets=None), ROWS))


# --- complaints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
        ({"z_decay": 1.0}, "z_decay"),
        ({"normalizer": "last"}, "normalizer"),
        ({"exclude": "none"}, "exclude must be one of class, sample"),
        ({"compute": "fast"}, "compute"),
        ({"bank_dtype": "int8"}, "bank_dtype"),
        ({"negatives": M}, "negatives must be from 1 to 39"),
        ({"negatives": 0}, "negatives"),
        ({"negatives": "some"}, "'auto', 'all' or a number"),
        ({"nominal": M}, "nominal"),
        ({"targets": torch.zeros(M, dtype=torch.int64)}, "one class"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, "one number for each"),
        ({"ids": torch.zeros(M, dtype=torch.int64)}, "unique"),
        ({"bank": "queue:many"}, "queue:65536"),
        ({"bank": "queue:16", "negatives": 4}, "queue"),
        ({"bank": "queue:16", "sharded": True}, "leave out sharded"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        crd(**options)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([0, 40], "sample 40 has no row.*from 0 to 39"),
        ([-1, 2], "sample -1 has no row"),
    ],
)
def test_wrong_ids(rows: list[int], words: str) -> None:
    ids = torch.tensor(rows)
    with pytest.raises(ValueError, match=words):
        crd()(signals(ids % M, 0), signals(ids % M, 1), batch_of(ids))


def test_other_errors() -> None:
    for side in product((True, False), repeat=2):
        if all(side):
            continue
        each = [
            s if there else Signals(s.logits)
            for s, there in zip((signals(ROWS, 0), signals(ROWS, 1)), side, strict=True)
        ]
        with pytest.raises(ValueError, match="embedding"):
            crd()(each[0], each[1], batch_of(ROWS))
    with pytest.raises(ValueError, match="teacher"):
        crd()(signals(ROWS, 0), None, batch_of(ROWS))
    with pytest.raises(ValueError, match="at least 2"):
        CRD(8, 12, 1)
