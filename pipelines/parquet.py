"""Rows of parquet files to requests in memory."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.ids import IdRules, hash_feature, rows_option
from pipelines.interval import Clock
from pipelines.ragged import flat, one_array
from pipelines.requests import Requests
from pipelines.row_groups import RowRange, read_rows
from pipelines.schema import FEATURES, INTERVAL, Layout, history_column

_LARGEST = np.iinfo(np.int64).max


def columns_of(layout: Layout, ids: IdRules) -> list[str]:
    """Columns that are read; a file need not have the targets' ids of further features."""
    history = [history_column(layout, name) for name in ids.on_disk]
    history += [history_column(layout, "timestamp")] if INTERVAL in ids.rows else []
    if layout == "user":
        return ["user_id", *history, "requests"]
    return ["user_id", *history, *ids.on_disk, "label", *(["timestamp"] * (INTERVAL in ids.rows))]


def read_requests(rows: RowRange, *, layout: Layout, history_length: int, ids: IdRules) -> Requests:
    """Read some rows as requests; those without targets teach and score nothing and are left out.

    Args:
        rows: which.
        layout: their columns.
        history_length: behaviours a history has at most, the newest.
        ids: how ids become table rows.

    Raises:
        ValueError: an id outside its table, lists of unequal length, a null, a history that ends
            beyond the life; named with file and row. Or the file is damaged, gone, or another.
    """
    further = [name for name in ids.on_disk if name not in FEATURES]
    table = read_rows(rows, columns_of(layout, ids), layout, further)
    reader = _RowReader(rows, ids)
    read = reader.users if layout == "user" else reader.requests
    return read(table, history_length).with_targets()


class _RowReader:
    """Turns the columns of one row range into flat arrays, and names rows that are wrong."""

    def __init__(self, rows: RowRange, ids: IdRules) -> None:
        self.rows, self.ids = rows, ids

    def users(self, table: pa.Table, history_length: int) -> Requests:
        every = np.arange(table.num_rows)
        history, life = self._ids(table, "", every)
        entries, first_request = self._list(table["requests"], "requests", every)
        owner = np.repeat(every, np.diff(first_request))
        target, target_offset = self._ids(entries, "", owner)
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
            history=history,
            start=end - np.minimum(length, history_length),
            end=end,
            user=user[owner],
            target_offset=target_offset,
            target=target,
            label=label,
            clock=self._clock(table, "timestamp", life, entries, owner),
        )

    def requests(self, table: pa.Table, history_length: int) -> Requests:
        every = np.arange(table.num_rows)
        history, life = self._ids(table, "history_", every)
        target, target_offset = self._ids(table, "", every)
        return Requests(
            history=history,
            start=np.maximum(life[:-1], life[1:] - history_length),
            end=life[1:],
            user=self._numbers(table["user_id"], "user_id", every),
            target_offset=target_offset,
            target=target,
            label=self._label(table, target_offset, every),
            clock=self._clock(table, "history_timestamp", life, table, every),
        )

    def _ids(
        self, source: pa.Table | pa.StructArray, prefix: str, owner: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Ids by feature, equally many of each in every entry; 0 of a feature targets lack."""
        found: dict[str, np.ndarray] = {}
        first, first_name = np.zeros(0, np.int64), ""
        for feature in self.ids.on_disk:
            if feature not in FEATURES and not _has(source, prefix + feature):
                found[feature] = np.zeros(first[-1], np.int64)
                continue
            column, name = _field(source, prefix + feature)
            values, offsets = self._list(column, name, owner)
            numbers = self._numbers(values, name, owner, offsets)
            found[feature] = self._to_rows(numbers, feature, name, owner, offsets)
            if first_name:
                self._same_length(first, offsets, first_name, name, owner)
            else:
                first, first_name = offsets, name
        return found, first

    def _clock(
        self,
        table: pa.Table,
        column: str,
        life: np.ndarray,
        entries: pa.Table | pa.StructArray,
        owner: np.ndarray,
    ) -> Clock | None:
        """Timestamps of behaviours, a column of the table, and of requests, where they are read."""
        if INTERVAL not in self.ids.rows:
            return None
        every = np.arange(table.num_rows)
        values, offsets = self._list(table[column], column, every)
        item = column.replace("timestamp", "item")
        self._same_length(life, offsets, item, column, every)
        return Clock(
            behaviour=self._numbers(values, column, every, offsets),
            request=self._numbers(*_field(entries, "timestamp"), owner),
            unit=self.ids.interval_unit,
            buckets=self.ids.rows[INTERVAL] - 1,
        )

    def _label(
        self, source: pa.Table | pa.StructArray, target_offset: np.ndarray, owner: np.ndarray
    ) -> np.ndarray:
        column, name = _field(source, "label")
        values, offsets = self._list(column, name, owner)
        self._same_length(target_offset, offsets, _field(source, "item")[1], name, owner)
        label = self._numbers(values, name, owner, offsets)
        bad = ~((label >= 0) & (label <= 1))
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            row = owner[np.searchsorted(offsets, at, side="right") - 1]
            raise self._error(row, f"{name} is {label[at]}; it must be from 0 to 1")
        return label.astype(np.float32)

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
        values: np.ndarray = one_array(column).to_numpy(zero_copy_only=False)
        if values.dtype == np.uint64 and values.size and values.max() > _LARGEST:
            at = int(np.flatnonzero(values > _LARGEST)[0])
            entry = at if offsets is None else int(np.searchsorted(offsets, at, side="right")) - 1
            raise self._error(
                owner[entry], f"{name} has {values[at]}; integers go to {_LARGEST}: make them int64"
            )
        return values.astype(np.int64, copy=False) if values.dtype.kind in "iu" else values

    def _to_rows(
        self, ids: np.ndarray, kind: str, name: str, owner: np.ndarray, offsets: np.ndarray
    ) -> np.ndarray:
        if self.ids.mode == "as_is":
            return ids
        rows = self.ids.rows[kind]
        if self.ids.mode == "hash":
            return hash_feature(kind, ids, rows)
        # One pass over good ids: read as unsigned, a negative one is large.
        if ids.size and ids.view(np.uint64).max() >= rows:
            at = int(np.flatnonzero((ids < 0) | (ids >= rows))[0])
            row = owner[np.searchsorted(offsets, at, side="right") - 1]
            raise self._error(
                row,
                f"{name} has id {ids[at]}, the {kind} table has {rows} rows; ids go from 0 to "
                f"{rows - 1}: raise data.{rows_option(kind)} or set data.ids to hash",
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


def _has(source: pa.Table | pa.StructArray, name: str) -> bool:
    if isinstance(source, pa.Table):
        return name in source.column_names
    return bool(source.type.get_field_index(name) >= 0)


def _field(source: pa.Table | pa.StructArray, name: str) -> tuple[pa.ChunkedArray | pa.Array, str]:
    """A column, and what to call it in a message."""
    if isinstance(source, pa.Table):
        return source[name], name
    return source.field(name), f"requests.{name}"
