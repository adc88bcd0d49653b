"""`schema.json` of parquet that is there, against the writer's of the same rows."""

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.prepare.existing import describe_parquet
from pipelines.prepare.summary import format_summary
from pipelines.prepare.writer import DatasetWriter
from pipelines.schema import LAYOUTS, Layout, load_schema
from tests.split_files import Request, User, draw_users, rows_of, write_users

USERS = [user for user in draw_users(30) if user.requests]


def table(users: list[User], layout: Layout = "user") -> pa.Table:
    return pa.Table.from_pylist(rows_of(users, layout), schema=LAYOUTS[layout])


def one_user(ids: list[int], category: int = 1) -> User:
    """A life of these items and a request for the first of them."""
    categories = [category] * len(ids)
    return User(1, ids, categories, [Request(len(ids), ids[:1], [category], [1.0])])


def ids_of(name: str, layout: Layout) -> set[int]:
    """Different ids of a table, by hand; a request row has none after the last request."""
    targets = {n for user in USERS for request in user.requests for n in getattr(request, name)}
    seen = {
        number
        for user in USERS
        for number in getattr(user, name)[
            : None if layout == "user" else user.requests[-1].history_end
        ]
    }
    return targets | seen


def put(folder: Path, users: list[User], layout: Layout = "user") -> str:
    for split in ("train", "val"):
        write_users(folder / split / "part.parquet", users, layout=layout)
    return str(folder)


@pytest.mark.parametrize("layout", ["user", "request"])
def test_it_says_what_the_writer_says_of_the_same_rows(tmp_path: Path, layout: Layout) -> None:
    writer = DatasetWriter(str(tmp_path), layout=layout, history_length=100)
    for split, users in (("train", USERS[:9]), ("train", USERS[9:20]), ("val", USERS[20:])):
        writer.add(split, table(users))
    distinct = {name: len(ids_of(name, layout)) for name in ("item", "category")}
    wanted = writer.close(source="x", seed=0, protocol={}, distinct=distinct)
    (tmp_path / "schema.json").unlink()
    found = describe_parquet(out=f"{tmp_path}/", layout=layout)
    assert load_schema(str(tmp_path / "schema.json")) == found
    assert found.splits == wanted.splits
    assert found.tables == wanted.tables
    assert found.counts == {}
    assert "--data.ids" not in format_summary(found, str(tmp_path))


@pytest.mark.parametrize(
    "ids",
    [[3, 2**31], [3, 2**62], [-4, 3], [3, 30_000_000]],
    ids=["beyond 2^31", "64 bits", "negative", "far apart"],
)
def test_ids_that_cannot_be_rows_are_to_be_hashed_and_this_is_told(tmp_path, ids) -> None:
    schema = describe_parquet(out=put(tmp_path, [one_user(ids)]))
    assert schema.tables["item"].rows == 2 * 2 + 1
    assert schema.tables["category"].rows == 2 * 1 + 1
    told = format_summary(schema, str(tmp_path))
    assert f"2 different ids from {min(ids):,} to {max(ids):,}" in told
    assert told.endswith("--data.ids hash")


def with_columns(path: str, layout: Layout, **columns: list[list[int]]) -> None:
    """Add lists beside the behaviours of a file."""
    table = pq.read_table(path)
    for name, lists in columns.items():
        name = name if layout == "user" else f"history_{name}"
        table = table.append_column(name, pa.array(lists, pa.list_(pa.int64())))
    pq.write_table(table, path)


@pytest.mark.parametrize("layout", ["user", "request"])
def test_features_that_every_file_has_are_recognised(tmp_path, layout: Layout) -> None:
    out = put(tmp_path, [one_user([5, 6]), one_user([7])], layout)
    for split in ("train", "val"):
        more = {"page": [[1, 2], [1]]} if split == "train" else {}
        with_columns(
            f"{out}/{split}/part.parquet", layout, kind=[[3, 9], [0]], empty=[[0, 0], [0]], **more
        )
    schema = describe_parquet(out=out, layout=layout)
    sizes = {name: (info.rows, info.distinct) for name, info in schema.tables.items()}
    assert sizes == {"item": (8, 3), "category": (2, 1), "kind": (10, 2), "empty": (1, 0)}
    assert "kind: 4" in format_summary(schema, out)


def test_features_can_be_named_and_a_file_without_one_is(tmp_path) -> None:
    out = put(tmp_path, [one_user([5, 6])])
    with_columns(f"{out}/train/part.parquet", "user", kind=[[3, 9]], page=[[1]])
    with pytest.raises(ValueError, match=r"val/part\.parquet has no column kind"):
        describe_parquet(out=out, features=("kind",))
    with_columns(f"{out}/val/part.parquet", "user", kind=[[3, 9]], page=[[1]])
    with pytest.raises(ValueError, match=r"part\.parquet row 0: item has 2 entries, page 1"):
        describe_parquet(out=out)
    for name in ("two words", "history_item", "target_kind"):
        with pytest.raises(ValueError, match=f"--features has '{name}'; .* history_ or target_"):
            describe_parquet(out=out, features=(name,))
    assert list(describe_parquet(out=out, features=("kind",)).tables) == [
        "item",
        "category",
        "kind",
    ]


