import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.columns import check_columns, features_of
from pipelines.schema import (
    LAYOUTS,
    DatasetSchema,
    FileInfo,
    Layout,
    SplitInfo,
    TableInfo,
    is_feature_name,
    layout_schema,
    load_schema,
)

SPLIT = SplitInfo(
    rows=2,
    requests=3,
    targets=4,
    positives=1,
    history_length={"mean": 1.5, "max": 2.0},
    files=[FileInfo(path="train/part-00000.parquet", rows=2, sha256="ab")],
)
SCHEMA = DatasetSchema(
    source="test",
    layout="user",
    seed=3,
    protocol={"years": [2014, 2015]},
    tables={name: TableInfo(rows=10, distinct=7) for name in ("item", "category")},
    splits={"train": SPLIT},
    counts={"dropped": {"short": 3}},
    oracle={"val": 0.75},
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = str(tmp_path / "schema.json")
    SCHEMA.save(path)
    assert load_schema(path) == SCHEMA


def without_rows(raw: dict[str, Any]) -> None:
    del raw["splits"]["train"]["rows"]


def with_something_more(raw: dict[str, Any]) -> None:
    raw["colour"] = "blue"


def with_tables_as_a_list(raw: dict[str, Any]) -> None:
    raw["tables"] = [1, 2]


@pytest.mark.parametrize("damage", [without_rows, with_something_more, with_tables_as_a_list])
def test_a_damaged_schema_is_named(tmp_path: Path, damage: Any) -> None:
    raw = dataclasses.asdict(SCHEMA)
    damage(raw)
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"data\.schema: .*schema\.json is damaged: "):
        load_schema(str(path))


def place_of(raw: dict[str, Any], field: str) -> tuple[dict[str, Any], str]:
    """Where a dotted field is: what holds it, and its name there."""
    *way, last = field.split(".")
    for name in way:
        raw = raw[name]
    return raw, last


def refused(folder: Path, raw: dict[str, Any], told: str) -> None:
    """It is refused in one line."""
    path = folder / "schema.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=told) as raised:
        load_schema(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("tables.item.rows", None, "is null; it must be a whole number from 1 to 1099511627776"),
        ("tables.item.rows", 0, "is 0; it must be a whole number from 1 to 1099511627776"),
        ("tables.item.rows", 1 << 41, "is 2199023255552; it must be a whole number from 1 to "),
        ("tables.item.distinct", 7.5, "is 7.5; it must be a whole number from 0 to "),
        ("tables.item", [10, 7], r"is \[10, 7\]; it must be an object"),
        ("splits.train.targets", "x", 'is "x"; it must be a whole number from 0 to '),
        ("splits.train.requests", True, "is true; it must be a whole number from 0 to "),
        ("splits.train.rows", 10**30, r"is 10{30}; it must be a whole number from 0 to "),
        ("splits.train.history_length", None, "is null; it must be an object"),
        ("splits.train.history_length.mean", float("nan"), "is NaN; it must be a number from 0 to"),
        ("splits.train.files", {}, "is {}; it must be a list"),
        ("oracle.val", -0.5, "is -0.5; it must be a number from 0 to "),
        ("layout", "row", 'is "row"; it must be one of user, request'),
        ("source", 3, "is 3; it must be text"),
        ("seed", -1, "is -1; it must be a whole number from 0 to "),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_can(
    tmp_path: Path, field: str, value: Any, told: str
) -> None:
    raw = dataclasses.asdict(SCHEMA)
    part, last = place_of(raw, field)
    part[last] = value
    refused(tmp_path, raw, rf"^data\.schema: .* is damaged: {field} {told}")


@pytest.mark.parametrize(
    ("tables", "files", "told"),
    [
        ({"user_id": {"rows": 2, "distinct": 1}}, [], "tables names the feature 'user_id'; give "),
        ({}, [{"path": "a\0b", "rows": 2, "sha256": "ab"}], r"names 'a\\x00b', which is no file"),
        ({}, [{"path": "a\u0085", "rows": 2, "sha256": "ab"}], r"names 'a\\x85', which is no file"),
        ({}, [{"path": "\ud800", "rows": 2, "sha256": "ab"}], r"names '\\ud800', which is no file"),
    ],
)
def test_a_name_that_cannot_be_is_told(tmp_path: Path, tables: Any, files: Any, told: str) -> None:
    raw = dataclasses.asdict(SCHEMA)
    raw["tables"] |= tables
    raw["splits"]["train"]["files"] += files
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=rf"schema\.json is damaged: .*{told}"):
        load_schema(str(path))


