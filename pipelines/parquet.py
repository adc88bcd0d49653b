"""Row groups: which rows there are, and rows to requests in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.batch import Requests
from pipelines.ragged import flat
from pipelines.schema import Layout, check_columns

IdMode = Literal["check", "hash"]
_COLUMNS: dict[Layout, list[str]] = {
    "user": ["user_id", "item", "category", "requests"],
    "request": ["user_id", "history_item", "history_category", "item", "category", "label"],
}


@dataclass(frozen=True)
class RowRange:
    """Rows `start` to `stop` of one row group of a file."""

    path: str
    row_group: int
    first_row: int
    """Number in the file of the row group's first row."""
    start: int
    stop: int


@dataclass(frozen=True)
class IdRules:
    """How ids become rows of a table."""

    rows: dict[str, int]
    """Rows of the `item` and of the `category` table."""
    mode: IdMode | Literal["as_is"]
    """`check`: an id outside the table is an error. `hash`: ids are hashed into it. `as_is`: ids
    are left alone, to be counted."""


def list_row_groups(pattern: str, layout: Layout) -> list[RowRange]:
    """Read the footers of all files of a split.

    Args:
        pattern: a file, a folder or a glob.
        layout: the columns to expect.

    Returns:
        Whole row groups, by file name and place.

    Raises:
        ValueError: no file, not a parquet file, or columns that do not fit.
    """
    groups = []
    for path in storage.find(pattern):
        with storage.open_file(path, "rb") as stream:
            try:
                footer = pq.ParquetFile(stream)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{path} is not a readable parquet file: {error}") from error
            check_columns(footer.schema_arrow, layout, path)
            first_row = 0
            for number in range(footer.metadata.num_row_groups):
                rows = footer.metadata.row_group(number).num_rows
                groups.append(RowRange(path, number, first_row, 0, rows))
                first_row += rows
    return groups


def shuffled(groups: list[RowRange], seed: int) -> list[RowRange]:
    """The row groups of all files in the order of an epoch, files and row groups shuffled alike."""
    order = np.random.default_rng(seed).permutation(len(groups))
    return [groups[index] for index in order]


def read_requests(rows: RowRange, *, layout: Layout, history_length: int, ids: IdRules) -> Requests:
    """Read some rows as requests; those without targets teach and score nothing and are left out.

    Args:
        rows: which.
        layout: their columns.
        history_length: behaviours a history has at most, the newest.
        ids: how ids become table rows.

    Raises:
        ValueError: an id outside its table, lists of unequal length, a null, a history that ends
            beyond the life; named with file and row. Or the file is damaged.
    """
    with storage.open_file(rows.path, "rb") as stream:
        try:
            table = pq.ParquetFile(stream).read_row_group(rows.row_group, columns=_COLUMNS[layout])
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{rows.path} row group {rows.row_group}: {error}") from error
    table = table.slice(rows.start, rows.stop - rows.start)
    reader = _RowReader(rows, ids)
    read = reader.users if layout == "user" else reader.requests
    return read(table, history_length).with_targets()


