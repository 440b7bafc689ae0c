"""Big Transfer's upstream half: the schedule, the sigmoid loss, tar shards killed and resumed, and on to a transfer."""

from __future__ import annotations

import io
import math
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

import understudy
from understudy import config as bit
from understudy.cli.app import main
from understudy.config.options import OptimizerConfig
from understudy.config.recipe import TrainRecipe
from understudy.config.verbs import PretrainConfig
from understudy.data import open_source
from understudy.data.augment import Augmentation
from understudy.data.loader import BatchLoader
from understudy.data.views import Views
from understudy.errors import UnderstudyError
from understudy.models import load_network
from understudy.objectives import BinaryCrossEntropy, binary_cross_entropy_loss
from understudy.pipeline.run_data import Overrides
from understudy.runs.run import Run
from understudy.signals import Batch, Signals
from understudy.training.lr_schedule import learning_rate
from understudy.verbs.arguments import configure
from understudy.verbs.pretrain import plan, pretrain

# --- the scales -------------------------------------------------------------------------------------------

PAPER = {
    "S": (1_281_167, 90, (30, 60, 80)),
    "M": (14_197_122, 90, (30, 60, 80)),
    "L": (300_000_000, 40, (10, 23, 30, 37)),
}


@pytest.mark.parametrize("scale", PAPER)
def test_the_paper_s_scales(scale: Any) -> None:
    images, epochs, falls = PAPER[scale]
    made = bit.upstream(images, scale)
    once = images / 4096
    assert (made.batch_size, made.warmup, made.size) == (4096, 5_000, 224)
    assert made.base_lr == pytest.approx(0.03 * 16)
    assert made.steps == round(once * epochs)
    assert made.milestones == tuple(round(once * fall) for fall in falls)
    assert made.loss == ("softmax" if scale == "S" else "sigmoid")
    recipe = TrainRecipe(**made.fields)
    moved, seen = recipe.optimizer, recipe.augmentation
    assert (moved.name, moved.momentum, moved.weight_decay, recipe.mixup) == ("sgd", 0.9, 1e-4, 0.0)
    assert (seen.crop_scale, seen.translate, recipe.size, recipe.loss) == (0.08, 0, 224, made.loss)