@pytest.mark.parametrize(
    "missing",
    [
        "tables",
        "tables.item",
        "tables.category",
        "splits.train",
        "splits.train.files",
        "splits.train.history_length.mean",
    ],
)
def test_what_a_schema_lacks_is_named(tmp_path: Path, missing: str) -> None:
    raw = dataclasses.asdict(SCHEMA)
    part, last = place_of(raw, missing)
    del part[last]
    refused(tmp_path, raw, rf"data\.schema: .*schema\.json .*lacks .*{last}")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"format": 1', r"is not JSON"),
        (b'{"format": "\xff"}', r"is not JSON"),
        ("[" * 100_000, r"is not JSON"),
        ('{"format": 2}', r"has format 2; this version reads format 1"),
        ("{}", r"has format None; this version reads format 1"),
        ("[1]", r"has format list; this version reads format 1"),
    ],
)
def test_a_file_that_is_no_schema_is_named(
    tmp_path: Path, content: str | bytes, problem: str
) -> None:
    path = tmp_path / "schema.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"data\.schema: .*schema\.json {problem}"):
        load_schema(str(path))


def test_a_schema_that_is_not_there_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"schema\.json, which is not there; `dare prepare`"):
        load_schema(str(tmp_path / "schema.json"))


@pytest.mark.parametrize("layout", ["user", "request"])
def test_every_missing_column_is_noticed(layout: Layout) -> None:
    whole = LAYOUTS[layout]
    check_columns(whole.append(pa.field("region", pa.string())), layout, "a.parquet")
    for position, name in enumerate(whole.names):
        with pytest.raises(ValueError, match=rf"^a\.parquet has no column {name}, which data"):
            check_columns(whole.remove(position), layout, "a.parquet")


@pytest.mark.parametrize(
    ("layout", "column", "other"),
    [
        ("user", "user_id", pa.string()),
        ("user", "item", pa.int64()),
        ("user", "category", pa.list_(pa.string())),
        ("user", "item", pa.list_(pa.float64())),
        ("user", "requests", pa.list_(pa.int64())),
        ("user", "requests", pa.list_(pa.struct([("history_end", pa.int32())]))),
        ("request", "history_item", pa.list_(pa.list_(pa.int64()))),
        ("request", "label", pa.list_(pa.bool_())),
        ("request", "label", pa.float32()),
        ("request", "timestamp", pa.timestamp("s")),
    ],
)
def test_another_type_is_named_with_the_right_one(
    layout: Layout, column: str, other: pa.DataType
) -> None:
    whole = LAYOUTS[layout]
    changed = whole.set(whole.get_field_index(column), pa.field(column, other))
    with pytest.raises(ValueError, match=rf"^a\.parquet: column {column} is .* needs ") as caught:
        check_columns(changed, layout, "a.parquet")
    assert str(other) in str(caught.value)


@pytest.mark.parametrize("layout", ["user", "request"])
def test_further_features_are_columns_beside_the_others(layout: Layout) -> None:
    schema = layout_schema(layout, ("kind", "page"), ("page",))
    ids = pa.list_(pa.int64())
    if layout == "user":
        entry = schema.field("requests").type.value_type
        assert entry.field(entry.num_fields - 1) == pa.field("page", ids)
        assert schema.names == [*LAYOUTS["user"].names, "kind", "page"]
    else:
        names = [*LAYOUTS["request"].names, "history_kind", "history_page", "page"]
        assert schema.names == names
    assert layout_schema(layout) == LAYOUTS[layout]
    check_columns(schema, layout, "a.parquet", ("kind", "page"))
    assert features_of(schema, layout) == ["kind", "page"]
    assert features_of(LAYOUTS[layout], layout) == []


@pytest.mark.parametrize("layout", ["user", "request"])
def test_lists_of_integers_alone_are_taken_for_features(layout: Layout) -> None:
    prefix = "" if layout == "user" else "history_"
    schema = LAYOUTS[layout]
    for name, kind in {
        "page": pa.large_list(pa.int32()),
        "score": pa.list_(pa.float32()),
        "words": pa.list_(pa.string()),
        "age": pa.int64(),
        "two words": pa.list_(pa.int64()),
        "label": pa.list_(pa.int64()),
    }.items():
        schema = schema.append(pa.field(prefix + name, kind))
    assert features_of(schema, layout) == ["page"]


@pytest.mark.parametrize("name", ["history_item", "target_item", "history_", "target_page"])
def test_no_feature_is_called_as_a_side_of_another(name: str) -> None:
    assert not is_feature_name(name)
    assert is_feature_name(f"my_{name}")


def test_integer_widths_list_sizes_and_element_names_do_not_matter() -> None:
    names = pa.list_(pa.field("element", pa.int32()))
    types = {
        "history_item": names,
        "item": pa.large_list(pa.uint16()),
        "label": pa.list_(pa.float64()),
        "user_id": pa.int32(),
    }
    check_columns(
        pa.schema(
            [(field.name, types.get(field.name, field.type)) for field in LAYOUTS["request"]]
        ),
        "request",
        "a.parquet",
    )


def test_the_best_possible_auc_is_that_of_the_behaviours_seen_where_it_is_known():
    schema = dataclasses.replace(SCHEMA, oracle={"test": 0.9, "val": 0.8, "test_newest_200": 0.7})
    assert schema.best_auc("test", 200) == 0.7
    assert schema.best_auc("test", 100) == 0.9
    assert schema.best_auc("val", 200) == 0.8
    assert schema.best_auc("train", 200) is None
