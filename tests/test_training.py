"""The loop and the cohort: what an update does, and what must not change it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import understudy
from understudy.config.options import OptimizerConfig
from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.config.yaml import recipe_from
from understudy.data import ArraySource
from understudy.data.loader import BatchLoader
from understudy.data.views import Views
from understudy.errors import Diverged, UnderstudyError
from understudy.models import InputContract, build, read_weights
from understudy.objectives import CrossEntropy
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.run import over_ranks
from understudy.runs.run import Run
from understudy.training import Learner, Loop, Member, launch
from understudy.training.lr_schedule import learning_rate

CPU = torch.device("cpu")
SGD = OptimizerConfig(name="sgd", lr=0.1, momentum=0.9, schedule="linear", warmup=0.0)


def blobs(count: int = 203) -> ArraySource:
    """Points around three centers."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(count) % 3
    inputs = torch.randn((count, 5), generator=generator) * 0.5 + torch.eye(3, 5)[targets] * 2
    return ArraySource("blobs", ("a", "b", "c"), torch.arange(count), targets, (5,), inputs=inputs)


def contract(source: ArraySource) -> InputContract:
    return InputContract(source.shape, (0.0,) * 5, (1.0,) * 5, source.classes)


def fitted(optimizer: OptimizerConfig = SGD, spec: str = "mlp:16x2?dropout=0.5", **fields: object) -> Member:
    source = blobs()
    values = {"data": "blobs", "model": spec, "epochs": 3, "batch_size": 50, "optimizer": optimizer}
    recipe = TrainRecipe.model_validate(values | fields)
    network = build(spec, contract(source), seed=1)
    member = Member("model-0", "model", 1, Learner(network, CrossEntropy()), optimizer, False)
    batches = BatchLoader(source, Views(seed=recipe.seed), recipe.batch_size, recipe.seed, CPU)
    Loop(Fabric(accelerator="cpu", devices=1), [member], batches, recipe).run()
    return member


def weights(member: Member) -> Tensor:
    return nn.utils.parameters_to_vector(member.network.parameters()).detach()


