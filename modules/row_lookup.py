"""Copying the rows of a table that ids name, compiled for the processor.

A table that no cache holds is waited for row by row, unless rows are asked for ahead: 411,648 rows
of 16 numbers of a table of 4 million take 2.5 ms of two threads instead of 6.8 (docs/LOG.md).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modules.compiling import compiled
from modules.prefetch import AHEAD, ask_for_row
from modules.threads import each_in_threads

_IN_CACHE = 1 << 20
"""Numbers of a table up to which torch copies faster; 4 MiB."""
_FEWEST_IDS = 4096
"""That are worth a thread of their own."""


def look_up(weight: Tensor, row_N: Tensor, found_ND: Tensor) -> None:
    """Copy rows.

    Args:
        weight: the table, contiguous, [rows, D].
        row_N: int64 row of each id.
        found_ND: where they go, contiguous, of the table's type.

    Raises:
        IndexError: an id is outside the table.
    """
    if weight.numel() <= _IN_CACHE or weight.dtype != torch.float32:
        torch.index_select(weight, 0, row_N, out=found_ND)
        return
    wrong = np.full(1, -1)
    given = weight.numpy(), row_N.contiguous().numpy(), found_ND.numpy(), wrong
    each_in_threads(_copy, row_N.numel(), given, fewest=_FEWEST_IDS)
    if wrong[0] >= 0:
        raise IndexError(f"id {row_N[wrong[0]]} is outside its table of {len(weight)} rows")


@compiled
def _copy(
    begin: int,
    end: int,
    weight: npt.NDArray[np.float32],
    row_N: npt.NDArray[np.int64],
    found_ND: npt.NDArray[np.float32],
    wrong: npt.NDArray[np.int64],
) -> None:
    """Copy some ids' rows; the place of one that is outside is written down, if there is any."""
    rows, width = weight.shape
    for number in range(begin, end):
        ask_for_row(weight, row_N[min(number + AHEAD, end - 1)], width)
        row = row_N[number]
        if row < 0 or row >= rows:
            wrong[0] = number
            return
        for d in range(width):
            found_ND[number, d] = weight[row, d]
