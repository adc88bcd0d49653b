"""The different rows that a batch's ids name, by a radix sort that is compiled for the processor.

Ids are whole numbers below the rows of a table, so a few passes over short digits order them, where
a sort that compares or that knows no bound takes twice as long and more. Letters: N ids, U
different rows, P digits, B values of a digit, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modules.compiling import compiled

Integers = npt.NDArray[np.int64]

_DIGIT = 9
"""Bits of a digit at most: with more values, places being written do not fit the nearest cache."""


class NamedRows(NamedTuple):
    """The different rows that ids name, and where each one's ids are."""

    row_U: Tensor
    """Increasing."""
    start_U1: Tensor
    """Where each row's ids start in `order_N`, with the total at the end."""
    order_N: Tensor
    """Places of the ids, row by row, and in their order within a row."""


def named_rows(row_N: Tensor, rows: int) -> NamedRows:
    """Sort ids by the row that they name.

    Args:
        row_N: int64 row of each id, on the CPU.
        rows: of the table; all ids are below.
    """
    ids, bits = row_N.numel(), max(1, (rows - 1).bit_length())
    digits = -(-bits // _DIGIT)
    start_PB = np.zeros((digits, 1 << -(-bits // digits)), np.int64)
    # Passes go to and fro.
    keys = torch.empty(ids, dtype=torch.int64), torch.empty(ids, dtype=torch.int64)
    place_bits = ids.bit_length()
    _order(row_N.contiguous().numpy(), place_bits, start_PB, *(key_N.numpy() for key_N in keys))
    row_U, order_N = torch.empty_like(keys[0]), keys[digits % 2]
    start_U1 = torch.empty(ids + 1, dtype=torch.int64)
    sorted_N = keys[1 - digits % 2].numpy()
    found = _cut(sorted_N, place_bits, row_U.numpy(), start_U1.numpy(), order_N.numpy())
    return NamedRows(row_U[:found], start_U1[: found + 1], order_N)


def sum_ids(named: NamedRows, grad_ND: Tensor) -> Tensor:
    """Sum the gradients of the ids of each row.

    Args:
        named: the rows of the batch.
        grad_ND: the gradient of each id.

    Returns:
        grad_UD.
    """
    return torch.nn.functional.embedding_bag(
        named.order_N, grad_ND, named.start_U1[:-1], mode="sum"
    )


@compiled
def _order(
    row_N: Integers, place_bits: int, start_PB: Integers, one_N: Integers, other_N: Integers
) -> None:
    """Order keys, an id's row above its place, by one digit of the row after the other.

    Args:
        row_N: of each id.
        place_bits: of a place.
        start_PB: zeros, by digit, the lowest first, and its value.
        one_N: keys after the first pass, the third and so on.
        other_N: after the second, the fourth and so on.
    """
    digits, values = start_PB.shape
    bits = 0
    while 1 << bits < values:
        bits += 1
    for row in row_N:
        for digit in range(digits):
            start_PB[digit, (row >> (digit * bits)) & (values - 1)] += 1
    for digit in range(digits):
        total = 0
        for value in range(values):
            count = start_PB[digit, value]
            start_PB[digit, value] = total
            total += count
    for place in range(row_N.size):
        row = row_N[place]
        one_N[start_PB[0, row & (values - 1)]] = (row << place_bits) | place
        start_PB[0, row & (values - 1)] += 1
    for digit in range(1, digits):
        source_N, target_N = (one_N, other_N) if digit % 2 else (other_N, one_N)
        shift, start_B = place_bits + digit * bits, start_PB[digit]
        for key in source_N:
            value = (key >> shift) & (values - 1)
            target_N[start_B[value]] = key
            start_B[value] += 1


@compiled
def _cut(
    key_N: Integers, place_bits: int, row_U: Integers, start_U1: Integers, order_N: Integers
) -> int:
    """Write each row once, where it starts, and all places; how many rows they are."""
    found, before = 0, -1
    for number in range(key_N.size):
        row = key_N[number] >> place_bits
        order_N[number] = key_N[number] & ((1 << place_bits) - 1)
        if row != before:
            row_U[found], start_U1[found], before = row, number, row
            found += 1
    start_U1[found] = key_N.size
    return found
