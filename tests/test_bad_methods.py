"""What can be wrong with a method: one sentence each, through the command line or the Python verbs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

import understudy
from understudy.cli.app import main
from understudy.data import ArraySource, open_source
from understudy.errors import UnderstudyError
from understudy.models import InputContract, Network
from understudy.objectives import CRD
from understudy.signals import Batch, Signals
from understudy.training import Learner

DOCS = Path(__file__).parent.parent / "docs" / "methods"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = tmp_path_factory.mktemp("teacher")
    understudy.train("digits", "cnn:4-8", epochs=1, run=run)
    return str(run)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--method crt", "there is no method 'crt'; did you mean 'crd'?"),
        ("--method kd+fitnes", "there is no method 'fitnes'; did you mean 'fitnet'?"),
        ("--objective crd:negative=5", "crd has no option 'negative'; did you mean 'negatives'?"),
        ("--objective crd:negatives=90000", "crd: negatives must be from 1 to 1437, as the bank has 1438 rows"),
        ("--objective crd:normalizer=last", "normalizer must be one of running, first, paper; it is 'last'"),
        ("--method crd --only-classes 3", "all samples are of one class, so there are no negatives of other classes"),
        (
            "--method at --student mlp:8",
            "AttentionTransfer compares feature maps (C, H, W), but the student's taps are ",
        ),
        (
            "--method fitnet --student-taps 5 --teacher-taps 14",
            "FitNet compares feature maps (C, H, W) or vectors (D,), but ",
        ),
        ("--method at --student-taps 77", "cnn:4-4 has no layer '77'; did you mean '7'? there are 0, 1, 2, 3"),
        ("--method at --teacher-taps 15x", "cnn:4-8 has no layer '15x'; did you mean '15'? there are 0, 1, 2"),
        ("--method rkd --micro-batch 8", "compares the samples of a batch; leave out --micro-batch"),
        ("--objective crd:bank=queue:64,sharded=true", "a queue cannot be sharded; leave out sharded"),
    ],
)
def test_on_the_command_line(
    line: str, words: str, teacher: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    student = [] if "--student " in line else ["--student", "cnn:4-4"]
    run = ["--teacher", teacher, "--epochs", "1", "--run", str(tmp_path / "run")]
    assert main(["distill", "digits", *line.split(), *student, *run]) == 2
    said = capfd.readouterr().err.strip()
    assert words in said
    assert len(said.splitlines()) == 1


def test_options_of_crd_reach_it_from_the_command_line(teacher: str, tmp_path: Path) -> None:
    options = "crd:weight=0.8,negatives=128,normalizer=paper,bank_dtype=bfloat16,compute=gathered"
    line = ["distill", "digits", "--teacher", teacher, "--student", "mlp:8", "--epochs", "1", "--objective"]
    assert main([*line, options, "--no-baseline", "--run", str(tmp_path / "run")]) == 0
    assert options in (tmp_path / "run" / "recipe.yaml").read_text()


def test_samples_without_numbers_of_their_own(teacher: str) -> None:
    class Stream(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            yield torch.zeros(1, 8, 8)

    with pytest.raises(UnderstudyError, match="iterable dataset, whose samples have no stable indices"):
        understudy.distill(Stream(), teacher, "mlp:8", method="crd")


def test_samples_that_share_a_number(teacher: str, tmp_path: Path) -> None:
    source = open_source("digits").train
    assert isinstance(source, ArraySource)
    twins = replace(source, ids=source.ids.clone().index_fill_(0, torch.tensor([1]), int(source.ids[0])))
    with pytest.raises(UnderstudyError, match=r"crd: several samples have the same id.*make ids unique"):
        understudy.distill(twins, teacher, "mlp:8", method="crd", run=tmp_path)


def test_a_teacher_without_an_embedding(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10]

    with pytest.raises(
        UnderstudyError, match="no linear classifier whose outputs are the logits; end it with a linear layer"
    ):
        understudy.distill("digits", Fixed(), "mlp:8", method="crd", run=tmp_path)


def test_a_sample_without_a_row_in_the_bank() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    network = Network(module, InputContract((4,), (0.0,) * 4, (1.0,) * 4, ("a", "b"))).watch(["embedding"])
    learner = Learner(network, CRD(6, 6, 40, dim=4))
    rows = torch.tensor([0, 40])
    batch = Batch(rows, rows, torch.zeros(2, 4))
    with pytest.raises(UnderstudyError, match="sample 40 has no row in the bank"):
        learner(batch, Signals(torch.zeros(2, 2), torch.zeros(2, 6)))


def test_the_loop_in_the_card_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "crd.md").read_text(), re.DOTALL)
    place: dict[str, Any] = {}
    exec(compile(code, "crd.md", "exec"), place)
    assert isinstance(place["loss"], Tensor)
    assert place["loss"].isfinite()
