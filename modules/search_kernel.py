"""The search of a request as it is served: score N behaviours for T targets, keep K of each.

A score is a dot product of vectors of A numbers, in float32, bf16 or 8 bits. What costs besides the
product is choosing: a plain top-K takes each score through a heap. Here scores are first folded,
each B that lie far apart to their largest; the K best folds hold the K best scores, and only those
are looked at. Letters: T targets, N behaviours, K kept, A width of a vector, B scores of a fold,
C columns that may hold the best.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from modules.row_precision import RowPrecision

_FEW = 16
"""So many times K scores are few enough to choose from at once."""
_SMALL = 1 << 14
"""Scores that are chosen from at once, whatever K: each further call costs more than it saves."""
_HELD_SCORES = 1 << 20
"""Scores that are held at a time: 4 MiB, which caches hold."""
_LARGEST = 127


class Keys(NamedTuple):
    """Vectors of the behaviours of a request, ready to be multiplied."""

    value_NA: Tensor
    scale_A: Tensor | None
    """Of 8 bits: what one step of each column is."""


def make_keys(key_NA: Tensor, precision: RowPrecision) -> Keys:
    """Bring a request's behaviours to a precision, once for all its targets.

    With 8 bits each column has a scale of its own, its largest number over 127, which the query
    takes over. So the products of whole numbers of one target rank its behaviours as they are, and
    no score is ever scaled; a rowwise scale would have to multiply every score before the choice.

    Args:
        key_NA: float32.
        precision: to multiply in.
    """
    if precision == "int8":
        if not key_NA.size(0):
            return Keys(key_NA.to(torch.int8), torch.ones_like(key_NA.sum(0)))
        scale_A = key_NA.abs().amax(0).clamp(min=torch.finfo(torch.float32).tiny) / _LARGEST
        return Keys((key_NA / scale_A).round_().to(torch.int8), scale_A)
    return Keys(key_NA.bfloat16() if precision == "bf16" else key_NA, None)


def find_best(keys: Keys, query_TA: Tensor, top_k: int) -> Tensor:
    """The behaviours with the largest scores.

    Args:
        keys: of the request.
        query_TA: float32, of its targets.
        top_k: K; all are kept where there are fewer.

    Returns:
        index_TK, in no order; of equal scores at the edge any.
    """
    value_NA, scale_A = keys
    if scale_A is not None:
        folded_TA = query_TA * scale_A
        step_T1 = folded_TA.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        query_TA = (folded_TA * (_LARGEST / step_T1)).round_().to(torch.int8)
    else:
        query_TA = query_TA.to(value_NA.dtype)
    top_k = min(top_k, value_NA.size(0))
    parts = torch.split(query_TA, max(1, _HELD_SCORES // max(1, value_NA.size(0))), dim=0)
    # One block for all parts: to give 4 MiB back and ask for them again costs as much as a product.
    kind = torch.int32 if value_NA.dtype == torch.int8 else value_NA.dtype
    score_TN = value_NA.new_empty(parts[0].size(0), value_NA.size(0), dtype=kind)
    found = []
    for part in parts:
        score = score_TN[: part.size(0)]
        found.append(largest(_product(part, value_NA, score), top_k))
    return found[0] if len(found) == 1 else torch.cat(found)


def largest(score_TN: Tensor, top_k: int) -> Tensor:
    """Columns of the K largest of each row, index_TK, in no order.

    Exact: if a score is among the K largest, so is its fold among folds, equal ones aside.

    Args:
        score_TN: of any type.
        top_k: K, at most N.
    """
    targets, columns = score_TN.shape
    if columns <= _FEW * top_k or score_TN.numel() <= _SMALL:
        return _choose(score_TN, top_k)
    # Choosing among N / B folds, then among the K B scores of the best, is least where both are
    # as many.
    size = 1 << int(math.log2(math.sqrt(columns / top_k)))
    folds = columns // size
    whole = folds * size
    fold_TB = torch.unflatten(score_TN[:, :whole], 1, (size, folds)).amax(1)
    start_TK = _choose(fold_TB, top_k)
    step_B = torch.arange(0, whole, folds, device=score_TN.device)
    column_TC = (start_TK.unsqueeze(2) + step_B).flatten(1)
    if whole < columns:  # What no fold holds.
        rest = torch.arange(whole, columns, device=score_TN.device)
        column_TC = torch.cat([column_TC, rest.expand(targets, -1)], dim=1)
    best_TK = _choose(score_TN.gather(1, column_TC), top_k)
    return column_TC.gather(1, best_TK)


def _choose(score_TN: Tensor, top_k: int) -> Tensor:
    """The same, looking at every score."""
    first = score_TN.size(1) - top_k
    if score_TN.device.type != "cpu" or score_TN.numel() <= _SMALL or first == 0:
        return score_TN.topk(top_k, dim=1, sorted=False).indices
    # NumPy's partition is vectorised: with what follows, a third of the time of torch 2.13's topk.
    known = (score_TN.float() if score_TN.dtype == torch.bfloat16 else score_TN).numpy()
    best_TN = known >= np.partition(known, first, axis=1)[:, first : first + 1]
    cell_C = np.flatnonzero(best_TN)
    if cell_C.size != known.shape[0] * top_k:  # Equal scores at some row's edge.
        count_T = np.bincount(cell_C // known.shape[1], minlength=known.shape[0])
        for row in np.flatnonzero(count_T != top_k):
            best_TN[row] = False
            best_TN[row, np.argpartition(known[row], first)[first:]] = True
        cell_C = np.flatnonzero(best_TN)
    return torch.from_numpy(cell_C.reshape(-1, top_k) % known.shape[1])


def _product(query_TA: Tensor, value_NA: Tensor, out_TN: Tensor) -> Tensor:
    """Scores of all behaviours, put into `out_TN`; of 8 bits whole numbers."""
    product = torch._int_mm if value_NA.dtype == torch.int8 else torch.mm
    return product(query_TA, value_NA.t(), out=out_TN)