def test_the_loop_is_the_plain_loop() -> None:
    """The same updates as a loop written by hand with torch alone."""
    source = blobs()
    network = build("mlp:16x2", contract(source), seed=1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    batches = BatchLoader(source, Views(), 50, 0, CPU)
    total = 3 * 5
    for epoch in range(3):
        for step, batch in enumerate(batches.epoch(epoch)):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1 - (epoch * 5 + step) / total)
            assert isinstance(batch.inputs, Tensor)
            assert batch.targets is not None
            loss = nn.functional.cross_entropy(network.module(batch.inputs), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    expected = nn.utils.parameters_to_vector(network.parameters()).detach()
    torch.testing.assert_close(weights(fitted(spec="mlp:16x2")), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_channels_last_learns_the_same(kind: Literal["sgd", "adamw"]) -> None:
    """The loop uses the channels-last format and fused updates; the loop by hand does neither."""
    targets = torch.arange(40) % 3
    images = torch.rand((40, 3, 8, 8), generator=torch.Generator().manual_seed(0)) + targets.view(-1, 1, 1, 1) / 3
    source = ArraySource("images", ("a", "b", "c"), torch.arange(40), targets, (3, 8, 8), inputs=images)
    optimizer = OptimizerConfig(name=kind, lr=0.01, schedule="constant", warmup=0.0)
    recipe = TrainRecipe(data="images", model="cnn:6-8", epochs=3, batch_size=10, optimizer=optimizer)
    looped, plain = (build("cnn:6-8", InputContract((3, 8, 8), (0.5,) * 3, (1.0,) * 3, source.classes)) for _ in "ab")
    batches = BatchLoader(source, Views(), 10, 0, CPU)
    member = Member("model-0", "model", 1, Learner(looped, CrossEntropy()), optimizer, False)
    Loop(Fabric(accelerator="cpu", devices=1), [member], batches, recipe).run()
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last)
               for layer in looped.modules() if isinstance(layer, nn.Conv2d))  # fmt: skip
    if kind == "sgd":
        by_hand: torch.optim.Optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9, fused=False)
    else:
        by_hand = torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0, fused=False)
    for batch in (batch for epoch in range(3) for batch in batches.epoch(epoch)):
        assert batch.targets is not None
        by_hand.zero_grad()
        nn.functional.cross_entropy(plain(batch).logits, batch.targets).backward()
        by_hand.step()
    for (name, a), b in zip(looped.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("micro", [7, 16, 50])
def test_ragged_micro_batches_are_weighted_by_their_size(micro: int) -> None:
    torch.testing.assert_close(weights(fitted(micro_batch=micro)), weights(fitted()), rtol=1e-4, atol=1e-5)


def test_max_norm_bounds_the_weights_into_each_hidden_unit() -> None:
    member = fitted(SGD.model_copy(update={"max_norm": 0.5}))
    layers = [m for m in member.network.module.modules() if isinstance(m, nn.Linear)]
    for layer in layers[:-1]:
        assert float(layer.weight.detach().norm(dim=1).max()) <= 0.5 + 1e-5
    assert float(layers[-1].weight.detach().norm(dim=1).max()) > 0.5, "the output layer is left alone"


def test_ema_is_the_average_of_the_weights() -> None:
    """The average lags behind the weights, and tends to them as the learning rate decays."""
    member = fitted(SGD.model_copy(update={"ema": 0.5}))
    raw = nn.utils.parameters_to_vector(member.learner.network.parameters()).detach()
    assert not torch.equal(weights(member), raw)
    assert float((weights(member) - raw).norm() / raw.norm()) < 0.05


def test_a_nonfinite_loss_stops_the_run_and_suggests_what_to_try(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"model-0 became NaN or infinite at step \d+, .*try --lr"):
        understudy.train("digits", "mlp:64x2", optimizer=dict(SGD, lr=1e6), epochs=5, run=tmp_path)
    assert not Run(tmp_path).finished


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [("constant", 70, 1.0), ("linear", 55, 0.5), ("cosine", 55, 0.5), ("step", 49, 1.0), ("step", 50, 0.1),
     ("step", 90, 0.01), ("linear", 4, 5 / 11), ("cosine", 0, 1 / 11)],
)  # fmt: skip
def test_schedules(schedule: str, step: int, expected: float) -> None:
    recipe = OptimizerConfig.model_validate(
        {"lr": 1.0, "schedule": schedule, "warmup": 0.1, "milestones": (0.5, 0.9), "gamma": 0.1}
    )
    assert math.isclose(learning_rate(recipe, step, 100), expected, abs_tol=1e-9)


def test_members_do_not_touch_each_other(tmp_path: Path) -> None:
    """A student distilled next to its baseline and other seeds equals the student distilled alone."""
    teacher = understudy.train("digits", "mlp:32x1", epochs=2, run=tmp_path / "teacher").path
    fields: dict[str, Any] = {"epochs": 2, "batch_size": 200, "temperature": 3.0}
    beside = understudy.distill("digits", teacher, "mlp:8x1?dropout=0.2", seeds=2, run=tmp_path / "a", **fields)
    single = understudy.distill("digits", teacher, "mlp:8x1?dropout=0.2", baseline=False, run=tmp_path / "b", **fields)
    assert beside.models["distilled-0"].read_bytes() == single.models["distilled-0"].read_bytes()
    assert sorted(beside.models) == ["alone-0", "alone-1", "distilled-0", "distilled-1"]


