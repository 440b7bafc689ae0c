"""Training by steps: batches that run on, MixUp across a whole batch, crops, decay to the initial weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn

import understudy
from batch_helpers import CPU, MOVING, arrays, equal, folder, joined
from understudy.config.options import OptimizerConfig
from understudy.config.recipe import TrainRecipe
from understudy.data import ArraySource, Source, resize_square
from understudy.data.augment import NO_AUGMENTATION, Augmentation, augment
from understudy.data.crop import center_crop, random_crops
from understudy.data.loader import BatchLoader, in_order
from understudy.data.views import Views
from understudy.errors import Interrupted, UnderstudyError
from understudy.models import InputContract, build, load_network, read_weights
from understudy.models.contract import prepare_inputs
from understudy.objectives import CRD, DKD, KD, CrossEntropy, WeightedSum
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.run import ensure, start
from understudy.randomness import beta, mix, permutation
from understudy.runs.run import Run
from understudy.signals import Batch, Signals
from understudy.training import Learner, Loop, Member
from understudy.training.optimizer import make_optimizer

SEED = 7


def stream(
    source: Source, batch: int, updates: int, plan: Augmentation = NO_AUGMENTATION, rank: int = 0, world: int = 1,
    mixup: float = 0.0, views: int | None = None,
) -> BatchLoader:  # fmt: skip
    return BatchLoader(source, Views(plan, SEED, views, mixup), batch, SEED, CPU, rank, world, 0, updates)


def plain(source: ArraySource, plan: Augmentation, begin: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, view seeds and inputs of places begin to end of the whole stream, one by one."""
    n = len(source)
    rows = [int(permutation(n, SEED, 1, p // n)[p % n]) for p in range(begin, end)]
    ids = source.ids[rows]
    views = torch.tensor([int(mix(SEED, 2, p // n, int(i))) for p, i in zip(range(begin, end), ids, strict=True)])
    pixels = [augment(source.inputs, torch.tensor([r]), v[None], plan)[0] for r, v in zip(rows, views, strict=True)]
    return ids, views, torch.stack(pixels).float() / 255


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 12), st.integers(0, 11))
@settings(max_examples=30, deadline=None)
def test_batches_run_on_from_one_pass_to_the_next(n: int, batch: int, updates: int, start: int) -> None:
    """Place p is sample perm(p // n)[p % n] in its view of epoch p // n, also where a set is smaller than a batch."""
    source = arrays(n)
    start = min(start, updates)
    found = list(stream(source, batch, updates, MOVING).stream(start, updates))
    assert [len(b) for b in found] == [batch] * (updates - start)
    if found:
        ids, views, inputs, _ = joined(found)
        a, b, c = plain(source, MOVING, start * batch, updates * batch)
        assert torch.equal(ids, a)
        assert torch.equal(views, b)
        assert torch.allclose(inputs, c)


def test_an_epoch_is_what_is_reported_together() -> None:
    assert stream(arrays(100), 10, 1000).steps == 50, "a twentieth of all"
    assert stream(arrays(100), 10, 50).steps == 10, "a pass, where that is more"
    assert stream(arrays(100), 10, 50).passes(25) == 2.5


@pytest.mark.parametrize("mixup", [0.0, 0.7])
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("updates", [None, 9])
def test_ranks_together_are_one(world: int, updates: int | None, mixup: float) -> None:
    """Also where a sample is mixed with one of another rank."""

    def made(rank: int, world: int) -> list[Batch]:
        batches = BatchLoader(arrays(23), Views(MOVING, SEED, mixup=mixup), 10, SEED, CPU, rank, world, 0, updates)
        return list(batches.stream(0, 9))

    whole, ranks = made(0, 1), [made(rank, world) for rank in range(world)]
    for step, one in enumerate(whole):
        shares = [rank[step] for rank in ranks]
        for a, b in zip(joined(shares), joined([one]), strict=True):
            torch.testing.assert_close(a, b)
        if mixup:
            assert one.partners is not None
            assert torch.equal(torch.cat([b.partners for b in shares if b.partners is not None]), one.partners)
            assert one.weight is not None
            assert torch.equal(torch.cat([b.weight for b in shares if b.weight is not None]), one.weight)


def test_records_run_on_and_mix_alike_for_all_ranks(tmp_path: Path) -> None:
    source = folder(tmp_path)
    alone = list(stream(source, 40, 3, MOVING, mixup=0.5).stream(0, 3))
    assert [len(b) for b in alone] == [40] * 3
    equal(stream(source, 40, 3, MOVING, mixup=0.5).stream(1, 3), alone[1:])
    halves = [list(stream(source, 40, 3, MOVING, r, 2, 0.5).stream(0, 3)) for r in (0, 1)]
    for step, one in enumerate(alone):
        for a, b in zip(joined([half[step] for half in halves]), joined([one]), strict=True):
            torch.testing.assert_close(a, b)


# --- MixUp ------------------------------------------------------------------------------------------------


def mixed_views(n: int, batch: int, updates: int | None, views: int | None, epochs: int) -> dict[tuple[int, int], Any]:
    """(epoch, id) -> inputs, weight and both labels of every sample in some epochs of moving, mixed arrays."""
    plan = Views(MOVING, SEED, views, 0.3)
    batches = BatchLoader(arrays(n), plan, batch, SEED, CPU, total_steps=updates)
    found: dict[tuple[int, int], Any] = {}
    place = 0
    for one in batches.stream(0, -(-epochs * n // batch) if updates else epochs * batches.steps):
        assert one.weight is not None
        assert one.targets is not None
        assert one.partners is not None
        for k, row in enumerate(one.ids.tolist()):
            found[place // n, row] = (one.inputs[k], one.weight[k], one.targets[k], one.partners[k])  # type: ignore[index]
            place += 1
    return found


def test_a_mixed_view_is_the_plain_mix_of_two_samples() -> None:
    source, plan = arrays(23), Views(MOVING, SEED, mixup=0.3)
    found = mixed_views(23, 12, None, None, 2)
    assert len(found) == 46
    for (epoch, row), (inputs, weight, own, other) in found.items():
        sample = int((source.ids == row).nonzero())
        partner = int(plan.partners(epoch, 23)[sample])
        seeds = plan.seeds(epoch, source.ids)
        rows = torch.tensor([sample, partner])
        one, two = augment(source.inputs, rows, seeds[rows], MOVING) / 255
        assert weight == beta(0.3, seeds[sample, None], 3)[0]
        torch.testing.assert_close(inputs, weight * one + (1 - weight) * two)
        assert source.targets is not None
        assert (own, other) == (source.targets[sample], source.targets[partner])


@pytest.mark.parametrize("other", [(5, None), (12, 40), (50, 40)])
def test_a_mixed_view_does_not_depend_on_the_batches(other: tuple[int, int | None]) -> None:
    one, two = mixed_views(23, 12, None, None, 3), mixed_views(23, *other, None, 3)
    for key, values in one.items():
        assert all(torch.allclose(a, b) for a, b in zip(values, two[key], strict=True))


@given(st.integers(1, 40), st.integers(0, 5))
def test_partners_are_mutual(n: int, epoch: int) -> None:
    partners = Views(seed=3).partners(epoch, n)
    mutual = partners[partners] == torch.arange(n)
    assert int(mutual.sum()) >= n - 1, "but for the last of an odd number"
    assert n == 1 or int((partners == torch.arange(n)).sum()) == 0


@pytest.mark.parametrize("mixup", [0.0, 0.3])
def test_counted_views_come_again_in_another_order(mixup: float) -> None:
    """An epoch shows every sample once, in the view of all epochs that are as far from a multiple of the count."""
    batches = list(stream(arrays(23), 23, 5, MOVING, mixup=mixup, views=2).stream(0, 5))
    for epoch, one in enumerate(batches):
        assert (
            one.view_index == epoch % 2
            if isinstance(one.view_index, int)
            else set(one.view_index.tolist()) == {epoch % 2}
        )
        again = batches[epoch % 2]
        assert sorted(one.ids.tolist()) == sorted(again.ids.tolist())
        assert epoch < 2 or one.ids.tolist() != again.ids.tolist()
        first, second = one.ids.argsort(), again.ids.argsort()
        assert isinstance(one.inputs, Tensor)
        assert isinstance(again.inputs, Tensor)
        assert torch.equal(one.inputs[first], again.inputs[second])


@given(st.floats(0.05, 5.0))
@settings(max_examples=20, deadline=None)
def test_weights_are_from_the_beta_distribution(alpha: float) -> None:
    draws = beta(alpha, torch.arange(400), 1).double()
    assert 0 <= float(draws.min()) <= float(draws.max()) <= 1
    deviation = (1 / (4 * (2 * alpha + 1))) ** 0.5
    assert float(draws.mean()) == pytest.approx(0.5, abs=5 * deviation / 20)
    assert float(draws.std()) == pytest.approx(deviation, rel=0.25)


def test_a_partner_that_cannot_be_read_leaves_a_sample_unmixed(tmp_path: Path) -> None:
    source = folder(tmp_path)
    bad = tmp_path / "train" / "cat" / "5.png"
    bad.write_bytes(bad.read_bytes()[:300])
    lost = next(int(i) for i, r in zip(source.ids, source.records, strict=True) if r.name.endswith("cat/5.png"))
    (pure,) = stream(source, 14, 1).stream(0, 1)
    (mixed,) = stream(source, 14, 1, mixup=1.0).stream(0, 1)
    assert len(mixed) == 13
    assert lost not in mixed.ids
    pure = pure[torch.tensor([pure.ids.tolist().index(i) for i in mixed.ids.tolist()])]
    same = (mixed.inputs == pure.inputs).flatten(1).all(1)  # type: ignore[union-attr]
    partner = source.ids[Views(seed=SEED, mixup=1.0).partners(0, 14)[source.ids == lost]]
    assert mixed.ids[same].tolist() == partner.tolist()
    halves = [next(stream(source, 14, 1, NO_AUGMENTATION, r, 2, 1.0).stream(0, 1)) for r in (0, 1)]
    for a, b in zip(joined(halves), joined([mixed]), strict=True):
        torch.testing.assert_close(a, b)


def test_pairs_are_mixed_alike() -> None:
    first = arrays(9)
    source = replace(first, pairs={"depth": replace(first, inputs=255 - first.inputs, modality="depth")})
    (batch,) = stream(source, 9, 1, mixup=0.5).stream(0, 1)
    assert isinstance(batch.inputs, dict)
    torch.testing.assert_close(batch.inputs["depth"], 1 - batch.inputs["image"])


def test_hard_targets_weigh_both_classes() -> None:
    logits, y, other = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, -1, 2]), torch.tensor([1, 1, 0, 2, 0, -1])
    ids, weight = torch.arange(6), torch.rand(6)
    found = CrossEntropy()(Signals(logits), None, Batch(ids, ids, logits, y, weight, other))
    log = logits.log_softmax(1)
    expected = -sum(
        float(share[k]) * float(log[k, int(labels[k])])
        for k in range(6) for share, labels in ((weight, y), (1 - weight, other)) if labels[k] >= 0
    ) / 6  # fmt: skip
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_who_can_learn_from_mixed_inputs() -> None:
    assert WeightedSum({"a": (1.0, CrossEntropy()), "b": (1.0, KD())}).supports_mixup
    assert not WeightedSum({"a": (1.0, CrossEntropy()), "b": (1.0, DKD())}).supports_mixup
    assert not CRD(4, 4, 10).supports_mixup


def test_mixup_is_refused_where_an_objective_tells_samples_apart(tmp_path: Path) -> None:
    teacher = understudy.train("digits", "mlp:16", epochs=1, run=tmp_path / "t").path
    for method in ("crd", "dkd", "kd+crd"):
        with pytest.raises(UnderstudyError, match=r"leave out --mixup, or use kd alone"):
            understudy.distill("digits", teacher, "mlp:8", method=method, mixup=1.0, run=tmp_path / method)


def test_patient_and_consistent_distillation_needs_no_labels(tmp_path: Path) -> None:
    teacher = understudy.train("digits", "mlp:32", epochs=3, lr=0.01, run=tmp_path / "t").path
    bare = torch.rand(300, 1, 8, 8)
    bare = ArraySource("bare", (), torch.arange(300), None, (1, 8, 8), inputs=bare)
    fields: dict[str, Any] = {"mixup": 1.0, "hard_weight": 0.0, "temperature": 1.0, "lr": 0.01}
    run = understudy.distill("digits", teacher, "mlp:16", transfer_set=bare, run=tmp_path / "a", steps=30, **fields)
    assert list(run.models) == ["distilled-0"]
    agreed = [row["agreement"] for row in run.epochs()]
    assert agreed[-1] > agreed[0]
    both = understudy.distill("digits", teacher, "mlp:16", run=tmp_path / "b", epochs=1, **fields)
    assert sorted(both.models) == ["alone-0", "distilled-0"]


# --- the loop ---------------------------------------------------------------------------------------------

RULE = OptimizerConfig(
    name="sgd", lr=0.1, schedule="step", warmup_steps=3, milestone_steps=(6, 9), weight_decay=1e-3,
    decay_to="initial",
)  # fmt: skip
RECIPE = TrainRecipe(
    data="digits", model="mlp:24x2?dropout=0.3", steps=13, batch_size=200, mixup=0.3, validation=0.1,
    checkpoint_every=0, optimizer=RULE,
)  # fmt: skip


def groupnorm_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)
    ).double()  # fmt: skip


@pytest.mark.parametrize("micro", [1, 7, 16])
def test_accumulation_equals_the_big_batch(micro: int) -> None:
    """To 1e-6, MixUp included, with batches larger than the set."""
    source = arrays(23)
    contract = InputContract(source.shape, (0.5,), (0.5,), source.classes)

    def trained(micro: int | None) -> Tensor:
        recipe = TrainRecipe(data="x", model="y", steps=8, batch_size=48, mixup=0.5, micro_batch=micro, optimizer=RULE)
        network = build(groupnorm_net(), contract).double()
        member = Member("model-0", "model", 1, Learner(network, CrossEntropy()), RULE, False)
        batches = stream(source, 48, 8, MOVING, mixup=0.5)
        assert Loop(Fabric(accelerator="cpu", devices=1), [member], batches, recipe).run() == 8
        return nn.utils.parameters_to_vector(network.parameters()).detach()

    whole = trained(None)
    init_from = nn.utils.parameters_to_vector(groupnorm_net().parameters()).detach()
    assert float((whole - init_from).abs().max()) > 0.01
    torch.testing.assert_close(trained(micro), whole, rtol=0, atol=1e-6)


def test_a_run_by_steps_stopped_anywhere_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = start(pipeline_of(RECIPE), tmp_path / "whole")
    steps = [row["step"] for row in whole.epochs() if row["part"] == "train"]
    assert steps == [7, 13], "a pass and what is left"
    real = Loop._update

    def stop_at(number: int) -> Callable[..., None]:
        def update(self: Loop, batch: object, samples: int) -> None:
            real(self, batch, samples)  # type: ignore[arg-type]
            if self._step + 2 == number:  # it is read before the next step, which is still made
                os.kill(os.getpid(), signal.SIGTERM)

        return update

    for step in (2, 7, 12):
        monkeypatch.setattr(Loop, "_update", stop_at(step))
        with pytest.raises(Interrupted, match=f"stopped at step {step};"):
            ensure(pipeline_of(RECIPE), tmp_path / "parts")
    monkeypatch.undo()
    parts = understudy.resume(tmp_path / "parts")
    assert isinstance(parts, Run)
    assert parts.models["model-0"].read_bytes() == whole.models["model-0"].read_bytes()
    assert [row["step"] for row in parts.epochs() if row["part"] == "train"] == steps
    assert [row["loss"] for row in parts.epochs() if row["part"] == "train"] == [
        row["loss"] for row in whole.epochs() if row["part"] == "train"
    ]


def test_two_processes_end_with_the_weights_of_one(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"accelerator": "cpu", "precision": "32", "micro_batch": 64})
    one = start(pipeline_of(recipe), tmp_path / "one")
    two = start(pipeline_of(recipe.model_copy(update={"devices": 2})), tmp_path / "two")
    a, b = (read_weights(run.models["model-0"]).tensors for run in (one, two))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_weights_decay_to_where_they_began(kind: Literal["sgd", "adamw"]) -> None:
    """Against the update written by hand; biases are left alone."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    init_from = layer.weight.detach().clone()
    recipe = OptimizerConfig(name=kind, lr=0.1, momentum=0.0, weight_decay=0.5, decay_to="initial")
    optimizer = make_optimizer(layer, recipe)
    plain = make_optimizer(twin := nn.Linear(3, 2), recipe.model_copy(update={"weight_decay": 0.0}))
    twin.load_state_dict(layer.state_dict())
    for _ in range(4):
        before = twin.weight.detach().clone()
        for net, one in ((layer, optimizer), (twin, plain)):
            one.zero_grad()
            (net(torch.ones(1, 3)) ** 2).sum().backward()
            one.step()
        with torch.no_grad():
            twin.weight.sub_(0.1 * 0.5 * (before - init_from))
        torch.testing.assert_close(layer.weight, twin.weight)
        torch.testing.assert_close(layer.bias, twin.bias)
    assert not torch.equal(layer.weight, init_from)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_weight_decay_spares_biases_and_norms_unless_asked(kind: Literal["sgd", "adamw"]) -> None:
    """Without gradients only the decay moves them: AdamW's at once, SGD's as a gradient."""
    for every in (False, True):
        layer = nn.BatchNorm1d(3)
        recipe = OptimizerConfig(name=kind, lr=0.1, momentum=0.0, weight_decay=0.5, decay_norms=every)
        optimizer = make_optimizer(layer, recipe)
        for parameter in layer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        torch.testing.assert_close(layer.weight, torch.full((3,), 0.95 if every else 1.0))


# --- crops ------------------------------------------------------------------------------------------------


def test_a_crop_is_of_the_whole_image_resized_to_a_square() -> None:
    pool = torch.randint(0, 256, (5, 3, 9, 14), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    rows, seeds = torch.arange(200) % 5, mix(3, torch.arange(200))
    found = augment(pool, rows, seeds, Augmentation(crop_size=8, resize=10))
    assert found.shape == (200, 3, 8, 8)
    squares = nn.functional.interpolate(pool.float(), (10, 10), mode="bicubic", antialias=True).clamp(0, 255)
    places = set()
    for row, view in zip(rows.tolist(), found, strict=True):
        crops = {(y, x): squares[row, :, y : y + 8, x : x + 8] for y in range(3) for x in range(3)}
        places |= {key for key, crop in crops.items() if torch.allclose(crop, view, atol=1e-3)}
    assert len(places) == 9, "every place occurs"
    flipped = augment(pool, rows, seeds, Augmentation(crop_size=8, resize=10, flip=True))
    mirrored = (flipped == found.flip(3)).flatten(1).all(1)
    assert bool((mirrored | (flipped == found).flatten(1).all(1)).all())
    assert 0.3 < float(mirrored.float().mean()) < 0.7


def test_a_record_s_crop_is_that_of_an_array() -> None:
    pixels = torch.randint(0, 256, (3, 60, 90), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    seeds = mix(5, torch.arange(40))
    arrays = augment(pixels[None], torch.zeros(40, dtype=torch.int64), seeds, Augmentation(crop_size=24, resize=30))
    records = random_crops([pixels.permute(1, 2, 0)] * 40, seeds, 24, 1.0, 30, [False] * 40)
    assert float((records - arrays).abs().max()) < 1, "but for rounding"
    whole = center_crop(image, 24, 30)
    assert whole.tobytes() == image.resize((24, 24), Image.Resampling.BICUBIC, reducing_gap=3.0).tobytes()
    contract = InputContract((3, 24, 24), (0.5,) * 3, (0.5,) * 3, ("a",))
    read = prepare_inputs(pixels[None].float() / 255, contract, "a network")[0].clamp(0, 1) * 255
    decoded = torch.frombuffer(bytearray(whole.tobytes()), dtype=torch.uint8).view(24, 24, 3).permute(2, 0, 1)
    assert float((decoded - read).abs().max()) < 1, "a network resizes whole images as decoders do"


def test_images_are_tested_whole_at_the_size_of_the_crop(tmp_path: Path) -> None:
    source = resize_square(folder(tmp_path), 16)
    found = joined(in_order(source, 5, CPU))[2]
    assert found.shape == (14, 3, 16, 16)
    (batch,) = stream(source, 14, 1, Augmentation(crop_size=16, resize=20)).stream(0, 1)
    assert isinstance(batch.inputs, Tensor)
    assert batch.inputs.shape == (14, 3, 16, 16)


def test_a_network_trained_on_crops_reads_them(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"steps": 4, "batch_size": 16, "resize": 20, "crop_size": 16}
    run = understudy.train("digits", "cnn:8", validation=0.1, run=tmp_path / "a", **fields)
    network = load_network(run.models["model-0"])
    assert network.contract.shape == (1, 16, 16)
    assert network.contract.crop_mode == "squash"
    (note,) = [note for note in run.facts.notes if "best validation accuracy" in note]
    assert all(f"at {size}" in note for size in (12, 16, 20, 24))
    larger = understudy.train("digits", "cnn:8", test_size=24, run=tmp_path / "b", **fields)
    assert load_network(larger.models["model-0"]).contract.shape == (1, 24, 24)
    assert larger.facts.rows[0].mean("accuracy") is not None
    with pytest.raises(UnderstudyError, match="takes images of 16x16 only; leave out --test-size"):
        understudy.train("digits", "mlp:8", test_size=24, run=tmp_path / "c", **fields)
    assert not Run(tmp_path / "c").exists


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"resize": 20}, "resize=20 needs a crop_size"), ({"resize": 20, "crop_size": 24}, "of at most 20"),
     ({"crop_size": 8, "crop_scale": 0.5}, "choose one"), ({"mixup": -1}, "mixup"), ({"steps": -1}, "steps")],
)  # fmt: skip
def test_fields_that_make_no_sense_are_refused(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UnderstudyError, match=words):
        understudy.train("digits", "cnn:8", run=tmp_path / "run", **fields)


def test_vectors_have_no_crops(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="cannot be cropped; leave out --crop-size"):
        understudy.train((torch.rand(40, 5), torch.arange(40) % 2), "mlp:8", crop_size=4, steps=1, run=tmp_path / "run")
