"""Writes a dataset: parquet by split, row groups of even size, checksums, `schema.json` last."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.columns import features_of
from pipelines.ragged import flat, list_column, one_array, ranges
from pipelines.schema import (
    FEATURES,
    USER_LAYOUT,
    DatasetSchema,
    FileInfo,
    Layout,
    SplitInfo,
    TableInfo,
    layout_schema,
)

SPLITS = ("train", "val", "test")
BEHAVIOURS_PER_ROW_GROUP = 1 << 20
BEHAVIOURS_PER_FILE = 1 << 26
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def user_table(
    user: np.ndarray,
    life: Mapping[str, np.ndarray],
    life_offsets: np.ndarray,
    requests: Mapping[str, np.ndarray],
    request_offsets: np.ndarray,
    targets: Mapping[str, np.ndarray],
    target_offsets: np.ndarray,
) -> pa.Table:
    """Assemble rows of the `user` layout from flat arrays, without a Python object a row.

    Args:
        user: user ids, [U].
        life: `item`, `category`, `timestamp` and further features of all behaviours, oldest first
            in each life, [N].
        life_offsets: where each user's life starts, [U + 1].
        requests: `history_end` and `timestamp` of all requests, [R].
        request_offsets: where each user's requests start, [U + 1].
        targets: `item`, `category`, `label` and further features of all targets, [T].
        target_offsets: where each request's targets start, [R + 1].
    """
    more = [name for name in life if name not in USER_LAYOUT.names]
    entry = USER_LAYOUT.field("requests").type.value_type
    of_targets = [name for name in targets if entry.get_field_index(name) < 0]
    schema = layout_schema("user", more, of_targets)
    fields = list(schema.field("requests").type.value_type)
    entries = pa.StructArray.from_arrays(
        [
            list_column(pa.array(targets[field.name], field.type.value_type), target_offsets)
            if field.name in targets
            else pa.array(requests[field.name], field.type)
            for field in fields
        ],
        fields=fields,
    )
    columns = {"user_id": pa.array(user, pa.int64())}
    columns |= {n: list_column(pa.array(ids, pa.int64()), life_offsets) for n, ids in life.items()}
    columns["requests"] = list_column(entries, request_offsets)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def to_request_layout(table: pa.Table, history_length: int) -> pa.Table:
    """Rows of the `user` layout as rows of the `request` layout.

    Args:
        table: the `user` layout.
        history_length: behaviours a row keeps at most, the newest before its request.
    """
    _, life_offsets = flat(table["item"])
    entries, request_offsets = flat(table["requests"])
    owner = np.repeat(np.arange(table.num_rows), np.diff(request_offsets))
    end = entries.field("history_end").to_numpy().astype(np.int64)
    length = np.minimum(end, history_length)
    index = pa.array(ranges(life_offsets[owner] + end - length, length))
    offsets = np.concatenate([[0], np.cumsum(length)])
    columns = {"user_id": one_array(table["user_id"]).take(pa.array(owner))}
    features = features_of(table.schema, "user")
    for name in ("item", "category", "timestamp", *features):
        values, _ = flat(table[name])
        columns[f"history_{name}"] = list_column(values.take(index), offsets)
    of_targets = [name for name in features if entries.type.get_field_index(name) >= 0]
    for name in ("timestamp", "item", "category", "label", *of_targets):
        columns[name] = entries.field(name)
    schema = layout_schema("request", features, of_targets)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


class SplitStatistics:
    """Counts the requests of a split."""

    def __init__(self) -> None:
        self._targets = self._positives = 0
        self._lengths: list[np.ndarray] = []

    def add(self, history_length: np.ndarray, label: np.ndarray) -> None:
        """Count requests.

        Args:
            history_length: behaviours before each request that the files hold, [R].
            label: of their targets, [T].
        """
        self._targets += label.size
        self._positives += int((label > 0.5).sum())
        self._lengths.append(history_length.astype(np.int32))

    def info(self, files: list[FileInfo]) -> SplitInfo:
        """What `schema.json` says of the split."""
        lengths = np.concatenate([*self._lengths, np.zeros(0, np.int32)])
        stats = {"mean": float(lengths.mean()) if lengths.size else 0.0}
        for name, q in _QUANTILES.items():
            stats[name] = float(np.quantile(lengths, q)) if lengths.size else 0.0
        return SplitInfo(
            rows=sum(file.rows for file in files),
            requests=lengths.size,
            targets=self._targets,
            positives=self._positives,
            history_length=stats,
            files=files,
        )


class DatasetWriter:
    """Takes rows of the `user` layout and leaves a dataset in either layout.

    Args:
        folder: where `train/ val/ test/ schema.json` go.
        layout: the layout to leave on disk.
        history_length: with the `request` layout, behaviours a row keeps at most.
        features: further features of behaviours.
        target_features: those of them that targets have.

    Raises:
        ValueError: the folder already holds a dataset.
    """

    def __init__(
        self,
        folder: str,
        *,
        layout: Layout = "user",
        history_length: int = 200,
        features: Sequence[str] = (),
        target_features: Sequence[str] = (),
    ) -> None:
        if storage.exists(storage.join(folder, "schema.json")):
            raise ValueError(f"--out is {folder}, which already holds a dataset; choose another")
        self.folder = folder
        self.layout: Layout = layout
        self._history_length = history_length
        columns = layout_schema(layout, features, target_features)
        self._splits = {name: _SplitWriter(folder, name, layout, columns) for name in SPLITS}
        self._largest = dict.fromkeys((*FEATURES, *features), 0)

    def add(self, split: str, table: pa.Table) -> None:
        """Append rows of the `user` layout to a split."""
        if table.num_rows == 0:
            return
        entries, _ = flat(table["requests"])
        for name in self._largest:
            columns = [table[name]]
            if entries.type.get_field_index(name) >= 0:
                columns.append(entries.field(name))
            for values in (flat(column)[0] for column in columns):
                if len(values):
                    self._largest[name] = max(self._largest[name], int(values.to_numpy().max()))
        writer = self._splits[split]
        is_cut = self.layout == "request"
        writer.count(entries, self._history_length if is_cut else None)
        writer.write(to_request_layout(table, self._history_length) if is_cut else table)

    def close(
        self,
        *,
        source: str,
        seed: int,
        protocol: dict[str, Any],
        distinct: dict[str, int],
        counts: dict[str, Any] | None = None,
        oracle: dict[str, float] | None = None,
        rows: dict[str, int] | None = None,
    ) -> DatasetSchema:
        """Finish the files, write `schema.json`, and return what it says.

        Args:
            source: which preparation this is.
            seed: of every random choice.
            protocol: every option, by its command line name.
            distinct: different ids by table.
            counts: what was read, kept and dropped.
            oracle: best possible AUC by split.
            rows: table sizes, where ids that do not occur here must still fit.
        """
        sizes = rows or {name: largest + 1 for name, largest in self._largest.items()}
        schema = DatasetSchema(
            source=source,
            layout=self.layout,
            seed=seed,
            protocol=protocol,
            tables={n: TableInfo(rows=sizes[n], distinct=distinct[n]) for n in sizes},
            splits={name: split.close() for name, split in self._splits.items()},
            counts=counts or {},
            oracle=oracle or {},
        )
        schema.save(storage.join(self.folder, "schema.json"))
        return schema


class _SplitWriter:
    def __init__(self, folder: str, name: str, layout: Layout, columns: pa.Schema) -> None:
        self._folder, self._name, self._layout, self._columns = folder, name, layout, columns
        self._files: list[tuple[str, int]] = []
        self._writer: pq.ParquetWriter | None = None
        self._stream: Any = None
        self._behaviours_in_file = 0
        self._statistics = SplitStatistics()
        storage.make_folder(storage.join(folder, name))

    def count(self, entries: pa.StructArray, longest: int | None) -> None:
        """Count requests; of longer histories only the `longest` newest are written."""
        label = flat(entries.field("label"))[0].to_numpy()
        # As int64, since `longest` may be above all of the int32 that it is compared with.
        length = entries.field("history_end").to_numpy().astype(np.int64)
        self._statistics.add(length if longest is None else np.minimum(length, longest), label)

    def write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._open()
        assert self._writer is not None
        lives = "item" if self._layout == "user" else "history_item"
        behaviours = max(1, len(flat(table[lives])[0]))
        rows = max(1, table.num_rows * BEHAVIOURS_PER_ROW_GROUP // behaviours)
        self._writer.write_table(table, row_group_size=rows)
        path, written = self._files[-1]
        self._files[-1] = (path, written + table.num_rows)
        self._behaviours_in_file += behaviours
        if self._behaviours_in_file >= BEHAVIOURS_PER_FILE:
            self._finish_file()

    def _open(self) -> None:
        path = f"{self._name}/part-{len(self._files):05d}.parquet"
        self._files.append((path, 0))
        self._stream = storage.open_file(storage.join(self._folder, path), "wb")
        self._writer = pq.ParquetWriter(
            self._stream,
            self._columns,
            compression="zstd",
            use_dictionary=False,
            # Bytes that are alike come together: zstd packs them smaller, and in half the time.
            use_byte_stream_split=True,
        )
        self._behaviours_in_file = 0

    def _finish_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._stream.close()
            self._writer = None

    def close(self) -> SplitInfo:
        if not self._files:
            self._open()
        self._finish_file()
        return self._statistics.info(
            [file_info(self._folder, path, rows) for path, rows in self._files]
        )


def file_info(folder: str, path: str, rows: int) -> FileInfo:
    """A file of a dataset, with its checksum.

    Args:
        folder: of the dataset.
        path: of the file in it.
        rows: of the file.
    """
    with storage.open_file(storage.join(folder, path), "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return FileInfo(path=path, rows=rows, sha256=digest.hexdigest())
