"""An event log on disk: rows in, ids from 1 by first appearance, lives out, in bounded memory.

DuckDB sorts and groups; whatever it spills stays in one folder. Every statement has one possible
answer, so that the number of threads changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage

Order = Literal["time", "file"]

_log = logging.getLogger(__name__)
_BATCH_ROWS = 1 << 18
_MOST_GB, _MOST_THREADS = 1_000_000, 1024
_TABLES = ("user", "item", "category")
_COLUMNS = (*_TABLES, "event", "time")
_OF_ITEMS = "arg_max(category, line) AS category, min(category) <> max(category) AS two_categories"
RESERVED = ("line", *_COLUMNS)
"""Names of columns that no feature can have."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a preparation may take of the machine; the data does not depend on it.

    Raises:
        ValueError: an option is out of range.
    """

    memory_gb: float = 3.0
    """GB (10^9 bytes) the event store may hold before it spills; the rest takes about 1 GB."""
    threads: int = 0
    """Of the event store; 0: one a core."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.memory_gb <= _MOST_GB or not 0 <= self.threads <= _MOST_THREADS:
            raise ValueError(
                f"--resources are memory_gb {self.memory_gb} and threads {self.threads}; "
                f"from 0.5 to {_MOST_GB} and from 0 to {_MOST_THREADS} are needed"
            )


DEFAULT_RESOURCES = Resources()


