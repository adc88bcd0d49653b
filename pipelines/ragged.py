"""List columns as flat arrays and offsets: no Python object a row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def flat(column: pa.ChunkedArray | pa.Array) -> tuple[pa.Array, np.ndarray]:
    """A list column as flat values and int64 offsets that start at 0, without copies of values."""
    array = one_array(column)
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
    return values, offsets - offsets[0]


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The same values in one piece; copied only where they lie in several."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def list_column(values: np.ndarray | pa.Array, offsets: np.ndarray) -> pa.ListArray:
    """Flat values and offsets as a list column."""
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def ranges(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Indices of many slices after each other: `start[i] .. start[i] + length[i]`."""
    before = np.cumsum(length) - length
    return np.repeat(start - before, length) + np.arange(int(length.sum()))


def backward_ranges(end: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Indices of many slices after each other: `end[i] - 1` down to `end[i] - length[i]`."""
    before = np.cumsum(length) - length
    return np.repeat(end - 1 + before, length) - np.arange(int(length.sum()))
