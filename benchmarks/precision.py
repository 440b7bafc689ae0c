"""Time of a training step in float32 and in bf16 autocast, net by net, and what `--precision auto` chooses.

    python benchmarks/precision.py [NET ...]

For processors with bf16 units. A step is a student's alone: forward, backward and SGD on random images of 32x32, batch
64. The rounds alternate; each figure is a median, the ratio that of the rounds' ratios.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from lightning_fabric import Fabric

from understudy.config.options import OptimizerConfig
from understudy.models import InputContract, build, is_depthwise
from understudy.objectives import CrossEntropy
from understudy.signals import Batch
from understudy.training import Learner, Member

BATCH, CLASSES, ROUNDS = 64, 20, 5
CONTRACT = InputContract((3, 32, 32), (0.5,) * 3, (0.25,) * 3, tuple(map(str, range(CLASSES))))
NETS = (
    "mlp:64x1", "mlp:800x2", "cnn:4-8", "cnn:16-32-64", "cnn:32-64-128", "cifar:resnet8", "cifar:resnet20",
    "cifar:wrn_16_1", "cifar:wrn_16_2", "cifar:vgg8", "cifar:mobilenetv2", "cifar:shufflenetv1", "cifar:shufflenetv2",
    "timm:resnet18", "timm:mobilenetv3_small_100", "timm:vit_tiny_patch16_224?img_size=32&patch_size=4",
)  # fmt: skip


def stepper(spec: str, fabric: Fabric) -> Callable[[], float]:
    """One update of a fresh net; the result is the seconds it took."""
    torch.manual_seed(0)
    recipe = OptimizerConfig(name="sgd", lr=0.01)
    member = Member("alone-0", "alone", 0, Learner(build(spec, CONTRACT), CrossEntropy()), recipe, False)
    member.setup(fabric)
    member.learner.train()
    ids = torch.arange(BATCH)
    batch = Batch(ids, ids, torch.rand(BATCH, 3, 32, 32), torch.randint(0, CLASSES, (BATCH,)))

    def step() -> float:
        start = time.perf_counter()
        member.step(fabric, batch, None, 0.01, BATCH, None)
        return time.perf_counter() - start

    return step


def main() -> None:
    print(f"{'net':52}{'float32':>10}{'bf16':>10}{'gain':>8}  auto")
    for spec in sys.argv[1:] or NETS:
        sides = [stepper(spec, Fabric(accelerator="cpu", devices=1, precision=p)) for p in ("32-true", "bf16-mixed")]  # type: ignore[arg-type]
        for step in sides:
            step()
            step()
        rounds = []
        for _ in range(ROUNDS):
            rounds.append([median(step() for _ in range(3)) for step in sides])
        full, half = (1e3 * median(times) for times in zip(*rounds, strict=True))
        auto = "float32" if is_depthwise(build(spec, CONTRACT).module) else "bf16"
        print(f"{spec:52}{full:7.1f} ms{half:7.1f} ms{median(a / b for a, b in rounds):8.2f}  {auto}", flush=True)


if __name__ == "__main__":
    main()
