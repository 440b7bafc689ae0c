"""Where a run computes, and in which precision."""

from __future__ import annotations

import logging
import os

import torch
from lightning_fabric import Fabric

from understudy.errors import UnderstudyError
from understudy.models import Network, is_depthwise
from understudy.recipe import AnyRecipe


def multiplies_bf16(accelerator: str) -> bool:
    """Whether the processor has units for bf16 matrix products; without them autocast is slower than float32."""
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    units = torch.cpu.get_capabilities()
    return accelerator == "cpu" and bool(units.get("amx_bf16") or units.get("avx512_bf16"))


def loses_by_bf16(recipe: AnyRecipe, network: Network) -> bool:
    """Whether precision, left to choose itself, is float32 for this net: on CPUs depthwise kernels are slow in bf16.

    `benchmarks/precision.py` measures it.
    """
    return recipe.precision == "auto" and accelerator_of(recipe) == "cpu" and is_depthwise(network.module)


def accelerator_of(recipe: AnyRecipe | None = None) -> str:
    """Where to compute: a GPU where there is one, unless a recipe says."""
    if recipe is not None and recipe.accelerator != "auto":
        return recipe.accelerator
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_of(recipe: AnyRecipe | None = None) -> torch.device:
    """The device of `accelerator_of`; of several processes each has its own."""
    return torch.device(accelerator_of(recipe))


def make_fabric(recipe: AnyRecipe) -> Fabric:
    """Fabric as the recipe says; several devices start processes of their own unless torchrun did."""
    accelerator = accelerator_of(recipe)
    precision = recipe.precision
    if precision == "auto":
        precision = "bf16" if multiplies_bf16(accelerator) else "32"
    here = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if here.get(accelerator, recipe.devices) < recipe.devices:
        raise UnderstudyError(
            f"{recipe.devices} {accelerator} devices were asked for and {here[accelerator]} are here; "
            "pass fewer --devices, or --accelerator cpu"
        )
    if precision == "fp16" and accelerator == "cpu":
        raise UnderstudyError("fp16 needs a GPU; pass --precision bf16 or 32")
    several = recipe.devices * recipe.nodes > 1
    launched = "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_JOB_ID" in os.environ
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would say again what the recipe says
    return Fabric(
        accelerator=accelerator,
        devices=recipe.devices,
        num_nodes=recipe.nodes,
        strategy=("ddp" if launched else "ddp_spawn") if several else "auto",
        precision={"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[precision],  # type: ignore[arg-type]
    )