def test_two_processes_end_with_the_weights_of_one(tmp_path: Path) -> None:
    """Half of each batch in each process, odd batches, dropout and MixUp included; so do the figures of each epoch.

    A module made in Python is sent to both processes, and each trains its own copy. The last of the 1,438 samples is
    trained on with the batch before it: alone it would have no variance, and no share for a second process.
    """
    runs = []
    for devices in (1, 2):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Dropout(0.4), nn.Linear(24, 10))
        fields: dict[str, Any] = {"optimizer": SGD, "accelerator": "cpu", "precision": "32", "devices": devices}
        fields |= {"epochs": 2, "batch_size": 479, "mixup": 0.3}
        runs.append(understudy.train("digits", module, run=tmp_path / str(devices), **fields))
    a, b = (read_weights(run.models["model-0"]).tensors for run in runs)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-5)
    assert [row["step"] for row in runs[0].epochs()] == [3, 6]
    for one, two in zip(*(run.epochs() for run in runs), strict=True):
        assert two["step"] == one["step"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["accuracy"] == pytest.approx(one["accuracy"], abs=1e-3)


@pytest.mark.parametrize("sizes", [{"batch_size": 20}, {"batch_size": 41, "micro_batch": 8}])
def test_batch_norm_never_sees_a_single_sample(sizes: dict[str, int], tmp_path: Path) -> None:
    run = understudy.train(blobs(41), "mlp:8?batchnorm=true", epochs=2, run=tmp_path, **sizes)  # type: ignore[arg-type]
    assert run.finished


@pytest.mark.parametrize(("flag", "sizes"), [("--batch-size", (1, None)), ("--micro-batch", (8, 1))])
def test_batches_of_one_sample_are_refused_with_batch_norm(
    flag: str, sizes: tuple[int, int | None], tmp_path: Path
) -> None:
    batch, micro = sizes
    fields: Any = {"epochs": 1, "batch_size": batch, "micro_batch": micro}
    with pytest.raises(UnderstudyError, match=f"BatchNorm layers, .* two samples at a time; pass {flag} 2 or more$"):
        understudy.train(blobs(41), "mlp:8?batchnorm=true", run=tmp_path / "run", **fields)
    assert not (tmp_path / "run").exists()
    assert understudy.train(blobs(41), "mlp:8", run=tmp_path / "run", **fields).finished, "others can be"


def _first_cannot_save(fabric: Fabric) -> None:
    skipped = over_ranks(fabric, {f"{fabric.global_rank}.png": "truncated"})
    if fabric.global_rank == 0:
        raise UnderstudyError(f"the disk is full; skipped {sorted(skipped)}")
    fabric.all_reduce(torch.ones(1))


def test_an_error_of_the_first_process_is_raised_unchanged() -> None:
    """The second, which waits for it, does not hold it up; what either skipped is known to both."""
    with pytest.raises(UnderstudyError, match=r"^the disk is full; skipped \['0.png', '1.png'\]$"):
        launch(Fabric(accelerator="cpu", devices=2, strategy="ddp"), _first_cannot_save, "run")


def test_patience_keeps_the_best_weights_on_the_validation_part(tmp_path: Path) -> None:
    run = understudy.train("digits", "mlp:16x1", epochs=40, lr=0.05, validation=0.2, patience=2, run=tmp_path)
    watched = [row for row in run.epochs() if row["part"] == "validation"]
    accuracies = [row["accuracy"] for row in watched]
    assert len(accuracies) < 40
    assert accuracies.index(max(accuracies)) == len(accuracies) - 3, "an equal one is no better"


def test_a_recipe_saved_and_read_again_is_the_same(tmp_path: Path) -> None:
    from understudy.config.yaml import read_yaml, to_yaml

    recipe = DistillRecipe(data="digits", teacher=("runs/t",), student="mlp:8", class_bias=("3=+3.5",))
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    assert recipe_from(read_yaml(tmp_path / "recipe.yaml")) == recipe


def test_teacher_and_data_must_have_the_same_classes(tmp_path: Path) -> None:
    teacher = build("mlp:8", InputContract((1, 8, 8), (0.5,), (0.5,), ("cat", "dog")))
    teacher.save(tmp_path / "teacher.safetensors")
    with pytest.raises(UnderstudyError, match=r"predicts 2 classes \(cat, dog\), but the data has 10 \(0, 1"):
        understudy.distill("digits", tmp_path / "teacher.safetensors", "mlp:8", run=tmp_path / "run")


def test_a_batch_larger_than_the_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="a batch size of 5000 exceeds the 1438 samples"):
        understudy.train("digits", "mlp:8", batch_size=5000, run=tmp_path)


@pytest.mark.parametrize(("spec", "precision", "full"), [
    ("timm:mobilenetv3_small_050", "auto", True),
    ("timm:mobilenetv3_small_050", "bf16", False),
    ("cnn:4-8", "auto", False),
])  # fmt: skip
def test_depthwise_nets_keep_float32_unless_told_otherwise(spec: str, precision: str, full: bool) -> None:
    recipe = TrainRecipe(data="digits", model=spec, precision=precision, accelerator="cpu")  # type: ignore[arg-type]
    (member,) = pipeline_of(recipe).members()
    network = member.network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        said = network(torch.rand(2, 1, 8, 8)).logits
    assert network.full_precision is full
    assert said.dtype == (torch.float32 if full else torch.bfloat16)
