"""What is scored, and what a mistake leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import understudy
from understudy.config.recipe import TrainRecipe
from understudy.errors import UnderstudyError
from understudy.pipeline.kinds import pipeline_of
from understudy.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "r"
    return understudy.train("digits", "mlp:8x1", run=folder, epochs=2, validation=0.2, seed=3, precision="32")


def test_each_split_is_the_part_it_names(run: Run) -> None:
    seen = [understudy.evaluate(run.path, "digits", split=split).data for split in ("test", "train", "validation")]
    assert [data and data.examples for data in seen] == [359, 1438, 288]


def test_splits_that_are_not_there(run: Run) -> None:
    with pytest.raises(UnderstudyError, match="no split 'tset'; did you mean 'test'"):
        understudy.evaluate(run.path, "digits", split="tset")
    with pytest.raises(UnderstudyError, match="no validation part; pass --split train or --split test"):
        understudy.evaluate(run.path / "models" / "model-0.safetensors", "digits", split="validation")


def test_the_seed_does_not_move_the_test_part() -> None:
    parts = [pipeline_of(TrainRecipe(data="digits", model="mlp:8x1", seed=seed)).data.test for seed in (0, 7)]
    assert parts[0] is not None
    assert parts[1] is not None
    assert parts[0].ids.equal(parts[1].ids)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"class_bias": ["x=3"]}, "there is no class 'x'"),
        ({"class_priors": ["x=0.1"]}, "there is no class 'x'"),
        ({"precision": "fp16", "accelerator": "cpu"}, "fp16 needs a GPU"),
        ({"accelerator": "cuda", "devices": 99}, "99 cuda devices were requested"),
    ],
)
def test_a_mistake_is_found_before_training_and_leaves_no_folder(
    fields: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UnderstudyError, match=says):
        understudy.train("digits", "mlp:8x1", run=tmp_path / "r", epochs=1, **fields)
    assert not (tmp_path / "r").exists()
