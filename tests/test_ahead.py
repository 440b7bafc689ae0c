"""Views and a teacher's answers for several steps at once are those of each step, wherever a run begins."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric

from batch_helpers import CPU, MOVING, arrays, equal
from understudy.data.loader import BatchLoader
from understudy.data.views import Views
from understudy.models import InputContract, build
from understudy.teachers import Teacher
from understudy.training.ahead import AnswersAhead, steps_together
from understudy.training.timing import StepTimer


def loader(updates: int | None = None, together: int = 1, mixup: float = 0.0) -> BatchLoader:
    views = Views(MOVING, seed=5, mixup=mixup)
    return BatchLoader(arrays(23), views, 5, 7, CPU, total_steps=updates, together=together)


@given(st.integers(1, 7), st.integers(0, 11), st.sampled_from([None, 12]), st.sampled_from([0.0, 0.4]))
@settings(max_examples=25, deadline=None)
def test_views_of_several_steps_are_those_of_each(together: int, start: int, updates: int | None, mixup: float) -> None:
    plain, joint = (loader(updates, n, mixup).stream(start, 12) for n in (1, together))
    for one, other in zip(plain, joint, strict=True):
        equal([one], [other])
        index = [torch.as_tensor(b.view_index).expand(len(b)) for b in (one, other)]
        assert torch.equal(*index)


@given(st.integers(1, 7), st.integers(0, 11))
@settings(max_examples=15, deadline=None)
def test_answers_are_the_teachers_wherever_a_run_begins(together: int, start: int) -> None:
    """The same bits as those of a run that began at step 0; those of the teacher's own up to rounding."""
    teacher = Teacher(build("cnn:4", InputContract((1, 6, 5), (0.5,), (0.3,), ("a", "b", "c"))))
    fabric = Fabric(accelerator="cpu", devices=1)
    timer = StepTimer(["teacher"], CPU)
    ahead = [AnswersAhead(fabric, loader(12, together), teacher, together, timer) for _ in range(2)]
    whole = [(batch, ahead[0](batch).logits) for batch in ahead[0].stream(0, 12)]
    rest = [(batch, ahead[1](batch).logits) for batch in ahead[1].stream(start, 12)]
    assert len(rest) == 12 - start
    for (one, answer), (other, again) in zip(whole[start:], rest, strict=True):
        equal([one], [other])
        assert torch.equal(answer, again)
        torch.testing.assert_close(answer, teacher(one).logits)


def test_as_many_steps_as_there_is_room_for() -> None:
    one = loader()
    assert steps_together(one) == 16
    assert steps_together(one, values=5 * 30 * 4) == 4
    assert steps_together(one, values=1) == 1
