"""The K best behaviours of jagged histories: no score is written down, nothing is padded.

Of equal scores the newer behaviour is kept; NaN comes first, as in `torch.topk`. Products are of
float32 whatever rows are. Triton's kernels do it on a GPU (`jagged_gpu`), compiled loops on a CPU
(`jagged_host`). A choice has no gradient: scores that need one are made again, of the kept rows,
which are few.
Letters: R requests, M targets a request, L behaviours of the longest history, K kept, N jagged
total, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modules import jagged_gpu, jagged_host
from modules.history import Histories


class Best(NamedTuple):
    """The K best behaviours of each target, best first."""

    index_RMK: Tensor
    """Their columns; 0 on padding."""
    valid_RMK: Tensor
    """False where a history has fewer than K."""


@torch.no_grad()
def keep_best(
    history: Sequence[Tensor],
    query_RMD: Tensor,
    position_L: Tensor,
    offset_R1: Tensor,
    *,
    factor: float,
    top_k: int,
) -> Best:
    """The behaviours with the largest `factor * query . history + position`.

    Args:
        history: jagged rows of the behaviours, of any floating type, [N, D] or by feature.
        query_RMD: of the targets, of any floating type.
        position_L: float32, what a column adds.
        offset_R1: int64, where each history starts, with the total at the end, which is N.
        factor: of the dot products.
        top_k: K, at most L.

    Raises:
        ValueError: K is above L, or widths differ, or features have other numbers of rows. On a
            CPU also: a history is longer than L, or histories have more than N rows.
    """
    if not 1 <= top_k <= position_L.numel():
        raise ValueError(f"top_k is {top_k}, columns are {position_L.numel()}; give 1 to as many")
    width = sum(part_ND.size(1) for part_ND in history)
    if width != query_RMD.size(2):
        raise ValueError(
            f"behaviours are {width} wide, targets {query_RMD.size(2)}; they must be equally wide"
        )
    rows = {part_ND.size(0) for part_ND in history}
    if len(rows) > 1:
        raise ValueError(f"features have {sorted(rows)} rows; they must have equally many")
    histories = Histories(history, query_RMD.contiguous(), offset_R1)
    if on_gpu(query_RMD):
        return Best(*jagged_gpu.best(histories, position_L.contiguous(), factor, top_k))
    # On a GPU this would have to be waited for.
    _check_offsets(offset_R1, rows.pop(), position_L.numel())
    return Best(*jagged_host.best(histories, position_L.contiguous(), factor, top_k))


def _check_offsets(offset_R1: Tensor, rows: int, columns: int) -> None:
    """What loops read they must be allowed to."""
    total, longest = int(offset_R1[-1]), int(offset_R1.diff().max()) if len(offset_R1) > 1 else 0
    if total > rows or longest > columns:
        raise ValueError(
            f"histories have {total} behaviours, the longest {longest}; there are {rows} rows and "
            f"{columns} columns: offsets must end there at most, no history may be longer"
        )


def on_gpu(value: Tensor) -> bool:
    """Whether Triton's kernels are asked."""
    return value.device.type == "cuda"