@given(
    st.integers(1, 10**9), st.sampled_from(["S", "M", "L"]), st.integers(1, 20_000), st.integers(1, 200),
    st.floats(0, 1),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_the_rate_of_every_step(examples: int, scale: Any, batch: int, epochs: int, share: float) -> None:
    """Of any size, batch and length: as the epochs have it, and as the loop itself asks the recipe."""
    assume(examples * epochs / batch <= 1e9)  # the most steps that a recipe may have
    made = bit.upstream(examples, scale, batch_size=batch, epochs=epochs)
    _, full, falls = PAPER[scale]
    assert made.steps == max(round(examples * epochs / batch), 1)
    assert 0 <= made.warmup <= min(5_000, 0.18 * made.steps + 1)
    assert made.steps < 28_151 or made.warmup == 5_000
    step = int(share * (made.steps - 1))
    found = learning_rate(OptimizerConfig(**made.fields["optimizer"]), step, made.steps)
    passed = step * batch / examples * full / epochs  # epochs of the scale
    if step < made.warmup:
        expected = 0.03 * batch / 256 * step / made.warmup
    else:
        expected = 0.03 * batch / 256 / 10 ** sum(passed >= fall for fall in falls)
    near = any(abs(passed - fall) * examples * epochs / (full * batch) <= 1 for fall in falls)
    assert near or math.isclose(found, expected, rel_tol=1e-9)


def test_what_is_no_scale() -> None:
    with pytest.raises(UnderstudyError, match="no scale 'huge'; there are L, M, S"):
        bit.upstream(100, "huge")  # type: ignore[arg-type]
    with pytest.raises(UnderstudyError, match="no loss 'sigmoids'; did you mean 'sigmoid'"):
        bit.upstream(100, "S", loss="sigmoids")  # type: ignore[arg-type]
    with pytest.raises(UnderstudyError, match="not 100 examples, a batch size of 0"):
        bit.upstream(100, "S", batch_size=0)


# --- the sigmoid loss -------------------------------------------------------------------------------------


def test_the_sigmoid_loss_by_hand() -> None:
    """Classes are summed and rows averaged; a probability of 3/4 for the true class and of 1/4, 1/2 for the others."""
    z = torch.tensor([[math.log(3), -math.log(3), 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    loss = binary_cross_entropy_loss(z, torch.tensor([0, -1]))
    assert loss.item() == pytest.approx((-math.log(0.75) - math.log(0.75) - math.log(0.5)) / 2)
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient, torch.tensor([[-0.25, 0.25, 0.5], [0.0, 0.0, 0.0]]) / 2)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_several_labels_a_sample(rows: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z, y = rng.normal(0, 3, (rows, classes)), rng.integers(0, 2, (rows, classes))
    p = 1 / (1 + np.exp(-z))
    plain = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum() / rows
    assert float(binary_cross_entropy_loss(torch.from_numpy(z), torch.from_numpy(y))) == pytest.approx(
        plain, rel=1e-5, abs=1e-5
    )
    one = torch.from_numpy(rng.integers(0, classes, rows))
    hot = torch.nn.functional.one_hot(one, classes)
    found = binary_cross_entropy_loss(torch.from_numpy(z), one)
    torch.testing.assert_close(found, binary_cross_entropy_loss(torch.from_numpy(z), hot), rtol=1e-6, atol=0)


def test_the_sigmoid_loss_of_huge_logits_of_mixed_inputs_and_without_labels() -> None:
    assert binary_cross_entropy_loss(torch.tensor([[1e30, -1e30]]), torch.tensor([1])).isfinite()
    z, ids, a, b = torch.randn(3, 4), torch.arange(3), torch.tensor([0, 1, 2]), torch.tensor([3, 0, 2])
    mixed = BinaryCrossEntropy()(Signals(z), None, Batch(ids, ids, z, a, torch.full((3,), 0.3), b))
    torch.testing.assert_close(mixed, 0.3 * binary_cross_entropy_loss(z, a) + 0.7 * binary_cross_entropy_loss(z, b))
    assert BinaryCrossEntropy()(Signals(z), None, Batch(ids, ids, z)).item() == 0
    with pytest.raises(UnderstudyError, match="label_smoothing needs the softmax loss"):
        understudy.train("digits", "mlp:8x1", loss="sigmoid", label_smoothing=0.1)


def test_a_net_learns_by_sigmoids(tmp_path: Path) -> None:
    run = understudy.train("digits", "mlp:32x1", loss="sigmoid", epochs=8, lr=0.02, run=tmp_path)
    accuracy = run.facts.rows[0].mean("accuracy")
    assert accuracy is not None
    assert accuracy > 0.85


# --- from data to a recipe ---------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"size": 16, "batch_size": 16, "workers": 0, "accelerator": "cpu", "precision": "32"}


def planned(data: object, model: str, **options: Any) -> tuple[TrainRecipe, tuple[str, ...]]:
    """The recipe that the scale resolves to, and what the user is told."""
    given = None if isinstance(data, (str, Path)) else data
    made = plan(configure(PretrainConfig, options, data=data, model=model), Overrides(data=given))
    recipe = made.recipes["pretrain"]
    assert isinstance(recipe, TrainRecipe)
    return recipe, made.notes


def test_the_recipe_is_the_scale_s() -> None:
    recipe, notes = planned("digits", "cnn:8", scale="L", size=8, batch_size=64)
    made = bit.upstream(1438, "L", batch_size=64, size=8)
    found = recipe.model_dump()
    assert made.fields["optimizer"].items() <= found["optimizer"].items()
    assert (found["steps"], found["batch_size"], found["loss"], found["micro_batch"]) == (899, 64, "sigmoid", None)
    assert "BiT-L on 1,438 images at 8 pixels: 899 steps of 64" in notes[0]
    assert "a smaller --batch-size gives more steps" in notes[1]
    other, _ = planned("digits", "cnn:8", size=8, batch_size=64, epochs=9, lr=0.5, crop_scale=0.5, mixup=0.2, flip=True)
    assert (other.steps, other.loss, other.mixup) == (202, "softmax", 0.2)
    assert (other.optimizer.lr, other.augmentation.crop_scale, other.augmentation.flip) == (
        0.5,
        0.5,
        True,
    )


def test_batches_that_do_not_fit_are_added_up(capsys: pytest.CaptureFixture[str]) -> None:
    """At 64 pixels 512 images; GroupNorm gives the big batch's result, BatchNorm's statistics are pointed out."""
    recipe, notes = planned("digits", "bit:R14x0.125", size=64)
    assert (recipe.batch_size, recipe.micro_batch) == (4096, 512)
    assert not any("BatchNorm" in line for line in notes)
    recipe, notes = planned("digits", "bit:R14x0.125?norm=bn", size=64, micro_batch=100)
    assert recipe.micro_batch == 100
    assert any("of the 100 images of a forward pass" in line for line in notes)
    command = ["pretrain", "digits", "--model", "cnn:8", "--size", "8", "--scale", "M", "--epochs", "2", "--dry-run"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "# BiT-M on 1,438 images at 8 pixels" in said
    assert "loss: sigmoid" in said


def test_what_cannot_be_pretrained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnderstudyError, match="holds vectors"):
        planned((torch.zeros(20, 4), torch.arange(20) % 2), "mlp:8x1")
    for k in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{k}.png")
    with pytest.raises(UnderstudyError, match="has no labels; train needs them"):
        planned(tmp_path, "cnn:8", size=8)
    assert main(["pretrain"]) == 2
    assert "understudy pretrain photos/" in capsys.readouterr().err


# --- carried out, from shards -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of noise in four colors, of two sizes, so that images are decoded as they are used."""
    folder, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    for shard in range(2):
        with tarfile.open(folder / f"colors-{shard:02d}.tar", "w") as file:
            for k in range(40):
                pixels = rng.integers(0, 80, (20, 20 + 4 * (k % 2), 3), dtype=np.uint8)
                pixels[..., :] += np.array([(120, 0, 0), (0, 120, 0), (0, 0, 120), (120, 120, 0)][k % 4], np.uint8)
                stream = io.BytesIO()
                Image.fromarray(pixels).save(stream, "PNG")
                label = ("red", "green", "blue", "yellow")[k % 4].encode()
                for suffix, data in (("png", stream.getvalue()), ("cls", label)):
                    about = tarfile.TarInfo(f"{k:04d}.{suffix}")
                    about.size = len(data)
                    file.addfile(about, io.BytesIO(data))
    return folder


def models(run: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in Run(run).models.items()}


def test_shards_killed_in_mid_epoch_and_resumed(tmp_path: Path, shards: Path) -> None:
    """The command, in a process of its own that SIGKILL ends, gives the bytes of a run that nothing disturbed."""
    pattern, way = (
        str(shards / "colors-{00..01}.tar"),
        {"model": "bit:R14x0.125?root=cifar", "scale": "M", "epochs": 6},
    )
    whole = pretrain(pattern, run=tmp_path / "whole", checkpoint_every=0, **SMALL, **way)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in (SMALL | way).items()]
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "understudy", "pretrain", pattern, *flags, "--checkpoint-every=0", f"--run={run}"]
    process = subprocess.Popen(command, env=os.environ)
    end = time.monotonic() + 120
    while not any(int(p.stem[5:]) >= 6 for p in (run / "checkpoints").glob("step-*.sha256")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not Run(run).models
    last = max(int(p.stem[5:]) for p in (run / "checkpoints").glob("step-*.sha256"))
    images, steps = Run(run).recipe, whole.recipe.steps
    assert images == whole.recipe
    assert steps is not None
    assert last < steps
    understudy.resume(run)
    assert models(run) == models(whole.path)


def test_each_process_reads_its_own_part_of_every_batch(shards: Path) -> None:
    """From any step of an epoch on, ranks of any number make up the batch of one process."""
    source = open_source(shards, size=16).train
    plan = Augmentation(crop_scale=0.08, flip=True)

    def stream(rank: int, world: int) -> list[Batch]:
        return list(
            BatchLoader(source, Views(plan), 16, 0, torch.device("cpu"), rank, world, total_steps=8).stream(2, 7)
        )

    for whole, *ranks in zip(stream(0, 1), *(stream(rank, 3) for rank in range(3)), strict=True):
        assert [len(rank) for rank in ranks] == [5, 5, 6]
        for name in ("ids", "view", "targets", "inputs"):
            assert torch.cat([getattr(rank, name) for rank in ranks]).equal(getattr(whole, name))


def test_on_to_a_transfer(tmp_path: Path, shards: Path) -> None:
    """From some classes to others: the run folder is a backbone, whose body the transfer begins from."""
    up = understudy.pretrain(
        shards, "bit:R14x0.125?root=cifar", epochs=6, omit_classes=("blue",), run=tmp_path / "up", **SMALL
    )
    accuracy = up.facts.rows[0].mean("accuracy")
    assert accuracy is not None
    assert any("BiT-S on" in note for note in up.facts.notes)
    down = understudy.transfer(
        shards, up.path, run=tmp_path / "down", only_classes=("blue", "yellow"), crop_size=16, steps=30,
        batch_size=32, workers=0,
    )  # fmt: skip
    assert any(str(up.path) in note for note in down.facts.notes)
    body = {name: x for name, x in load_network(up.models["model-0"]).state_dict().items() if "stages" in name}
    after = load_network(down.models["model-0"]).state_dict()
    assert all(torch.nn.functional.cosine_similarity(after[k].flatten(), x.flatten(), dim=0) > 0.9
               for k, x in body.items() if x.dim() == 4)  # fmt: skip
