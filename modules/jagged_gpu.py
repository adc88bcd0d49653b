"""The K best behaviours of jagged histories, by kernels of a GPU (`jagged_kernels`).

Rows are read once and folded: of each 16 neighbours and each target the largest key is kept, a
score and its column in one number. The K best folds hold the K best keys, and only those are looked
at again. Exact: keys differ, so that if a key is among the K best its fold is among the K best
folds. Letters: R requests, M targets a request, L behaviours of the longest history, K kept, F
folds of a history, C candidates of a target, N jagged total, D width.
"""

from __future__ import annotations

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


def best(
    histories: Histories, position_L: Tensor, factor: float, top_k: int
) -> tuple[Tensor, Tensor]:
    """Columns and validity of `jagged_best.Best`."""
    parts, query_RMD, offset_R1 = histories
    # Kernels want each row's numbers beside each other.
    joined_ND = FeatureRows(*parts).joined
    history_ND = joined_ND if joined_ND.stride(1) == 1 else joined_ND.contiguous()
    # They start on the current device, which need not be the tensors'.
    with torch.cuda.device_of(history_ND):  # type: ignore[no-untyped-call]
        return decoded(_best_keys(history_ND, query_RMD, position_L, offset_R1, factor, top_k))


def decoded(key_RMK: Tensor) -> tuple[Tensor, Tensor]:
    """Columns, and False on padding, from keys of `jagged_kernels`."""
    valid_RMK = key_RMK != torch.iinfo(torch.int64).min
    index_RMK = _LAST_COLUMN - (key_RMK & _LAST_COLUMN)
    return index_RMK.where(valid_RMK, 0), valid_RMK


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
