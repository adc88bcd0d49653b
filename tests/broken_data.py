"""A dataset of several files of small row groups, and ways to break one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.schema import LAYOUTS, Layout
from tests.commands import dare
from tests.split_files import Request, User, rows_of

USERS, FILES, ROWS_A_GROUP = 24, 4, 4
ROW = 5
"""The row that is broken, in the second row group."""
REQUEST = Request(3, [3, 4], [3, 4], [1.0, 0.0])
Row = dict[str, Any]


def users() -> list[User]:
    return [User(number, [1, 2, 3, 4], [1, 2, 3, 4], [REQUEST, REQUEST]) for number in range(USERS)]


def prepare_files(folder: Path, layout: Layout) -> Path:
    """Three splits of four files of 24 users, and their `schema.json`."""
    for split in ("train", "val", "test"):
        (folder / split).mkdir(parents=True)
        for number in range(FILES if split == "train" else 1):
            write(folder / split / f"part-{number}.parquet", table(layout))
    done = dare("prepare", "parquet", f"--out={folder}", f"--layout={layout}")
    assert done.code == 0, done.err
    return folder


def options_of(folder: Path, layout: Layout) -> list[str]:
    """Options of a run of this dataset: an epoch has many steps and windows."""
    return [
        *(f"--data.{split}={folder / split}" for split in ("train", "val", "test")),
        f"--data.schema={folder / 'schema.json'}",
        f"--data.layout={layout}",
        "--data.history_length=4",
        "--data.batch_size=4",
        "--data.shuffle_requests=4",
        "--model.search.top_k=2",
        "--telemetry.tensorboard=false",
    ]


def rows(layout: Layout) -> list[Row]:
    return rows_of(users(), layout)


def table(layout: Layout, schema: pa.Schema | None = None) -> pa.Table:
    return pa.Table.from_pylist(rows(layout), schema=schema or LAYOUTS[layout])


def write(path: Path, content: pa.Table) -> None:
    pq.write_table(content, path, row_group_size=ROWS_A_GROUP)


def with_row(layout: Layout, change: Callable[[Row], object]) -> pa.Table:
    """The table with one row changed."""
    changed = rows(layout)
    change(changed[ROW])
    return pa.Table.from_pylist(changed, schema=LAYOUTS[layout])


def with_type(layout: Layout, column: str, kind: pa.DataType, value: Any = None) -> pa.Table:
    """The table with another type of a column, and if need be other values in all rows."""
    changed = rows(layout)
    place = LAYOUTS[layout]
    if column.startswith("requests."):
        name = column.removeprefix("requests.")
        entry = place.field("requests").type.value_type
        kinds = [pa.field(f.name, kind if f.name == name else f.type) for f in entry]
        place = place.set(4, pa.field("requests", pa.list_(pa.struct(kinds))))
        entries = [entry for row in changed for entry in row["requests"]]
    else:
        name, entries = column, changed
        place = place.set(place.get_field_index(column), pa.field(column, kind))
    for entry in entries if value is not None else []:
        entry[name] = value
    return pa.Table.from_pylist(changed, schema=place)
