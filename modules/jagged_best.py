"""The K best behaviours of jagged histories: no score but theirs is written, nothing is padded.

Of equal scores the newer behaviour is kept; NaN comes first, as in `torch.topk`. Products are of
float32 whatever rows are. Triton's kernels do it on a GPU (`jagged_gpu`), compiled loops on a CPU
(`jagged_host`).
Letters: R requests, M targets a request, L behaviours of the longest history, K kept, N jagged
total, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modules import jagged_gpu, jagged_host


class Best(NamedTuple):
    """The K best behaviours of each target, best first."""

    score_RMK: Tensor
    """Float32; 0 on padding. With a gradient."""
    index_RMK: Tensor
    """Their columns; 0 on padding."""
    valid_RMK: Tensor
    """False where a history has fewer than K."""


def keep_best(
    history_ND: Tensor,
    query_RMD: Tensor,
    position_L: Tensor,
    offset_R1: Tensor,
    *,
    factor: float,
    top_k: int,
) -> Best:
    """The behaviours with the largest `factor * query . history + position`.

    Args:
        history_ND: jagged rows of the behaviours, of any floating type.
        query_RMD: of the targets, of any floating type.
        position_L: float32, what a column adds.
        offset_R1: int64, where each history starts, with the total at the end.
        factor: of the dot products.
        top_k: K, at most L.

    Raises:
        ValueError: K is above L, or widths differ.
    """
    if not 1 <= top_k <= position_L.numel():
        raise ValueError(f"top_k is {top_k}, columns are {position_L.numel()}; give 1 to as many")
    if history_ND.size(1) != query_RMD.size(2):
        raise ValueError(
            f"behaviours are {history_ND.size(1)} wide, targets {query_RMD.size(2)}; they must be "
            "equally wide"
        )
    found = _KeepBest.apply(  # type: ignore[no-untyped-call]
        history_ND, query_RMD, position_L, offset_R1, factor, top_k
    )
    return Best(*found)


class _KeepBest(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        history_ND: Tensor,
        query_RMD: Tensor,
        position_L: Tensor,
        offset_R1: Tensor,
        factor: float,
        top_k: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if history_ND.stride(1) != 1:
            history_ND = history_ND.contiguous()
        query_RMD = query_RMD.contiguous()
        ctx.on = jagged_gpu if on_gpu(history_ND) else jagged_host
        score_RMK, index_RMK, valid_RMK = ctx.on.best(
            history_ND, query_RMD, position_L.contiguous(), offset_R1, factor, top_k
        )
        ctx.save_for_backward(history_ND, query_RMD, offset_R1, index_RMK, valid_RMK)
        ctx.factor, ctx.columns = factor, position_L.numel()
        ctx.mark_non_differentiable(index_RMK, valid_RMK)
        return score_RMK, index_RMK, valid_RMK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_RMK: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        history_ND, query_RMD, offset_R1, index_RMK, valid_RMK = ctx.saved_tensors
        gradient_RMK = gradient_RMK.float().where(valid_RMK, 0)
        of_position_L = gradient_RMK.new_zeros(ctx.columns)
        of_position_L.index_add_(0, index_RMK.flatten(), gradient_RMK.flatten())
        gradient_RMK = (gradient_RMK * ctx.factor).contiguous()
        of_history_ND, of_query_RMD = ctx.on.gradients(
            history_ND, query_RMD, offset_R1, index_RMK, gradient_RMK
        )
        return (
            of_history_ND.to(history_ND.dtype),
            of_query_RMD.to(query_RMD.dtype),
            of_position_L,
            None,
            None,
            None,
        )


def on_gpu(value: Tensor) -> bool:
    """Whether Triton's kernels are asked."""
    return value.device.type == "cuda"
