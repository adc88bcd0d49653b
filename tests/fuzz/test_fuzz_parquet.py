"""Any parquet near the layouts is read as a plain reading of its rows says, or is refused in lines.

The plain reading goes through the rows as Python objects, one value at a time.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ids import IdRules
from pipelines.parquet import read_requests
from pipelines.prepare.existing import describe_parquet
from pipelines.requests import Requests
from pipelines.row_groups import list_row_groups
from pipelines.schema import LAYOUTS, Layout
from tests.fuzz.harness import accepted, examples

ITEMS, CATEGORIES, LENGTH = 20, 6, 3
RULES = IdRules({"item": ITEMS, "category": CATEGORIES}, "check")
WIDE = [pa.int64(), pa.int32(), pa.int16(), pa.int8(), pa.uint64(), pa.uint8(), pa.float64()]
OTHER = [pa.string(), pa.bool_(), pa.timestamp("s"), pa.date32(), pa.binary(), pa.null()]
NUMBERS = st.one_of(
    st.integers(0, CATEGORIES - 1),
    st.integers(0, CATEGORIES - 1),
    st.integers(0, CATEGORIES - 1),
    st.integers(-3, 25),
    st.sampled_from([None, 2**31, 2**40, 2**63 - 1, -(2**63)]),
)
LABELS = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 1.0, 0.0]), st.floats(), st.sampled_from([None, 1e-320])
)


def lists(of: st.SearchStrategy[Any], size: int) -> st.SearchStrategy[Any]:
    """Mostly of one length, so that they fit together."""
    fitting = st.lists(of, min_size=size, max_size=size)
    return st.integers(0, 40).flatmap(
        lambda luck: fitting if luck else st.one_of(st.none(), st.lists(of, max_size=4))
    )


@st.composite
def rows(draw: st.DrawFn, layout: Layout) -> list[dict[str, Any]]:
    """Rows of a layout, most of them sound."""
    sound = draw(st.booleans())
    if sound:
        ids, labels = st.integers(0, CATEGORIES - 1), st.sampled_from([0.0, 1.0, 0.25])
    else:
        ids, labels = NUMBERS, LABELS
    found = []
    for _ in range(draw(st.integers(0, 6))):
        life = draw(st.integers(0, 4))
        history = {
            name: draw(some(ids, life, sound=sound)) for name in ("item", "category", "timestamp")
        }
        row = {"user_id": draw(ids)}
        if layout == "user":
            ends = st.integers(0, life) if sound else st.integers(-1, life + 1)
            entries = [
                {"history_end": draw(ends), **draw(targets(ids, labels, sound=sound))}
                for _ in range(draw(st.integers(0, 3)))
            ]
            holes = st.just(False) if sound else st.integers(0, 60).map(lambda luck: luck == 0)
            entries = [None if draw(holes) else entry for entry in entries]
            row |= history | {"requests": None if draw(holes) else entries}
        else:
            row |= {f"history_{name}": numbers for name, numbers in history.items()}
            row |= draw(targets(ids, labels, sound=sound))
        found.append(row)
    return found


def some(of: st.SearchStrategy[Any], size: int, *, sound: bool) -> st.SearchStrategy[Any]:
    return st.lists(of, min_size=size, max_size=size) if sound else lists(of, size)


@st.composite
def targets(
    draw: st.DrawFn, ids: st.SearchStrategy[Any], labels: st.SearchStrategy[Any], *, sound: bool
) -> dict[str, Any]:
    size = draw(st.integers(0, 3))
    own = {name: draw(some(ids, size, sound=sound)) for name in ("item", "category")}
    return own | {"label": draw(some(labels, size, sound=sound)), "timestamp": draw(ids)}


@st.composite
def types(draw: st.DrawFn, layout: Layout) -> pa.Schema:
    """The layout's columns, some of them with other types, missing, twice, or others beside."""
    if draw(st.booleans()):
        return LAYOUTS[layout]
    changed = []
    for field in LAYOUTS[layout]:
        luck = draw(st.integers(0, 30))
        if luck == 0:
            continue
        changed.append(pa.field(field.name, draw(near(field.type))))
        if luck == 1:
            changed.append(changed[-1])
    if draw(st.integers(0, 5)) == 0:
        changed.append(pa.field(draw(st.text(max_size=4)), pa.int64()))
    return pa.schema(draw(st.permutations(changed)))