class _RowReader:
    """Turns the columns of one row range into flat arrays, and names rows that are wrong."""

    def __init__(self, rows: RowRange, ids: IdRules) -> None:
        self.rows, self.ids = rows, ids

    def users(self, table: pa.Table, history_length: int) -> Requests:
        every = np.arange(table.num_rows)
        item, category, life = self._pair(table, "item", "category", every)
        entries, first_request = self._list(table["requests"], "requests", every)
        owner = np.repeat(every, np.diff(first_request))
        target_item, target_category, target_offset = self._pair(entries, "item", "category", owner)
        label = self._label(entries, target_offset, owner)
        length = self._numbers(entries.field("history_end"), "requests.history_end", owner)
        bad = (length < 0) | (length > np.diff(life)[owner])
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise self._error(
                owner[at],
                f"requests.history_end is {length[at]}, the life has "
                f"{np.diff(life)[owner[at]]} behaviours; it counts those before the request",
            )
        user = self._numbers(table["user_id"], "user_id", every)
        end = life[owner] + length
        return Requests(
            history_item=item,
            history_category=category,
            start=end - np.minimum(length, history_length),
            end=end,
            user=user[owner],
            target_offset=target_offset,
            target_item=target_item,
            target_category=target_category,
            label=label,
        )

    def requests(self, table: pa.Table, history_length: int) -> Requests:
        every = np.arange(table.num_rows)
        item, category, life = self._pair(table, "history_item", "history_category", every)
        target_item, target_category, target_offset = self._pair(table, "item", "category", every)
        return Requests(
            history_item=item,
            history_category=category,
            start=np.maximum(life[:-1], life[1:] - history_length),
            end=life[1:],
            user=self._numbers(table["user_id"], "user_id", every),
            target_offset=target_offset,
            target_item=target_item,
            target_category=target_category,
            label=self._label(table, target_offset, every),
        )

    def _pair(
        self, source: pa.Table | pa.StructArray, item: str, category: str, owner: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids of items and categories, which must be equally many in every entry."""
        found = {}
        for kind, field in (("item", item), ("category", category)):
            column, name = _field(source, field)
            values, offsets = self._list(column, name, owner)
            numbers = self._numbers(values, name, owner, offsets)
            found[kind] = (self._to_rows(numbers, kind, name, owner, offsets), offsets)
        (items, offsets), (categories, others) = found["item"], found["category"]
        names = _field(source, item)[1], _field(source, category)[1]
        self._same_length(offsets, others, *names, owner)
        return items, categories, offsets

    def _label(
        self, source: pa.Table | pa.StructArray, target_offset: np.ndarray, owner: np.ndarray
    ) -> np.ndarray:
        column, name = _field(source, "label")
        values, offsets = self._list(column, name, owner)
        self._same_length(target_offset, offsets, _field(source, "item")[1], name, owner)
        label = self._numbers(values, name, owner, offsets).astype(np.float32)
        bad = ~((label >= 0) & (label <= 1))
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            row = owner[np.searchsorted(offsets, at, side="right") - 1]
            raise self._error(row, f"{name} is {label[at]}; it must be from 0 to 1")
        return label

    def _list(
        self, column: pa.ChunkedArray | pa.Array, name: str, owner: np.ndarray
    ) -> tuple[pa.Array, np.ndarray]:
        if column.null_count:
            at = int(np.flatnonzero(pc.is_null(column).to_numpy(zero_copy_only=False))[0])
            raise self._error(owner[at], f"{name} is null; an empty list is allowed, null is not")
        return flat(column)

    def _numbers(
        self,
        column: pa.ChunkedArray | pa.Array,
        name: str,
        owner: np.ndarray,
        offsets: np.ndarray | None = None,
    ) -> np.ndarray:
        if column.null_count:
            at = int(np.flatnonzero(pc.is_null(column).to_numpy(zero_copy_only=False))[0])
            entry = at if offsets is None else int(np.searchsorted(offsets, at, side="right")) - 1
            raise self._error(owner[entry], f"{name} has a null; every entry needs a value")
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        values: np.ndarray = column.to_numpy(zero_copy_only=False)
        return values.astype(np.int64) if values.dtype.kind in "iu" else values

    def _to_rows(
        self, ids: np.ndarray, kind: str, name: str, owner: np.ndarray, offsets: np.ndarray
    ) -> np.ndarray:
        if self.ids.mode == "as_is":
            return ids
        rows = self.ids.rows[kind]
        if self.ids.mode == "hash":
            return hash_ids(ids, rows)
        bad = (ids < 0) | (ids >= rows)
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            row = owner[np.searchsorted(offsets, at, side="right") - 1]
            raise self._error(
                row,
                f"{name} has id {ids[at]}, the {kind} table has {rows} rows; ids go from 0 to "
                f"{rows - 1}: raise data.{kind}_rows or set data.ids to hash",
            )
        return ids

    def _same_length(
        self, left: np.ndarray, right: np.ndarray, a: str, b: str, owner: np.ndarray
    ) -> None:
        bad = np.diff(left) != np.diff(right)
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise self._error(
                owner[at],
                f"{a} has {np.diff(left)[at]} entries, {b} {np.diff(right)[at]}; "
                "they must be equally long",
            )

    def _error(self, row: int, problem: str) -> ValueError:
        number = self.rows.first_row + self.rows.start + int(row)
        return ValueError(f"{self.rows.path} row {number}: {problem}")


def _field(source: pa.Table | pa.StructArray, name: str) -> tuple[pa.ChunkedArray | pa.Array, str]:
    """A column, and what to call it in a message."""
    if isinstance(source, pa.Table):
        return source[name], name
    return source.field(name), f"requests.{name}"


def hash_ids(ids: np.ndarray, rows: int) -> np.ndarray:
    """Spread any 64-bit ids over rows 1 .. rows - 1; row 0 stays free.

    Source: the finaliser of splitmix64 (Steele et al., OOPSLA 2014).
    """
    mixed = ids.astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed % np.uint64(rows - 1)).astype(np.int64) + 1
