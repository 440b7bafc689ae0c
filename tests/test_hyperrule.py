"""BiT-HyperRule: the table of the paper and the released code, at every step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy import config as bit
from understudy.config.hyperrule import Variant
from understudy.config.options import OptimizerConfig
from understudy.config.recipe import TrainRecipe
from understudy.errors import UnderstudyError
from understudy.training.lr_schedule import learning_rate

EXAMPLES = st.one_of(st.integers(1, 19_999), st.integers(20_000, 499_999), st.integers(500_000, 20_000_000))
# The table: where the warm-up ends, where the rate falls, and where the training ends.
SUPPORTS = {
    20_000: (100, 200, 300, 400, 500),
    500_000: (500, 3_000, 6_000, 9_000, 10_000),
    math.inf: (500, 6_000, 12_000, 18_000, 20_000),
}


def released_rate(step: int, examples: int, base: float) -> float:
    """The rate as the table has it, with the strict test of the released code."""
    warm, *falls, _ = SUPPORTS[min(limit for limit in SUPPORTS if examples < limit)]
    if step < warm:
        return base * step / warm
    for fall in falls:
        if fall < step:
            base /= 10
    return base


def rate_of(rule: bit.HyperRule, step: int) -> float:
    """The rate at which a recipe of the rule's fields trains."""
    return learning_rate(OptimizerConfig(**rule.fields["optimizer"]), step, rule.steps)


def same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-12)


@pytest.mark.parametrize("examples", [1, 19_999, 20_000, 499_999, 500_000, 10**8])
def test_the_rate_is_the_released_one_at_every_step(examples: int) -> None:
    rule = bit.hyperrule(examples, (32, 32))
    assert rate_of(rule, 0) == 0
    assert all(same(rate_of(rule, t), released_rate(t, examples, 0.003)) for t in range(rule.steps))


@given(EXAMPLES, st.integers(0, 25_000), st.sampled_from([32, 128, 512, 4096]))
@settings(max_examples=300, deadline=None)
def test_it_is_scaled_linearly_to_the_batch(examples: int, step: int, batch: int) -> None:
    rule = bit.hyperrule(examples, (300, 400), batch_size=batch)
    assert rule.batch_size == batch
    assert same(rate_of(rule, step), released_rate(step, examples, 0.003 * batch / 512))


@given(EXAMPLES, st.sampled_from(["code", "paper"]), st.integers(1, 3_000), st.integers(1, 25_000))
@settings(max_examples=200, deadline=None)
def test_a_recipe_says_the_same_at_every_step(examples: int, variant: Variant, steps: int, at: int) -> None:
    """The rule is expressed by the plain fields of a recipe; also brought to another number of steps."""
    for rule in (bit.hyperrule(examples, (32, 32), variant=variant), bit.hyperrule(examples, (32, 32)).within(steps)):
        recipe = TrainRecipe.model_validate({"data": "x", "model": "y", **rule.fields})
        assert recipe.steps == rule.steps
        assert recipe.mixup == rule.mixup
        assert recipe.optimizer.weight_decay == 0
        for step in {0, at % rule.steps, rule.steps - 1, *(f for f in rule.milestones if f < rule.steps)}:
            warming = rule.base_lr * step / max(rule.warmup, 1)
            falling = rule.base_lr * 0.1 ** sum(step >= fall for fall in rule.milestones)
            expected = warming if step < rule.warmup else falling
            assert same(learning_rate(recipe.optimizer, step, rule.steps), expected)


@given(EXAMPLES)
def test_mixup_and_steps(examples: int) -> None:
    rule = bit.hyperrule(examples, (500, 375))
    assert rule.mixup == (0 if examples < 20_000 else 0.1)
    assert rule.steps == (500 if examples < 20_000 else 10_000 if examples < 500_000 else 20_000)


@given(st.integers(1, 2_000), st.integers(1, 2_000))
def test_sizes(height: int, width: int) -> None:
    small = height * width < 96 * 96
    code, paper = (bit.hyperrule(1, (height, width), variant=v) for v in ("code", "paper"))
    assert (code.resize, code.crop_size) == ((160, 128) if small else (512, 480))
    assert (paper.resize, paper.crop_size) == ((160, 128) if small else (448, 384))


@pytest.mark.parametrize("examples", [10, 30_000, 600_000])
def test_the_paper_decays_at_30_60_and_90_percent(examples: int) -> None:
    rule = bit.hyperrule(examples, (32, 32), variant="paper")
    for share, before, after in ((0.3, 1, 0.1), (0.6, 0.1, 0.01), (0.9, 0.01, 0.001)):
        step = round(share * rule.steps)
        assert same(rate_of(rule, step - 1), 0.003 * before)
        assert same(rate_of(rule, step), 0.003 * after)


def test_another_crop_keeps_the_proportion() -> None:
    rule = bit.hyperrule(100, (64, 64)).sized(32)
    assert (rule.resize, rule.crop_size) == (40, 32)


def test_a_short_schedule_is_the_rule_in_small() -> None:
    rule = bit.hyperrule(100, (64, 64)).within(50)
    assert (rule.steps, rule.warmup, rule.decay_steps) == (50, 10, (20, 30, 40))


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [((0, (32, 32)), {}, "at least one example"), ((5, (0, 32)), {}, "of 0x32 pixels"),
     ((5, (32, 32)), {"batch_size": 0}, "a batch size of 0"),
     ((5, (32, 32)), {"variant": "papr"}, "did you mean 'paper'")],
)  # fmt: skip
def test_nonsense_is_refused(arguments: tuple, options: dict, words: str) -> None:
    with pytest.raises(UnderstudyError, match=words):
        bit.hyperrule(*arguments, **options)


def test_the_share_of_a_warm_up_still_rises_from_above_zero() -> None:
    assert learning_rate(OptimizerConfig(lr=1.0, warmup=0.1), 0, 100) == pytest.approx(1 / 11)
    assert learning_rate(OptimizerConfig(lr=1.0, warmup_steps=0, schedule="constant"), 0, 100) == 1
