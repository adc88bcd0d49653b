"""The K best behaviours of jagged histories, by loops that are compiled for the processor.

A row is read once and multiplied with all targets of its request; the K best of each are kept in
order, so that few scores are more than compared. Threads share the requests.
Letters: R requests, M targets a request, L behaviours of the longest history, K kept, N jagged
total, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modules.compiling import compiled, compiled_in_any_order
from modules.threads import in_threads

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_FEWEST_BEHAVIOURS = 4096
"""That are worth a thread of their own."""


class _Histories(NamedTuple):
    """Of a batch, with the targets that search them."""

    row_ND: Floats
    query_RMD: Floats
    offset_R1: Integers


def best(
    history_ND: Tensor,
    query_RMD: Tensor,
    position_L: Tensor,
    offset_R1: Tensor,
    factor: float,
    top_k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, columns and validity of `jagged_best.Best`; arguments as `keep_best` takes them."""
    shape = (*query_RMD.shape[:2], top_k)
    score_RMK, index_RMK = torch.zeros(shape), torch.zeros(shape, dtype=torch.int64)
    in_threads(
        _keep,
        offset_R1,
        (
            _histories(history_ND, query_RMD, offset_R1),
            position_L.detach().numpy(),
            np.float32(factor),
            score_RMK.numpy(),
            index_RMK.numpy(),
        ),
        fewest=_FEWEST_BEHAVIOURS,
    )
    valid_RMK = torch.arange(top_k) < offset_R1.diff()[:, None, None]
    return score_RMK, index_RMK, valid_RMK.expand(shape)


def gradients(
    history_ND: Tensor,
    query_RMD: Tensor,
    offset_R1: Tensor,
    index_RMK: Tensor,
    gradient_RMK: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `jagged_gpu.gradients`; a row's are added up target by target."""
    of_history_ND = torch.empty(history_ND.shape)
    of_query_RMD = torch.empty(query_RMD.shape)
    in_threads(
        _add_gradients,
        offset_R1,
        (
            _histories(history_ND, query_RMD, offset_R1),
            index_RMK.numpy(),
            gradient_RMK.numpy(),
            of_history_ND.numpy(),
            of_query_RMD.numpy(),
        ),
        fewest=_FEWEST_BEHAVIOURS,
    )
    return of_history_ND, of_query_RMD


def _histories(history_ND: Tensor, query_RMD: Tensor, offset_R1: Tensor) -> _Histories:
    row_ND, query_RMD = (value.detach().float().contiguous() for value in (history_ND, query_RMD))
    return _Histories(row_ND.numpy(), query_RMD.numpy(), offset_R1.numpy())


@compiled_in_any_order
def _dot(row_ND: Floats, row: int, query_RMD: Floats, request: int, target: int) -> np.float32:
    total = np.float32(0.0)
    for d in range(row_ND.shape[1]):
        total += row_ND[row, d] * query_RMD[request, target, d]
    return total


@compiled
def _better(score: np.float32, than: np.float32) -> bool:
    return bool(score > than or (np.isnan(score) and not np.isnan(than)))


@compiled
def _insert(score_K: Floats, index_K: Integers, score: np.float32, column: int) -> None:
    """Put a column among the best of those before it, which are in order; where K are, one goes."""
    place = min(column, score_K.size - 1)
    while place > 0 and _better(score, score_K[place - 1]):
        score_K[place], index_K[place] = score_K[place - 1], index_K[place - 1]
        place -= 1
    score_K[place], index_K[place] = score, column


@compiled
def _keep(
    begin: int,
    end: int,
    histories: _Histories,
    position_L: Floats,
    factor: np.float32,
    score_RMK: Floats,
    index_RMK: Integers,
) -> None:
    row_ND, query_RMD, offset_R1 = histories
    targets, top_k = score_RMK.shape[1:]
    for request in range(begin, end):
        first = offset_R1[request]
        for column in range(offset_R1[request + 1] - first):
            for target in range(targets):
                product = _dot(row_ND, first + column, query_RMD, request, target)
                score = factor * product + position_L[column]
                worst = score_RMK[request, target, top_k - 1]
                if column < top_k or _better(score, worst):
                    kept_K = score_RMK[request, target]
                    _insert(kept_K, index_RMK[request, target], score, column)


@compiled
def _add_gradients(
    begin: int,
    end: int,
    histories: _Histories,
    index_RMK: Integers,
    gradient_RMK: Floats,
    of_row_ND: Floats,
    of_query_RMD: Floats,
) -> None:
    row_ND, query_RMD, offset_R1 = histories
    targets, top_k = gradient_RMK.shape[1:]
    for request in range(begin, end):
        first = offset_R1[request]
        of_row_ND[first : offset_R1[request + 1]] = 0.0
        of_query_RMD[request] = 0.0
        for target in range(targets):
            for k in range(top_k):
                gradient = gradient_RMK[request, target, k]
                if gradient == 0.0:  # Padding; and a row of NaN times 0 would be NaN.
                    continue
                row = first + index_RMK[request, target, k]
                for d in range(row_ND.shape[1]):
                    of_row_ND[row, d] += gradient * query_RMD[request, target, d]
                    of_query_RMD[request, target, d] += gradient * row_ND[row, d]
