"""Parquet files: which rows there are, and rows as tables, with a line for what is wrong."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.columns import check_columns
from pipelines.schema import Layout

_OF_FILES = (
    None,
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP),
)
"""What is wrong with a file, not with its storage."""


@dataclass(frozen=True)
class RowRange:
    """Rows `start` to `stop` of one row group of a file."""

    path: str
    row_group: int
    first_row: int
    """Number in the file of the row group's first row."""
    start: int
    stop: int


def list_row_groups(pattern: str, layout: Layout, features: Sequence[str] = ()) -> list[RowRange]:
    """Read the footers of all files of a split.

    Args:
        pattern: a file, a folder or a glob.
        layout: the columns to expect.
        features: further features to expect.

    Returns:
        Whole row groups, by file name and place.

    Raises:
        ValueError: no file, not a parquet file, or columns that do not fit.
        OSError: its storage failed.
    """
    groups = []
    for path in storage.find(pattern):
        with _opened(path) as footer:
            check_columns(footer.schema_arrow, layout, path, features)
            first_row = 0
            for number in range(footer.metadata.num_row_groups):
                rows = footer.metadata.row_group(number).num_rows
                groups.append(RowRange(path, number, first_row, 0, rows))
                first_row += rows
    return groups


@contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    """A parquet file whose footer is read; what goes wrong with it, also later, is a line."""
    try:
        with storage.open_file(path, "rb") as stream:
            yield pq.ParquetFile(stream)
    except (pa.ArrowException, OSError) as error:
        # A reader of a running job meets this too, and training can go on where it stopped.
        if _may_heal(error):
            raise OSError(
                f"{path} could not be read: {_reason(error)}; see to its storage"
            ) from error
        raise ValueError(
            f"{path} is not a readable parquet file: {_reason(error)}; "
            "put the whole file there, or take it away and describe the data anew"
        ) from error


def _may_heal(error: Exception) -> bool:
    """Whether storage failed, which may answer when it is asked again; Arrow has no errno."""
    return isinstance(error, OSError) and error.errno not in _OF_FILES


def _reason(error: Exception) -> str:
    """What Arrow or the disk says, in one line."""
    disk = error.strerror if isinstance(error, OSError) else None
    return (disk or " ".join(str(error).split())).rstrip(".")


def shuffled(groups: list[RowRange], seed: int) -> list[RowRange]:
    """The row groups of all files in the order of an epoch, files and row groups shuffled alike."""
    order = np.random.default_rng(seed).permutation(len(groups))
    return [groups[index] for index in order]


def read_rows(
    rows: RowRange, columns: list[str], layout: Layout, features: Sequence[str] = ()
) -> pa.Table:
    """Read some rows.

    Args:
        rows: which.
        columns: that are read.
        layout: what the file must have.
        features: further features that it must have.

    Raises:
        ValueError: the file is damaged, gone, or another than when its row groups were listed.
        OSError: its storage failed.
    """
    with _opened(rows.path) as file:
        # It may be another than when the row groups were listed.
        check_columns(file.schema_arrow, layout, rows.path, features)
        held = file.metadata.num_row_groups
        size = file.metadata.row_group(rows.row_group).num_rows if rows.row_group < held else 0
        if size < rows.stop:
            raise ValueError(
                f"{rows.path} is not the file that it was: its row group {rows.row_group} had "
                f"{rows.stop} rows or more and has {size}; put it back, or start a new run"
            )
        try:
            table = file.read_row_group(rows.row_group, columns=columns)
        except (pa.ArrowException, OSError) as error:
            if _may_heal(error):
                raise  # As of the whole file.
            raise ValueError(
                f"{rows.path} row group {rows.row_group}: {_reason(error)}; "
                "put the whole file there"
            ) from error
    if rows.stop - rows.start == size:
        return table
    # A copy, not a slice, which would keep the whole group.
    return table.take(pa.array(range(rows.start, rows.stop)))
