import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.prepare import writer as writer_module
from pipelines.prepare.writer import DatasetWriter, to_request_layout, user_table
from pipelines.schema import (
    LAYOUTS,
    REQUEST_LAYOUT,
    USER_LAYOUT,
    DatasetSchema,
    Layout,
    layout_schema,
    load_schema,
)
from tests.split_files import User, draw_users, rows_of

USERS = draw_users(30, seed=5)


def table_of(users: list[User]) -> pa.Table:
    return pa.Table.from_pylist(rows_of(users, "user"), schema=USER_LAYOUT)


def write(folder: Path, *, layout: Layout, history_length: int = 200) -> DatasetSchema:
    writer = DatasetWriter(str(folder), layout=layout, history_length=history_length)
    writer.add("train", table_of(USERS[:10]))
    writer.add("train", table_of([]))
    writer.add("train", table_of(USERS[10:20]))
    writer.add("val", table_of(USERS[20:]))
    return writer.close(
        source="test", seed=1, protocol={"a": 1}, distinct={"item": 5, "category": 3}
    )


def test_flat_arrays_become_the_rows_one_writes_by_hand() -> None:
    table = user_table(
        np.array([7, 8]),
        {
            "item": np.array([1, 2, 3]),
            "category": np.array([4, 5, 6]),
            "timestamp": np.array([10, 20, 30]),
        },
        np.array([0, 3, 3]),
        {"history_end": np.array([2, 3, 0]), "timestamp": np.array([25, 35, 5])},
        np.array([0, 2, 3]),
        {
            "item": np.array([11, 12, 13, 14]),
            "category": np.array([1, 2, 3, 4]),
            "label": np.array([1, 0, 0, 1]),
        },
        np.array([0, 1, 3, 4]),
    )
    assert table.schema == USER_LAYOUT
    assert table.to_pylist() == [
        {
            "user_id": 7,
            "item": [1, 2, 3],
            "category": [4, 5, 6],
            "timestamp": [10, 20, 30],
            "requests": [
                {"history_end": 2, "timestamp": 25, "item": [11], "category": [1], "label": [1]},
                {
                    "history_end": 3,
                    "timestamp": 35,
                    "item": [12, 13],
                    "category": [2, 3],
                    "label": [0, 0],
                },
            ],
        },
        {
            "user_id": 8,
            "item": [],
            "category": [],
            "timestamp": [],
            "requests": [
                {"history_end": 0, "timestamp": 5, "item": [14], "category": [4], "label": [1]}
            ],
        },
    ]


@pytest.mark.parametrize("layout", ["user", "request"])
def test_further_features_of_behaviours_and_targets_are_written(
    tmp_path: Path, layout: Layout
) -> None:
    names = {"features": ("kind", "page"), "target_features": ("page",)}
    writer = DatasetWriter(str(tmp_path), layout=layout, **names)
    life = {name: np.array([1, 2, 3]) for name in ("item", "category", "timestamp")}
    table = user_table(
        np.array([7]),
        {**life, "kind": np.array([4, 5, 6]), "page": np.array([7, 8, 9])},
        np.array([0, 3]),
        {"history_end": np.array([2]), "timestamp": np.array([25])},
        np.array([0, 1]),
        {name: np.array([1]) for name in ("item", "category", "label")} | {"page": np.array([11])},
        np.array([0, 1]),
    )
    assert table.schema == layout_schema("user", **names)
    writer.add("train", table)
    schema = writer.close(
        source="test",
        seed=1,
        protocol={},
        distinct={"item": 3, "category": 3, "kind": 3, "page": 4},
    )
    assert {name: info.rows for name, info in schema.tables.items()} == {
        **{"item": 4, "category": 4},
        **{"kind": 7, "page": 12},
    }
    (row,) = pq.read_table(tmp_path / "train").to_pylist()
    if layout == "user":
        assert (row["kind"], row["page"]) == ([4, 5, 6], [7, 8, 9])
        assert row["requests"][0]["page"] == [11]
    else:
        assert (row["history_kind"], row["history_page"], row["page"]) == ([4, 5], [7, 8], [11])
    for split in ("val", "test"):
        assert pq.read_table(tmp_path / split).schema == layout_schema(layout, **names)


@pytest.mark.parametrize("cut", [slice(None), slice(7, 20), slice(0, 0)])
@pytest.mark.parametrize("history_length", [1, 3, 200, 1 << 31, 1 << 62])
def test_the_request_layout_has_every_request_with_its_newest_behaviours(
    cut: slice, history_length: int
) -> None:
    table = table_of(USERS).slice(cut.start or 0, len(USERS[cut]))
    found = to_request_layout(table, history_length)
    expected = rows_of(USERS[cut], "request")
    for row in expected:
        for name in ("history_item", "history_category", "history_timestamp"):
            ids = row[name]
            assert isinstance(ids, list)
            row[name] = ids[-history_length:]
    assert found.schema == REQUEST_LAYOUT
    assert found.to_pylist() == pa.Table.from_pylist(expected, schema=REQUEST_LAYOUT).to_pylist()


