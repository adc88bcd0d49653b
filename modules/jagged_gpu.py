"""The K best behaviours of jagged histories, by kernels of a GPU (`jagged_kernels`).

Rows are read once and folded: of each 16 neighbours and each target the largest key is kept, a
score and its column in one number. The K best folds hold the K best keys, and only those are looked
at again. Exact: keys differ, so that if a key is among the K best its fold is among the K best
folds. Letters: R requests, M targets a request, L behaviours of the longest history, K kept, F
folds of a history, C candidates of a target, N jagged total, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from modules.feature_rows import FeatureRows
from modules.history import Histories

_FOLD = 16
"""Behaviours of a fold where histories are long."""
_FEW_FOLDS = 4
"""So many times K folds at least, else as much would be looked at again as is folded."""
BLOCK_HISTORY, BLOCK_CANDIDATES = 64, 64
_MOST_TARGETS, _MOST_WIDTH = 64, 32
"""Of a block: larger ones need more registers than there are."""
FOLDING_WARPS = 8
"""With 4, 64 targets spill registers (ptxas, sm_90)."""
_LAST_COLUMN = 0x7FFFFFFF


def prepared(history: Sequence[Tensor]) -> list[Tensor]:
    """Rows as `best` and `gradients` read them: joined, each row's numbers beside each other."""
    joined_ND = FeatureRows(*history).joined
    return [joined_ND if joined_ND.stride(1) == 1 else joined_ND.contiguous()]


