"""What a training imports before its first step: what it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from understudy.data import ArraySource, open_source

_FIRST_STEP = """
import json, os, sys
from understudy.cli.app import main
from understudy.training import Loop

update = Loop._update

def once(*args):
    update(*args)
    print(json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)

Loop._update = once
main(["train", "digits", "--model", "mlp:8", "--steps", "1", "--run", sys.argv[1]])
"""
_LATER = ("sklearn", "scipy", "matplotlib", "jinja2", "timm", "torchvision", "pyarrow", "onnx", "pandas", "tensorboard",
          "understudy.pipeline.dry_run", "understudy.reporting.run")  # fmt: skip


def test_the_first_step_waits_for_no_module_that_it_does_not_use(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FIRST_STEP, tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = json.loads(done.stdout.splitlines()[-1])
    assert "understudy.training.loop" in imported
    assert set(_LATER).isdisjoint(imported)


def test_digits_are_those_of_scikit_learn() -> None:
    splits = open_source("digits")
    images, targets = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    assert splits.test is not None
    for part in (splits.train, splits.test):
        assert isinstance(part, ArraySource)
        assert part.targets is not None
        assert torch.equal(part.inputs, torch.from_numpy(pixels)[part.ids])
        assert torch.equal(part.targets, torch.from_numpy(targets)[part.ids])