class EventStore:
    """Collects events, then hands out ids and lives.

    Args:
        folder: local folder for everything on disk; the caller removes it.
        resources: what it may take.
        features: further features of events, by lower-case names other than `RESERVED`.
    """

    def __init__(self, folder: str, resources: Resources, features: Sequence[str] = ()) -> None:
        self._features = tuple(features)
        self._columns = ", ".join(_quoted(name) for name in (*_COLUMNS, *features))
        self._connection = duckdb.connect(storage.join(folder, "events.duckdb"))
        self._run("SET memory_limit = ?", f"{resources.memory_gb}GB")
        self._run("SET temp_directory = ?", storage.join(folder, "spill"))
        self._run("SET preserve_insertion_order = false")
        if resources.threads:
            self._run("SET threads = ?", resources.threads)
        self._empty = True

    def close(self) -> None:
        """Let go of the folder."""
        self._connection.close()

    def _run(self, statement: str, *values: Any) -> list[Any]:
        # A result must be fetched before the connection takes its next statement.
        return self._connection.execute(statement, list(values)).fetchall()

    def _numpy(self, statement: str) -> dict[str, np.ndarray]:
        return self._connection.execute(statement).fetchnumpy()

    def add(self, events: Mapping[str, Any]) -> None:
        """Append events.

        Args:
            events: `line` (unique), `user`, `item`, `category`, `event`, `time` and the features,
                one value a row.
        """
        self._connection.register("batch", pa.table(dict(events)))
        verb = "CREATE TABLE events AS" if self._empty else "INSERT INTO events"
        self._run(f"{verb} SELECT line, {self._columns} FROM batch")
        self._connection.unregister("batch")
        self._empty = False

    def num_events(self) -> int:
        """Events held now."""
        return 0 if self._empty else int(self._run("SELECT count(*) FROM events")[0][0])

    def count_repeated(self) -> int:
        """Events that equal an earlier one in everything but the line."""
        distinct = f"SELECT DISTINCT {self._columns} FROM events"
        return self.num_events() - int(self._run(f"SELECT count(*) FROM ({distinct})")[0][0])

    def drop_repeated(self) -> None:
        """Keep only the first of equal events."""
        self._run(
            f"CREATE TABLE once AS SELECT min(line) AS line, {self._columns} "
            f"FROM events GROUP BY {self._columns}"
        )
        self._run("DROP TABLE events")
        self._run("ALTER TABLE once RENAME TO events")

    def number_ids(self) -> None:
        """Give users, items, categories and features ids from 1 by first appearance in the file."""
        for name in (*_TABLES, *self._features):
            _log.info("numbering %s ids", name)
            found = "min(line) AS first_line, count(*) AS clicks"
            found += f", {_OF_ITEMS}" if name == "item" else ""
            self._run(
                f"CREATE TABLE {name}_ids AS "
                f"SELECT row_number() OVER (ORDER BY first_line) AS id, * EXCLUDE first_line FROM "
                f"(SELECT {_quoted(name)} AS raw, {found} FROM events GROUP BY {_quoted(name)})"
            )

    def write_ids(self, folder: str) -> None:
        """Write `<folder>/{user,item,category,...}.parquet`: `id`, the `raw` id, `clicks`."""
        storage.make_folder(folder)
        for name in (*_TABLES, *self._features):
            reader = self._connection.sql(
                f"SELECT id, raw, clicks FROM {name}_ids ORDER BY id"
            ).to_arrow_reader(_BATCH_ROWS)
            with (
                storage.open_file(storage.join(folder, f"{name}.parquet"), "wb") as stream,
                pq.ParquetWriter(stream, reader.schema, compression="zstd") as writer,
            ):
                for batch in reader:
                    writer.write_batch(batch)

    def num_ids(self) -> dict[str, int]:
        """Different users, items, categories and ids of features."""
        count = "SELECT count(*) FROM {}_ids"
        names = (*_TABLES, *self._features)
        return {name: int(self._run(count.format(name))[0][0]) for name in names}

    def items_with_two_categories(self) -> int:
        """Items that were seen with more than one category."""
        return int(self._run("SELECT count(*) FROM item_ids WHERE two_categories")[0][0])

    def item_clicks(self) -> np.ndarray:
        """Clicks by item id, [1 + items]; id 0 has none."""
        found = self._numpy("SELECT clicks FROM item_ids ORDER BY id")
        return np.concatenate([[0], found["clicks"]]).astype(np.int64)

    def item_category(self) -> np.ndarray:
        """Category id each item had in its last line, by item id, [1 + items]; id 0 has 0."""
        found = self._numpy(
            "SELECT c.id AS category FROM item_ids i JOIN category_ids c ON i.category = c.raw "
            "ORDER BY i.id"
        )
        return np.concatenate([[0], found["category"]]).astype(np.int64)

    def users(self, min_clicks: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and clicks of the users with at least `min_clicks`, by id."""
        found = self._numpy(
            f"SELECT id, clicks FROM user_ids WHERE clicks >= {int(min_clicks)} ORDER BY id"
        )
        return found["id"].astype(np.int64), found["clicks"].astype(np.int64)

    def lives(self, min_clicks: int, order: Order) -> Iterator[pa.RecordBatch]:
        """Events of the users with at least `min_clicks`, user after user, oldest first.

        Args:
            min_clicks: as in `users`, whose order of users this follows.
            order: by time, equal times in file order; or in file order alone.

        Yields:
            `item`, `category`, `timestamp` and the features, all int64.
        """
        by = "user_id, e.time, e.line" if order == "time" else "user_id, e.line"
        names = ("item", "category", *self._features)
        ids = ", ".join(f"{name}_ids.id AS {_quoted(name)}" for name in names)
        joins = " ".join(f"JOIN {name}_ids ON e.{_quoted(name)} = {name}_ids.raw" for name in names)
        # A feature may be called as a column of the ids that are joined.
        columns = ", ".join(f"e.{_quoted(name)}" for name in ("line", "time", *names))
        reader = self._connection.sql(
            f"SELECT {ids}, e.time AS timestamp FROM ("
            f"SELECT u.id AS user_id, {columns} FROM events e "
            f"JOIN user_ids u ON e.user = u.raw WHERE u.clicks >= {int(min_clicks)}) e "
            f"{joins} ORDER BY {by}"
        ).to_arrow_reader(_BATCH_ROWS)
        yield from reader


def _quoted(name: str) -> str:
    """A column's name where it could be a word of SQL."""
    return f'"{name}"'
