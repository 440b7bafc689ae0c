"""Time from the command line to the first step of a training, against a bare script.

    python benchmarks/startup.py [--rounds 5]

Both train 64-100-10 on scikit-learn's digits with AdamW in batches of 128, and end after their first update: ours is
`understudy train digits --model mlp:100x1`, the other what anyone would write. Each round starts a process for each
side; the figures are medians, interpreter included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

BARE = """
import os
import torch
from sklearn.datasets import load_digits
from torch import nn

digits = load_digits()
inputs, targets = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
rows = torch.randperm(len(inputs))[:128]
loss = nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
loss.backward()
optimizer.step()
os._exit(0)
"""
OURS = """
import os
import sys
from understudy.cli.app import main
from understudy.training import Loop

update = Loop._update

def once(*args):
    update(*args)
    os._exit(0)

Loop._update = once
sys.exit(main(["train", "digits", "--model", "mlp:100x1", "--run", sys.argv[1]]) or 1)
"""
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def seconds(script: str, *args: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", script, *args], check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = []
    for _ in range(parser.parse_args().rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append((seconds(BARE), seconds(OURS, f"{folder}/run")))
    bare, ours = (median(times) for times in zip(*rounds[1:], strict=True))  # the first compiles
    print(f"bare script {bare:6.2f} s")
    print(f"ours        {ours:6.2f} s")
    print(f"ratio       {ours / bare:6.2f}")


if __name__ == "__main__":
    main()
