"""A step on a GPU waits for it nowhere: counted on CUDA tensors without data, for every objective."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from test_methods import METHODS
from understudy.randomness import mix, seed_of

# the ranks of a sharded bank tell one another how many rows they send
ALONE = [*(method for method in METHODS if "sharded" not in method), "crd:bank=queue:16"]
SCRIPT = Path(__file__).with_name("waits_of_a_step.py")


@pytest.fixture(scope="module")
def waited() -> dict[str, Any]:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("method", [*ALONE, "all"])
def test_a_step_waits_nowhere(waited: dict[str, Any], method: str) -> None:
    """Neither of views, teacher, forward, backward, optimizer, average, norms, metrics; on any method."""
    assert waited["methods"][method] == []


@pytest.mark.parametrize("kind", ["mixed", "mixed, by steps"])
def test_batches_of_mixed_samples_wait_nowhere(waited: dict[str, Any], kind: str) -> None:
    assert waited[kind] == []


def test_the_counter_sees_what_it_is_to_see(waited: dict[str, Any]) -> None:
    assert waited["known"] == ["_local_scalar_dense", "_to_copy", "_to_copy", "index"]


def test_numbers_are_mixed_as_tensors_of_them_are() -> None:
    keys = torch.tensor([3, -1, 2**62])
    for plain in ((), (5,), (2**63 + 1, 7)):
        one = [mix(*plain, key, 4) for key in keys]
        assert torch.equal(mix(*plain, keys, 4), torch.stack(one))
        assert torch.equal(mix(*plain, keys, 4), mix(*plain, keys, torch.tensor(4)))
    assert int(mix(5, 6)) & (2**63 - 1) == seed_of(5, 6)
