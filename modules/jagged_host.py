"""The K best behaviours of jagged histories, by loops that are compiled for the processor.

A request's rows are read from memory once; the K best of a target are kept in order, so that few
scores are more than compared. Threads share the requests; one request is one thread's.
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
from modules.history import Histories
from modules.threads import in_threads

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_FEWEST_BEHAVIOURS = 4096
"""That are worth a thread of their own."""
_BLOCK = 256
"""Behaviours that are scored at once, for all targets."""
_MANY_TARGETS = 8
"""Of a request, for which rows are turned first."""


class _Arrays(NamedTuple):
    """`Histories` as loops read them."""

    parts: tuple[Floats, ...]
    query_RMD: Floats
    offset_R1: Integers


def best(
    histories: Histories, position_L: Tensor, factor: float, top_k: int
) -> tuple[Tensor, Tensor]:
    """As `jagged_gpu.best`; features are read as they come, unjoined."""
    parts, query_RMD, offset_R1 = histories
    shape = (*query_RMD.shape[:2], top_k)
    score_RMK, index_RMK = torch.empty(shape), torch.zeros(shape, dtype=torch.int64)
    arrays = _Arrays(
        tuple(part_ND.float().contiguous().numpy() for part_ND in parts),
        query_RMD.float().numpy(),
        offset_R1.numpy(),
    )
    columns = position_L.float().numpy(), np.float32(factor)
    given = arrays, *columns, score_RMK.numpy(), index_RMK.numpy()
    in_threads(_keep, offset_R1, given, fewest=_FEWEST_BEHAVIOURS)
    valid_RMK = torch.arange(top_k) < offset_R1.diff()[:, None, None]
    return index_RMK, valid_RMK.expand(shape)


@compiled_in_any_order
def _add_dots(score_B: Floats, part_ND: Floats, first: int, query_D: Floats) -> None:
    """Add a target's products with rows, from the first on: number by number of a row."""
    for b in range(score_B.size):
        total = np.float32(0.0)
        for d in range(query_D.size):
            total += part_ND[first + b, d] * query_D[d]
        score_B[b] += total


@compiled
def _turn(turned_DB: Floats, left: int, part_ND: Floats, first: int, size: int) -> None:
    """Some rows, from the first on, as columns, of which they fill a part."""
    for b in range(size):
        for d in range(part_ND.shape[1]):
            turned_DB[left + d, b] = part_ND[first + b, d]


@compiled
def _add_turned(score_B: Floats, turned_DB: Floats, query_D: Floats) -> None:
    """As `_add_dots`, for rows that have been turned: four of their numbers at a time."""
    fours = query_D.size // 4 * 4
    for d in range(0, fours, 4):
        one, two, three, four = query_D[d], query_D[d + 1], query_D[d + 2], query_D[d + 3]
        for b in range(score_B.size):
            score_B[b] += one * turned_DB[d, b] + two * turned_DB[d + 1, b]
            score_B[b] += three * turned_DB[d + 2, b] + four * turned_DB[d + 3, b]
    for d in range(fours, query_D.size):
        for b in range(score_B.size):
            score_B[b] += query_D[d] * turned_DB[d, b]


@compiled
def _better(score: np.float32, than: np.float32) -> bool:
    return bool(score > than or (np.isnan(score) and not np.isnan(than)))


@compiled
def _keep_best(score_B: Floats, begin: int, score_K: Floats, index_K: Integers) -> None:
    """Keep the K largest of all scores so far in order; of equal ones the first, NaN before all."""
    for b in range(score_B.size):
        score, column = score_B[b], begin + b
        place = min(column, score_K.size - 1)
        if column > place and not _better(score, score_K[place]):
            continue
        while place > 0 and _better(score, score_K[place - 1]):
            score_K[place], index_K[place] = score_K[place - 1], index_K[place - 1]
            place -= 1
        score_K[place], index_K[place] = score, column


@compiled
def _keep(
    begin: int,
    end: int,
    histories: _Arrays,
    position_L: Floats,
    factor: np.float32,
    score_RMK: Floats,
    index_RMK: Integers,
) -> None:
    parts, query_RMD, offset_R1 = histories
    _, targets, width = query_RMD.shape
    all_B = np.empty(_BLOCK, np.float32)
    turned_DB = np.empty((width, _BLOCK), np.float32)
    for request in range(begin, end):
        length = offset_R1[request + 1] - offset_R1[request]
        for start in range(0, length, _BLOCK):
            size, first = min(_BLOCK, length - start), offset_R1[request] + start
            score_B = all_B[:size]
            if targets >= _MANY_TARGETS:
                left = 0
                for part_ND in parts:
                    _turn(turned_DB, left, part_ND, first, size)
                    left += part_ND.shape[1]
            for target in range(targets):
                score_B[:] = 0.0
                if targets >= _MANY_TARGETS:
                    _add_turned(score_B, turned_DB, query_RMD[request, target])
                else:
                    left = 0
                    for part_ND in parts:
                        right = left + part_ND.shape[1]
                        _add_dots(score_B, part_ND, first, query_RMD[request, target, left:right])
                        left = right
                for b in range(size):
                    score_B[b] = factor * score_B[b] + position_L[start + b]
                _keep_best(score_B, start, score_RMK[request, target], index_RMK[request, target])
