"""Normalisation of the head's input. Letters: T targets, D width."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

NormKind = Literal["batch", "batch_all_ranks", "layer", "none"]
EvaluationStatistics = Literal["running", "batch"]

_CONSTANT = 1e-9
"""Variance over squared mean up to which a column is constant: rounding of float32 leaves 1e-13."""


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose gradient is the all-reduce of the gradients."""

    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


class BatchNorm(nn.Module):
    """Batch normalisation over the targets that count, on one rank or over all.

    In training equal to `torch.nn.BatchNorm1d` where all targets count; unlike
    `torch.nn.SyncBatchNorm` it takes CPU tensors, and padding takes no part. The running statistics
    start from the first batch, not from mean 0 and variance 1, and weigh batches by their targets:
    with equal ones they are `BatchNorm1d`'s after the correction by 1 - 0.9^steps.

    Args:
        width: D.
        all_ranks: take mean and variance over the targets of all ranks.
        evaluation: in evaluation use the `running` statistics, or those of the `batch` as the
            paper's released code does.
    """

    running_mean: Tensor
    running_variance: Tensor
    seen: Tensor
    """Targets a step that the running statistics are made of, a fading mean that starts at 0; a
    buffer of the checkpoint like them, so that a resumed run goes on alike."""

    def __init__(self, width: int, *, all_ranks: bool, evaluation: EvaluationStatistics) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_variance", torch.ones(width))
        self.register_buffer("seen", torch.zeros(()))
        self.all_ranks = all_ranks
        self.evaluation = evaluation
        self.momentum, self.eps = 0.1, 1e-5

    def forward(self, value_TD: Tensor, counts_T: Tensor) -> Tensor:
        """Normalise each feature.

        Args:
            value_TD: input.
            counts_T: True where a target counts, False on padding.

        Returns:
            normalised_TD, float32.
        """
        value_TD = value_TD.float()
        if self.training or self.evaluation == "batch":
            mean_D, variance_D, count = self._statistics(value_TD, counts_T.float().unsqueeze(1))
        else:
            mean_D, variance_D = self.running_mean, self.running_variance
        if self.training:
            self._remember(mean_D.detach(), variance_D.detach(), count)
        scale_D = self.weight * torch.rsqrt(variance_D + self.eps)
        if not self.training and self.evaluation == "running":
            # In training a column that is the same for all targets (the target's position) becomes
            # 0. Its running mean lags behind a moving value, and a scale of 316 would show it.
            constant_D = variance_D <= _CONSTANT * mean_D.square()
            scale_D = scale_D.masked_fill(constant_D, 0.0)
        # Centred first, for the rounding of such a column in training.
        return (value_TD - mean_D) * scale_D + self.bias

    def _statistics(self, value_TD: Tensor, counts_T1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count = self._total(counts_T1.sum())
        divisor = count.clamp(min=1)
        mean_D = self._total((value_TD * counts_T1).sum(0)) / divisor
        centred_TD = (value_TD - mean_D) * counts_T1
        return mean_D, self._total(centred_TD.square().sum(0)) / divisor, count

    def _total(self, value: Tensor) -> Tensor:
        if not self.all_ranks or not dist.is_initialized() or dist.get_world_size() == 1:
            return value
        total: Tensor = _SumOverRanks.apply(value)  # type: ignore[no-untyped-call]
        return total

    @torch.no_grad()
    def _remember(self, mean_D: Tensor, variance_D: Tensor, count: Tensor) -> None:
        unbiased_D = variance_D * count / (count - 1).clamp(min=1)
        new = self.momentum * count
        self.seen.mul_(1 - self.momentum).add_(new)
        # A rank without data gets a batch of padding only: it teaches nothing.
        share = new / self.seen.clamp(min=torch.finfo(self.seen.dtype).tiny)
        self.running_mean.lerp_(mean_D, share)
        self.running_variance.lerp_(unbiased_D, share)


class LayerNorm(nn.Module):
    """Normalises each target by itself.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, value_TD: Tensor, _counts_T: Tensor) -> Tensor:
        """Normalise; takes the same arguments as `BatchNorm`. Returns normalised_TD."""
        return self.norm(value_TD)


class NoNorm(nn.Module):
    """Leaves the input as it is."""

    def forward(self, value_TD: Tensor, _counts_T: Tensor) -> Tensor:
        """Return value_TD; takes the same arguments as `BatchNorm`."""
        return value_TD


def make_norm(kind: NormKind, width: int, evaluation: EvaluationStatistics) -> nn.Module:
    """The norm of a head's input.

    Args:
        kind: `batch` (of this rank), `batch_all_ranks`, `layer` or `none`.
        width: D.
        evaluation: what batch norms use in evaluation.
    """
    if kind == "layer":
        return LayerNorm(width)
    if kind == "none":
        return NoNorm()
    return BatchNorm(width, all_ranks=kind == "batch_all_ranks", evaluation=evaluation)


@torch.no_grad()
def average_running_statistics(model: nn.Module) -> None:
    """Make every rank's running statistics their mean over the ranks; a collective.

    With `batch`, each rank has followed its own share of the data; before a save, and so before an
    evaluation, all must hold the same. A rank counts by the targets it has seen: one without data
    has no say. Doing it twice may change the last bit.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for module in model.modules():
        if isinstance(module, BatchNorm):
            total = module.seen.clone()
            dist.all_reduce(total)
            share = module.seen / total
            for buffer in (module.running_mean, module.running_variance):
                mean = torch.where(share > 0, buffer * share, 0.0)
                dist.all_reduce(mean)
                # Before the first batch there is nothing to average.
                buffer.copy_(torch.where(total > 0, mean, buffer))
            module.seen.copy_(total / dist.get_world_size())