def best(
    histories: Histories, position_L: Tensor, factor: float, top_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, columns and validity of `jagged_best.Best`; rows are prepared."""
    (history_ND,), query_RMD, offset_R1 = histories
    with _device_of(history_ND):
        key_RMK = _best_keys(history_ND, query_RMD, position_L, offset_R1, factor, top_k)
    return decoded(key_RMK)


def gradients(
    histories: Histories, index_RMK: Tensor, gradient_RMK: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Gradients of `query . history`, float32: of each part of the rows, and of the targets.

    Args:
        histories: rows are prepared.
        index_RMK: columns of what was kept.
        gradient_RMK: of the products; 0 on padding.
    """
    (history_ND,), query_RMD, offset_R1 = histories
    row_RMK = index_RMK + offset_R1[:-1, None, None]
    # Padding names column 0, which need not be there.
    row_RMK = row_RMK.clamp(max=max(0, history_ND.size(0) - 1))
    # Sums of atomic additions differ from run to run.
    add_up = gradients_in_order if torch.are_deterministic_algorithms_enabled() else _add_gradients
    with _device_of(history_ND):
        of_history_ND, of_query_RMD = add_up(history_ND, query_RMD, row_RMK, gradient_RMK)
    return [of_history_ND], of_query_RMD


def decoded(key_RMK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, columns, and False on padding, from keys of `jagged_kernels`."""
    valid_RMK = key_RMK != torch.iinfo(torch.int64).min
    ordered_RMK = (key_RMK >> 32).int()
    bits_RMK = ordered_RMK ^ ((ordered_RMK >> 31) & 0x7FFFFFFF)
    index_RMK = _LAST_COLUMN - (key_RMK & _LAST_COLUMN)
    return (
        bits_RMK.view(torch.float32).where(valid_RMK, 0),
        index_RMK.where(valid_RMK, 0),
        valid_RMK,
    )


def _best_keys(
    history_ND: Tensor,
    query_RMD: Tensor,
    position_L: Tensor,
    offset_R1: Tensor,
    factor: float,
    top_k: int,
) -> Tensor:
    """Keys of the K best, key_RMK, largest first."""
    from modules import jagged_kernels  # Not before there is a GPU.

    requests, targets, width = query_RMD.shape
    shape = (requests, targets)
    fold = fold_size(position_L.numel(), top_k)
    folds = -(-position_L.numel() // fold)
    key_RMF = torch.empty(*shape, folds, dtype=torch.int64, device=query_RMD.device)
    if not key_RMF.numel():
        return key_RMF[..., :top_k]
    blocks = block_sizes(targets, width)
    programs = requests * -(-targets // blocks["BLOCK_TARGETS"]) * -(-folds * fold // BLOCK_HISTORY)
    rows, lengths = (history_ND, query_RMD, position_L, offset_R1), (width, history_ND.stride(0))
    jagged_kernels.fold_keys[(programs,)](
        *rows,
        key_RMF,
        *lengths,
        targets,
        folds,
        factor,
        **blocks,
        BLOCK_HISTORY=BLOCK_HISTORY,
        FOLD=fold,
        num_warps=FOLDING_WARPS,
    )
    if fold == 1:
        return key_RMF.topk(top_k, dim=2).values
    fold_RMK = key_RMF.topk(top_k, dim=2, sorted=False).indices.contiguous()
    candidates = top_k * fold
    key_RMC = torch.empty(*shape, candidates, dtype=torch.int64, device=query_RMD.device)
    jagged_kernels.candidate_keys[(requests * targets * -(-candidates // BLOCK_CANDIDATES),)](
        *rows,
        fold_RMK,
        key_RMC,
        *lengths,
        targets,
        candidates,
        factor,
        BLOCK_CANDIDATES=BLOCK_CANDIDATES,
        BLOCK_WIDTH=blocks["BLOCK_WIDTH"],
        FOLD=fold,
    )
    return key_RMC.topk(top_k, dim=2).values


def fold_size(columns: int, top_k: int) -> int:
    """Behaviours of a fold: 1, where folding would not leave enough folds to choose from."""
    return _FOLD if columns >= _FEW_FOLDS * _FOLD * top_k else 1


def block_sizes(targets: int, width: int) -> dict[str, int]:
    """Targets and numbers of a row that a program takes at a time: powers of two, at least 16."""
    found = {}
    for name, size, most in (
        ("BLOCK_TARGETS", targets, _MOST_TARGETS),
        ("BLOCK_WIDTH", width, _MOST_WIDTH),
    ):
        found[name] = min(most, max(16, 1 << (size - 1).bit_length()))
    return found


def _add_gradients(
    history_ND: Tensor, query_RMD: Tensor, row_RMK: Tensor, gradient_RMK: Tensor
) -> tuple[Tensor, Tensor]:
    """As `gradients_in_order`, without a copy of the kept rows."""
    from modules import jagged_kernels

    width, top_k = query_RMD.size(2), row_RMK.size(2)
    of_history_ND = torch.zeros_like(
        history_ND, dtype=torch.float32, memory_format=torch.contiguous_format
    )
    of_query_RMD = torch.empty_like(query_RMD, dtype=torch.float32)
    if row_RMK.numel():
        jagged_kernels.add_gradients[(query_RMD.size(0) * query_RMD.size(1),)](
            history_ND,
            query_RMD,
            row_RMK,
            gradient_RMK,
            of_history_ND,
            of_query_RMD,
            width,
            history_ND.stride(0),
            top_k,
            BLOCK_KEPT=1 << (top_k - 1).bit_length(),
            BLOCK_WIDTH=block_sizes(1, width)["BLOCK_WIDTH"],
        )
    return of_history_ND, of_query_RMD


def gradients_in_order(
    history_ND: Tensor, query_RMD: Tensor, row_RMK: Tensor, gradient_RMK: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `query . history[row]`, float32, added up in an order that torch can fix."""
    of_history_ND = torch.zeros_like(history_ND, dtype=torch.float32)
    if not history_ND.size(0):
        return of_history_ND, torch.zeros_like(query_RMD, dtype=torch.float32)
    row_RMKD = history_ND[row_RMK].float()
    # NaN times 0 is NaN: what has no gradient takes no part.
    moved_RMK1 = (gradient_RMK != 0).unsqueeze(3)
    # No matrix product, whose order torch fixes on CUDA only with cuBLAS's own setting.
    of_query_RMD = (gradient_RMK.unsqueeze(3) * row_RMKD.where(moved_RMK1, 0)).sum(2)
    of_row_RMKD = gradient_RMK.unsqueeze(3) * query_RMD.float().unsqueeze(2).where(moved_RMK1, 0)
    of_history_ND.index_add_(0, row_RMK.flatten(), of_row_RMKD.flatten(0, 2))
    return of_history_ND, of_query_RMD


def _device_of(value: Tensor) -> AbstractContextManager[None]:
    """Kernels start on the current device, which need not be the tensor's."""
    return torch.cuda.device_of(value)  # type: ignore[no-untyped-call]