def near(kind: pa.DataType) -> st.SearchStrategy[pa.DataType]:
    """The type itself, one that holds the same, or another."""
    if pa.types.is_list(kind):
        inner = near(kind.value_type)
        return st.one_of(inner.map(pa.list_), inner.map(pa.large_list), inner.map(pa.list_))
    if pa.types.is_struct(kind):
        return st.tuples(*(near(field.type) for field in kind)).map(
            lambda kinds: pa.struct([pa.field(f.name, k) for f, k in zip(kind, kinds, strict=True)])
        )
    return st.integers(0, 40).flatmap(
        lambda luck: st.just(kind) if luck > 6 else st.sampled_from(WIDE + OTHER)
    )


def table_of(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table | None:
    """The rows as a table; None where Arrow cannot hold them so."""
    try:
        columns = [pa.array([row.get(f.name) for row in rows], f.type) for f in schema]
        return pa.Table.from_arrays(columns, schema=schema)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return None


def written(path: Path, table: pa.Table | None, row_group_size: int) -> bool:
    """Write a table, if parquet can hold it; moments are stored in milliseconds at least."""
    if table is None:
        return False
    try:
        pq.write_table(table, path, row_group_size=row_group_size)
    except pa.ArrowException:
        return False
    return True


Plain = tuple[int, list[int], list[int], list[int], list[int], list[float]]
"""User, newest items and categories oldest first, target items, categories, labels."""


class FaultError(Exception):
    """A row that is wrong."""


def plainly(table: pa.Table, layout: Layout) -> list[Plain]:
    """All requests with targets, by the rules of the README and nothing else."""
    found: list[Plain] = []
    for row in table.to_pylist():
        prefix = "" if layout == "user" else "history_"
        life = _ids(row, prefix)
        user = _whole(row["user_id"])
        entries = _list(row["requests"]) if layout == "user" else [row]
        for entry in entries:
            if entry is None:
                raise FaultError
            items, categories = _ids(entry, "")
            labels = [_label(value) for value in _list(entry["label"])]
            if len(labels) != len(items):
                raise FaultError
            end = _whole(entry["history_end"]) if layout == "user" else len(life[0])
            if not 0 <= end <= len(life[0]):
                raise FaultError
            if items:
                first = max(0, end - LENGTH)
                history = (life[0][first:end], life[1][first:end])
                found.append((user, *history, items, categories, labels))
    return found


def _ids(row: dict[str, Any], prefix: str) -> tuple[list[int], list[int]]:
    items, categories = (
        [_whole(number) for number in _list(row[prefix + name])] for name in ("item", "category")
    )
    if len(items) != len(categories):
        raise FaultError
    if any(not 0 <= number < ITEMS for number in items):
        raise FaultError
    if any(not 0 <= number < CATEGORIES for number in categories):
        raise FaultError
    return items, categories


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise FaultError
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise FaultError
    return value


def _label(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise FaultError
    return float(value)


def read_all(path: Path, layout: Layout) -> list[Plain]:
    """All requests as the reader finds them."""
    found: list[Plain] = []
    for group in list_row_groups(str(path), layout):
        found += requests_of(read_requests(group, layout=layout, history_length=LENGTH, ids=RULES))
    return found


def requests_of(read: Requests) -> Iterator[Plain]:
    for at in range(len(read)):
        life = slice(int(read.start[at]), int(read.end[at]))
        targets = slice(int(read.target_offset[at]), int(read.target_offset[at + 1]))
        yield (
            int(read.user[at]),
            *(read.history[name][life].tolist() for name in ("item", "category")),
            *(read.target[name][targets].tolist() for name in ("item", "category")),
            read.label[targets].tolist(),
        )


def same(found: list[Plain], expected: list[Plain]) -> bool:
    """Labels are stored as float32."""
    return [request[:-1] for request in found] == [request[:-1] for request in expected] and all(
        abs(a - b) <= 1e-7
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one[-1], other[-1], strict=True)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for split in ("train", "val"):
        (folder / split).mkdir()
    return folder


@examples(70)
@given(st.sampled_from(["user", "request"]), st.data())
def test_any_parquet_is_read_as_its_rows_say_or_refused(
    folder: Path, layout: Layout, data: st.DataObject
) -> None:
    schema = data.draw(types(layout))
    table = table_of(data.draw(rows(layout)), schema)
    path = folder / "train" / "part.parquet"
    if table is None or not written(path, table, data.draw(st.integers(1, 3))):
        return
    found = accepted("parquet files", functools.partial(read_all, path, layout))
    plain = LAYOUTS[layout].names
    try:
        expected = plainly(table, layout) if set(plain) <= set(table.column_names) else None
    except FaultError:
        expected = None
    if found is not None:
        assert expected is not None, "a fault was read as if there were none"
        assert same(found, expected)
    elif schema == LAYOUTS[layout]:
        assert expected is None, "sound rows were refused"


@examples(25)
@given(st.sampled_from(["user", "request"]), st.data())
def test_describing_any_parquet_counts_what_its_rows_hold(
    folder: Path, layout: Layout, data: st.DataObject
) -> None:
    tables = [table_of(data.draw(rows(layout)), data.draw(types(layout))) for _ in range(2)]
    (folder / "schema.json").unlink(missing_ok=True)
    for split, table in zip(("train", "val"), tables, strict=True):
        if not written(folder / split / "part.parquet", table, 2):
            return
    schema = accepted(
        "datasets described", lambda: describe_parquet(out=str(folder), layout=layout)
    )
    assert (folder / "schema.json").exists() == (schema is not None)
    if schema is None:
        return
    for split, table in zip(("train", "val"), tables, strict=True):
        told = json.loads((folder / "schema.json").read_text())["splits"][split]
        labels = [
            entry["label"]
            for row in table.to_pylist()
            for entry in (row["requests"] if layout == "user" else [row])
            if entry["label"]
        ]
        flat = [label for one in labels for label in one]
        counts = [table.num_rows, len(labels), len(flat), sum(label > 0.5 for label in flat)]
        names = ("rows", "requests", "targets", "positives")
        assert [told[name] for name in names] == counts


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Plain]]:
    path = tmp_path_factory.mktemp("damage") / "part.parquet"
    life = {"item": [1, 2, 3, 4], "category": [1, 2, 3, 4], "timestamp": [1, 2, 3, 4]}
    request = {"history_end": 3, "timestamp": 9, "item": [5], "category": [1], "label": [1.0]}
    held = [{"user_id": user, **life, "requests": [request] * 2} for user in range(40)]
    pq.write_table(pa.Table.from_pylist(held, schema=LAYOUTS["user"]), path, row_group_size=10)
    return path, read_all(path, "user")


@examples(60)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=6)), min_size=1, max_size=3
    ),
    st.one_of(st.none(), st.integers(0, 10**6)),
)
def test_damaged_bytes_are_refused_or_change_numbers_alone(
    sound: tuple[Path, list[Plain]], patches: list[tuple[int, bytes]], cut: int | None
) -> None:
    """Plain pages have no checksums, so a number may be another; its shape may not."""
    path, requests = sound
    content = bytearray(path.read_bytes())
    for at, patch in patches:
        at %= len(content)
        content[at : at + len(patch)] = patch[: len(content) - at]
    damaged = path.with_name("damaged.parquet")
    damaged.write_bytes(content if cut is None else content[: cut % len(content)])
    found = accepted("damaged parquet files", lambda: read_all(damaged, "user"))
    if found is not None:
        assert len(found) <= len(requests) * 4
        assert all(0 <= item < ITEMS for request in found for item in request[1] + request[3])
