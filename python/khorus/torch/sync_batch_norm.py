"""SyncBatchNorm: batch normalisation over the batches of all ranks.

The formulas are those of Ioffe and Szegedy, "Batch Normalization" (ICML 2015), with sums over all
ranks; forward and backward cost one allreduce each. Ranks may have batches of different sizes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from khorus.process_sets import ProcessSet, global_process_set
from khorus.reduce_ops import Sum
from khorus.torch.mpi_ops import allreduce_async_, synchronize

__all__ = ["SyncBatchNorm"]


def _summed(tensor: torch.Tensor, what: str, process_set: ProcessSet) -> torch.Tensor:
    """One name for layers of all widths: ranks that disagree about the width hear of it at once. It
    is free again when this returns."""
    name = f"sync_batch_norm.{what}"
    return synchronize(allreduce_async_(tensor, name=name, op=Sum, process_set=process_set))


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        process_set: ProcessSet,
    ) -> Any:
        channels = x.shape[1]
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, channels] + [1] * (x.dim() - 2)
        wide = x.to(torch.float64)
        # Count, sums and sums of squares in one message.
        sums = torch.empty(2 * channels + 1, dtype=torch.float64, device=x.device)
        sums[0] = x.numel() / max(channels, 1)
        sums[1 : channels + 1] = wide.sum(dims)
        sums[channels + 1 :] = (wide * wide).sum(dims)
        _summed(sums, "forward", process_set)
        count = sums[0]
        mean = sums[1 : channels + 1] / count
        variance = sums[channels + 1 :] / count - mean * mean
        scale = torch.rsqrt(variance + eps)
        normal = ((wide - mean.view(shape)) * scale.view(shape)).to(x.dtype)
        y = normal
        if weight is not None:
            y = y * weight.view(shape)
        if bias is not None:
            y = y + bias.view(shape)
        ctx.save_for_backward(normal, weight, scale, count)
        ctx.process_set, ctx.has_bias = process_set, bias is not None
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        g = gradients[0]
        normal, weight, scale, count = ctx.saved_tensors
        channels = normal.shape[1]
        dims = [d for d in range(normal.dim()) if d != 1]
        shape = [1, channels] + [1] * (normal.dim() - 2)
        by_weight = (g * normal).sum(dims)
        by_bias = g.sum(dims)
        g_normal = g if weight is None else g * weight.view(shape)
        sums = torch.cat([g_normal.sum(dims), (g_normal * normal).sum(dims)]).to(torch.float64)
        _summed(sums, "backward", ctx.process_set)
        means = (sums / count).to(g.dtype)
        by_x = g_normal - means[:channels].view(shape) - normal * means[channels:].view(shape)
        by_x = by_x * scale.to(g.dtype).view(shape)
        return (
            by_x,
            None if weight is None else by_weight,
            by_bias if ctx.has_bias else None,
            *(
                None,
                None,
            ),
        )


class SyncBatchNorm(_BatchNorm):
    """torch.nn.BatchNorm1d, 2d and 3d over the batches of all ranks of a process set.

    Equal to BatchNorm on the whole batch: output, gradients and running statistics. In evaluation,
    or with one rank, it is that. Shapes: (N, C, ...)."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_set: ProcessSet = global_process_set,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.process_set = process_set

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"SyncBatchNorm: expected at least 2 dimensions, got {input.dim()}")
        if input.shape[1] != self.num_features:
            raise ValueError(
                f"SyncBatchNorm: expected {self.num_features} features, got {input.shape[1]}"
            )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self._check_input_dim(input)
        use_batch = self.training or self.running_mean is None
        if not use_batch or self.process_set.size() == 1:
            return super().forward(input)
        y, mean, variance, count = _Normalize.apply(
            input, self.weight, self.bias, self.eps, self.process_set
        )
        if self.training and self.track_running_stats:
            self._update(mean, variance, count)
        return y

    @torch.no_grad()
    def _update(self, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 / float(self.num_batches_tracked)
        unbiased = variance * (count / (count - 1))
        self.running_mean.mul_(1 - momentum).add_(mean.to(self.running_mean.dtype), alpha=momentum)
        self.running_var.mul_(1 - momentum).add_(
            unbiased.to(self.running_var.dtype), alpha=momentum
        )
