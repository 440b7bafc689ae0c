"""BatchNorm of the objectives' own layers, and BatchNorm over the samples of all ranks."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from understudy.objectives.ranks import world_size


class ChannelNorm(_BatchNorm):
    """BatchNorm of (B, C) or (B, C, H, W) that also accepts a single value per channel.

    Such a batch, perhaps the last of an epoch, has no variance: it is normalized by the running statistics.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.has_variance(input):
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def has_variance(self, input: Tensor) -> bool:
        """Whether there are at least two values per channel."""
        return input.numel() > input.shape[1]

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def synchronize_batch_norm(module: nn.Module) -> None:
    """Have every BatchNorm layer in `module` normalize by the statistics of the samples on all ranks, in training mode.

    The results are then those of one process with the joint batch, whether it was split evenly or not, and the running
    statistics stay equal on all ranks. Call it before wrapping the module for data parallelism, on every rank; every
    forward and backward pass in training mode is then collective. Layers keep their parameters, buffers and paths,
    hence the module its state dict. Works on CPUs and GPUs, and for subclasses that call `F.batch_norm` themselves,
    such as timm's `BatchNormAct2d`. One rank alone changes nothing.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    >>> synchronize_batch_norm(net)
    >>> list(net.state_dict())[2:]
    ['1.weight', '1.bias', '1.running_mean', '1.running_var', '1.num_batches_tracked']
    """
    if world_size() == 1:
        return
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and not isinstance(layer, (_Synchronized, nn.SyncBatchNorm)):
            layer.__class__ = _synchronized(type(layer))


def unsynchronize_batch_norm(module: nn.Module) -> None:
    """Undo `synchronize_batch_norm`, so that one rank can run the module by itself.

    >>> net = nn.BatchNorm1d(3)
    >>> unsynchronize_batch_norm(net)
    >>> type(net)
    <class 'torch.nn.modules.batchnorm.BatchNorm1d'>
    """
    for layer in module.modules():
        if isinstance(layer, _Synchronized):
            layer.__class__ = type(layer).__bases__[1]


@torch.no_grad()
def average_running_statistics(module: nn.Module) -> None:
    """Set the running statistics of every BatchNorm layer in `module` to their mean over the ranks."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    running = [x for layer in layers for x in (layer.running_mean, layer.running_var) if x is not None]
    if world_size() == 1 or not running:
        return
    mean = torch.cat(running)
    dist.all_reduce(mean)
    for x, value in zip(running, (mean / world_size()).split([len(x) for x in running]), strict=True):
        x.copy_(value)


class _Synchronized(_BatchNorm):
    """Mixed into a layer's class: its `F.batch_norm` is over all ranks."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        with _OverRanks():
            return super().forward(input)

    def has_variance(self, input: Tensor) -> bool:
        return True  # of the values of all ranks


@cache
def _synchronized(layer: type[_BatchNorm]) -> type[_BatchNorm]:
    return type(f"Synchronized{layer.__name__}", (_Synchronized, layer), {})


class _OverRanks(TorchFunctionMode):
    """Replaces `F.batch_norm`, however a layer calls it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` of (B, C, ...), in training by the statistics of the samples on all ranks, in at least float32."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    mean, var, count = _joint_statistics(input)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((var * (count / (count - 1))).to(running_var), momentum)
    return cast(Tensor, _Normalize.apply(input, weight, bias, mean, var, count, eps))


@torch.no_grad()
def _joint_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and number (1,) of the values per channel on all ranks."""
    var, mean = torch.var_mean(_wide(x), _all_but_channels(x), correction=0)
    own = torch.cat([mean, var, mean.new_full((1,), x.numel() // x.shape[1])])
    parts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(parts, own)
    means, variances, counts = torch.stack(parts).split([len(mean), len(mean), 1], 1)
    count = counts.sum(0)
    shares = counts / count
    mean = (shares * means).sum(0)
    # each rank's variance about the joint mean; sums of squares would cancel
    return mean, (shares * (variances + (means - mean).square())).sum(0), count


class _Normalize(torch.autograd.Function):
    """`(x - mean) / sqrt(var + eps) * weight + bias`, where mean and variance are those of all ranks' x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None,
        mean: Tensor, var: Tensor, count: Tensor, eps: float,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count)
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, mean, inverse, count = ctx.saved_tensors
        dims, shape = _all_but_channels(x), (1, -1, *(1,) * (x.dim() - 2))
        dy, normalized = _wide(gradient), (_wide(x) - mean.view(shape)) * inverse.view(shape)
        own = torch.stack([dy.sum(dims), (dy * normalized).sum(dims)])
        # every rank's loss depends on this rank's values through the statistics; parameters' gradients are averaged
        joint = own.clone()
        dist.all_reduce(joint)
        mean_dy, mean_product = (joint / count).view(2, *shape)
        scale = inverse if weight is None else inverse * weight
        dx = (dy - mean_dy - normalized * mean_product) * scale.view(shape)
        of_weight, of_bias = (None, None) if weight is None else (own[1].to(weight), own[0].to(weight))
        return dx.to(x.dtype), of_weight, of_bias, None, None, None, None


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]
