"""Optimizers, and what is applied to the weights around their updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from understudy.config.options import OptimizerConfig
from understudy.errors import UnderstudyError


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build SGD or AdamW, with weight decay on parameters of two or more dimensions only.

    >>> optimizer = make_optimizer(nn.Linear(4, 2), OptimizerConfig(name="sgd", lr=0.1, weight_decay=0.01))
    >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    [(1, 0.01), (1, 0.0)]
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise UnderstudyError("the model has no weights to train; give one that has")
    decayed = [p for p in trainable if p.dim() > 1]
    to_initial = config.decay_to == "initial" and config.weight_decay > 0
    decays = (decayed, 0.0 if to_initial else config.weight_decay), ([p for p in trainable if p.dim() <= 1], 0.0)
    groups = [{"params": parameters, "weight_decay": decay} for parameters, decay in decays if parameters]
    # fused optimizers unscale fp16 gradients themselves, after the hook has read them
    fused = all(p.device.type in ("cpu", "cuda") for p in trainable) and not to_initial
    optimizer: torch.optim.Optimizer
    if config.name == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    else:
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
    if all(p.device.type == "cpu" for p in trainable):
        # each step would look for an accelerator, loading NVIDIA's library anew, to see whether a graph is captured
        optimizer._accelerator_graph_capture_health_check = lambda: None
    if to_initial:
        optimizer.register_step_pre_hook(_decay_to_initial(decayed, config))
    return optimizer


def _decay_to_initial(parameters: list[nn.Parameter], config: OptimizerConfig) -> Callable[..., None]:
    """Weight decay toward the current weights instead of zero (L2-SP, Li et al. 2018).

    Checkpoints need not contain them: a resumed run starts from the same weights before it loads its checkpoint.
    """
    initial = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        lr = optimizer.param_groups[0]["lr"]
        for p, p0 in zip(parameters, initial, strict=True):
            if config.name == "adamw":
                p.lerp_(p0, lr * config.weight_decay)
            elif p.grad is not None:
                p.grad.add_(p - p0, alpha=config.weight_decay)

    return before_step


@torch.no_grad()
def limit_norms(module: nn.Module, max_norm: float) -> None:
    """Scale down the incoming weights of hidden units to a norm of at most `max_norm` (Srivastava et al. 2014).

    The last layer, the classifier, is not limited.

    >>> net = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1))
    >>> limit_norms(net, max_norm=0.001)
    >>> [round(norm, 4) for norm in net[0].weight.norm(dim=1).tolist()]
    [0.001, 0.001]
    """
    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for layer in layers[:-1]:
        norms = torch.linalg.vector_norm(layer.weight.flatten(1), dim=1)
        factors = (max_norm / norms.clamp_min(1e-12)).clamp_max(1.0)
        layer.weight.mul_(factors.view(-1, *[1] * (layer.weight.dim() - 1)))


@torch.no_grad()
def update_ema(ema: nn.Module, module: nn.Module, decay: float) -> None:
    """`ema <- decay * ema + (1 - decay) * module` for all parameters and buffers; integer buffers are copied.

    >>> ema, module = nn.BatchNorm1d(1), nn.BatchNorm1d(1).requires_grad_(False)
    >>> update_ema(ema, module.apply(lambda m: m.weight.fill_(5.0)), decay=0.75)
    >>> ema.weight.item()
    2.0
    """
    for average, value in zip(ema.state_dict().values(), module.state_dict().values(), strict=True):
        if average.is_floating_point():
            average.lerp_(value, 1 - decay)
        else:
            average.copy_(value)