@pytest.mark.parametrize("layout", ["user", "request"])
def test_a_dataset_says_what_its_files_hold(tmp_path: Path, layout: Layout) -> None:
    schema = write(tmp_path, layout=layout)
    assert load_schema(str(tmp_path / "schema.json")) == schema
    for split, users in (("train", USERS[:20]), ("val", USERS[20:]), ("test", [])):
        info = schema.splits[split]
        requests = [request for user in users for request in user.requests]
        lengths = [request.history_end for request in requests]
        labels = [label for request in requests for label in request.label]
        assert info.requests == len(requests)
        assert info.targets == len(labels)
        assert info.positives == sum(labels)
        assert info.rows == len(users if layout == "user" else requests)
        assert info.history_length["max"] == max(lengths, default=0)
        assert info.history_length["mean"] == pytest.approx(np.mean(lengths) if lengths else 0.0)
        stored = pa.concat_tables([pq.read_table(tmp_path / file.path) for file in info.files])
        assert stored.schema == LAYOUTS[layout]
        expected = pa.Table.from_pylist(rows_of(users, layout), schema=LAYOUTS[layout])
        assert stored.to_pylist() == expected.to_pylist()
        for file in info.files:
            content = (tmp_path / file.path).read_bytes()
            assert file.sha256 == hashlib.sha256(content).hexdigest()
            assert file.rows == pq.ParquetFile(tmp_path / file.path).metadata.num_rows


@pytest.mark.parametrize("history_length", [(1 << 31) - 1, 1 << 31, 3_000_000_000, 1 << 62])
def test_a_length_beyond_all_histories_keeps_whole_ones(
    tmp_path: Path, history_length: int
) -> None:
    whole = write(tmp_path / "whole", layout="request", history_length=1000)
    assert write(tmp_path / "x", layout="request", history_length=history_length) == whole


@pytest.mark.parametrize("layout", ["user", "request"])
def test_tables_hold_the_largest_id_of_lives_and_targets(tmp_path: Path, layout: Layout) -> None:
    schema = write(tmp_path, layout=layout)
    largest = max(item for user in USERS for request in user.requests for item in request.item)
    assert schema.tables["item"].rows == largest + 1
    lives = max(c for user in USERS for c in user.category)
    targets = max(c for user in USERS for request in user.requests for c in request.category)
    assert schema.tables["category"].rows == max(lives, targets) + 1


def test_row_groups_and_files_are_cut_by_behaviours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "BEHAVIOURS_PER_ROW_GROUP", 20)
    monkeypatch.setattr(writer_module, "BEHAVIOURS_PER_FILE", 100)
    users = [User(n, [1] * 5, [1] * 5, []) for n in range(50)]
    writer = DatasetWriter(str(tmp_path))
    for first in range(0, 50, 10):
        writer.add("train", table_of(users[first : first + 10]))
    schema = writer.close(source="test", seed=1, protocol={}, distinct={"item": 1, "category": 1})
    files = schema.splits["train"].files
    # 50 behaviours a call: a file is full after two calls, a row group after four users.
    assert [file.rows for file in files] == [20, 20, 10]
    metadata = pq.ParquetFile(tmp_path / files[0].path).metadata
    groups = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    assert groups == [4, 4, 2, 4, 4, 2]


def test_bytes_of_numbers_are_split_for_compression(tmp_path: Path) -> None:
    group = pq.ParquetFile(tmp_path / write(tmp_path, layout="user").splits["train"].files[0].path)
    columns = [group.metadata.row_group(0).column(n) for n in range(group.metadata.num_columns)]
    assert len(columns) > 5
    for column in columns:
        assert "BYTE_STREAM_SPLIT" in column.encodings, column.path_in_schema
        assert column.compression == "ZSTD"


def test_a_split_nobody_added_to_is_an_empty_file(tmp_path: Path) -> None:
    schema = write(tmp_path, layout="user")
    (file,) = schema.splits["test"].files
    assert file.rows == 0
    assert pq.read_table(tmp_path / file.path).num_rows == 0


def test_a_folder_that_holds_a_dataset_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, layout="user")
    with pytest.raises(ValueError, match=r"--out is .*, which already holds a dataset"):
        DatasetWriter(str(tmp_path))


def test_a_dataset_without_its_schema_was_not_finished(tmp_path: Path) -> None:
    writer = DatasetWriter(str(tmp_path))
    writer.add("train", table_of(USERS))
    assert not (tmp_path / "schema.json").exists()