def test_features_to_be_hashed_have_room_to_stay_apart(tmp_path) -> None:
    out = put(tmp_path, [one_user([5, 6])])
    for split in ("train", "val"):
        with_columns(f"{out}/{split}/part.parquet", "user", kind=[[3, 2**40]])
    schema = describe_parquet(out=out)
    assert {name: info.rows for name, info in schema.tables.items()} == {
        **{"item": 2 * 2 + 1, "category": 2 * 1 + 1},
        "kind": 64 * (2 + 16),
    }
    assert format_summary(schema, out).endswith("--data.ids hash")


def test_ids_that_leave_gaps_are_rows_all_the_same(tmp_path) -> None:
    schema = describe_parquet(out=put(tmp_path, [one_user([7, 900_000])]))
    assert schema.tables["item"].rows == 900_001
    assert schema.counts == {}


def test_a_folder_without_test_is_described_without_it(tmp_path) -> None:
    schema = describe_parquet(out=put(tmp_path, USERS))
    assert list(schema.splits) == ["train", "val"]
    assert "--data.test ''" in format_summary(schema, str(tmp_path))


def test_the_other_layout_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"no column history_item.*that is data\.layout user"):
        describe_parquet(out=put(tmp_path, USERS), layout="request")
    assert not (tmp_path / "schema.json").exists()


def test_a_row_that_is_wrong_is_named_and_nothing_is_written(tmp_path) -> None:
    broken = User(1, [1, 2], [1], [])
    out = put(tmp_path, [USERS[0], broken])
    with pytest.raises(ValueError, match=r"part\.parquet row 1: item has 2 entries, category 1"):
        describe_parquet(out=out)
    assert not (tmp_path / "schema.json").exists()


def without_time(row: dict, layout: Layout) -> dict:
    if layout == "request":
        return {**row, "timestamp": None}
    return {**row, "requests": [{**entry, "timestamp": None} for entry in row["requests"]]}


BROKEN_TIMES = {
    "too short": (lambda row, name, _: {**row, name: [0]}, "item has 2 entries, {} 1"),
    "no list": (lambda row, name, _: {**row, name: None}, "{} is null"),
    "a null": (lambda row, name, _: {**row, name: [0, None]}, "{} has a null"),
    "a request without": (lambda row, _, layout: without_time(row, layout), "timestamp has a null"),
}


@pytest.mark.parametrize("layout", ["user", "request"])
@pytest.mark.parametrize("broken", BROKEN_TIMES)
def test_a_row_with_wrong_timestamps_is_named_and_nothing_is_written(
    tmp_path, layout: Layout, broken
) -> None:
    out = put(tmp_path, [one_user([5, 6])] * 7, layout)
    rows = rows_of([one_user([5, 6])] * 7, layout)
    change, problem = BROKEN_TIMES[broken]
    column = "timestamp" if layout == "user" else "history_timestamp"
    rows[5] = change(rows[5], column, layout)
    path = f"{out}/val/part.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=LAYOUTS[layout]), path, row_group_size=4)
    wanted = rf"val/part\.parquet row 5: .*{problem.format(column)}"
    with pytest.raises(ValueError, match=wanted):
        describe_parquet(out=out, layout=layout)
    assert not (tmp_path / "schema.json").exists()


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_split_that_is_missing_is_named(tmp_path, missing) -> None:
    out = put(tmp_path, USERS)
    (tmp_path / missing / "part.parquet").unlink()
    with pytest.raises(ValueError, match=rf"{missing}: no \.parquet file is there"):
        describe_parquet(out=out)


def test_a_described_folder_is_left_alone(tmp_path) -> None:
    out = put(tmp_path, USERS)
    describe_parquet(out=out)
    with pytest.raises(ValueError, match=r"has a schema\.json; remove it"):
        describe_parquet(out=out)


def test_training_without_targets_is_refused(tmp_path) -> None:
    pq.write_table(table([]), (tmp_path / "none.parquet"))
    out = put(tmp_path, [User(1, [1], [1], [])])
    with pytest.raises(ValueError, match=r"train/ has no targets"):
        describe_parquet(out=out)


@pytest.mark.parametrize(
    "name",
    ["\u3000a\u00a0b\u200d.parquet", "\u65e5\u672c.parquet", "caf\udce9.parquet"],
    ids=["spaces", "script", "bytes"],
)
def test_a_file_may_be_called_as_people_write(tmp_path, name, monkeypatch) -> None:
    """An ideographic space, one that breaks no line, a joiner, and a byte that is no UTF-8."""
    # Such a byte cannot be told from process to process, as pytest's workers do with logs.
    monkeypatch.setattr(logging.getLogger("pipelines.prepare.existing"), "disabled", True)
    out = put(tmp_path, USERS)
    (tmp_path / "train" / "part.parquet").rename(tmp_path / "train" / name)
    found = describe_parquet(out=out)
    assert load_schema(f"{out}/schema.json") == found
    assert [file.path for file in found.splits["train"].files] == [f"train/{name}"]


def test_a_file_with_a_control_character_in_its_name_is_told(tmp_path) -> None:
    out = put(tmp_path, USERS)
    (tmp_path / "val" / "part.parquet").rename(tmp_path / "val" / "a\nb.parquet")
    with pytest.raises(
        ValueError, match=r"val/a\\nb\.parquet' has a control character in its name"
    ):
        describe_parquet(out=out)
    assert not (tmp_path / "schema.json").exists()
