import dataclasses
import errno
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ids import IdRules, hash_ids
from pipelines.parquet import read_requests
from pipelines.row_groups import RowRange, list_row_groups, read_rows
from pipelines.schema import LAYOUTS, Layout
from pipelines.stream import RequestDataset
from tests.split_files import Request, User, rows_of, stream_config, write_users

CHECK = IdRules({"item": 100, "category": 10}, "check")


def seven_rows(layout: Layout) -> list[dict[str, Any]]:
    """Seven users of two behaviours and a request of two targets; a user a row, or a request."""
    request = Request(2, [3, 4], [3, 4], [1.0, 0.0])
    return rows_of([User(user, [1, 2], [1, 2], [request]) for user in range(7)], layout)


def entry_of(row: dict[str, Any], field: str) -> tuple[dict[str, Any], str]:
    if field.startswith("requests."):
        return row["requests"][0], field.removeprefix("requests.")
    return row, field


def problem_of(
    folder: Path, layout: Layout, change: dict[str, Any], *, row: int, start: int, ids: IdRules
) -> str:
    """What reading says of a file of 3-row groups with one bad row, read from row `start` on."""
    rows = seven_rows(layout)
    for field, value in change.items():
        entry, name = entry_of(rows[row], field)
        entry[name] = value
    path = folder / "part-0003.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=LAYOUTS[layout]), path, row_group_size=3)
    groups = list_row_groups(str(path), layout)
    group = dataclasses.replace(groups[row // 3], start=start)
    with pytest.raises(ValueError, match=str(path)) as caught:
        read_requests(group, layout=layout, history_length=5, ids=ids)
    return str(caught.value).removeprefix(f"{path} ")


def test_some_rows_of_a_group_do_not_keep_all_of_it_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    rows = rows_of([User(user, [1] * 1000, [1] * 1000, []) for user in range(40)], "user")
    pq.write_table(pa.Table.from_pylist(rows, schema=LAYOUTS["user"]), path)
    (group,) = list_row_groups(str(path), "user")
    part = dataclasses.replace(group, start=7, stop=9)
    table = read_rows(part, ["user_id", "item"], "user")
    assert table["user_id"].to_pylist() == [7, 8]
    # Two lives of 1,000 numbers, and not 40.
    assert table.get_total_buffer_size() < 3 * 8 * 1000


BAD_IDS = [
    ("user", "item", [1, 100], r"item has id 100, the item table has 100 rows"),
    ("user", "category", [-1, 2], r"category has id -1, the category table has 10 rows"),
    ("user", "requests.item", [3, 777], r"requests.item has id 777"),
    ("user", "requests.category", [10, 4], r"requests.category has id 10"),
    ("request", "history_item", [-5, 2], r"history_item has id -5, the item table has 100 rows"),
    ("request", "history_category", [1, 10], r"history_category has id 10"),
    ("request", "item", [3, 100], r"item has id 100"),
    ("request", "category", [-9, 4], r"category has id -9"),
]
BAD_LISTS = [
    ("user", "item", [1], "item has 1 entries, category 2"),
    ("user", "item", None, "item is null; an empty list is allowed"),
    ("user", "category", [1, None], "category has a null; every entry needs a value"),
    ("user", "requests", None, "requests is null"),
    ("user", "user_id", None, "user_id has a null"),
    ("user", "requests.item", [3], "requests.item has 1 entries, requests.category 2"),
    ("user", "requests.category", None, "requests.category is null"),
    ("user", "requests.item", [None, 3], "requests.item has a null"),
    ("user", "requests.label", [1.0], "requests.item has 2 entries, requests.label 1"),
    ("user", "requests.label", [1.0, None], "requests.label has a null"),
    ("user", "requests.history_end", None, "requests.history_end has a null"),
    ("user", "requests.history_end", 3, "requests.history_end is 3, the life has 2 behaviours"),
    ("user", "requests.history_end", -1, "requests.history_end is -1, the life has 2"),
    ("user", "requests.label", [0.0, float("nan")], "requests.label is nan; it must be from 0"),
    ("user", "requests.label", [2.0, 0.0], "requests.label is 2.0; it must be from 0 to 1"),
    ("request", "history_item", [1], "history_item has 1 entries, history_category 2"),
    ("request", "history_category", None, "history_category is null"),
    ("request", "history_item", [None, 1], "history_item has a null"),
    ("request", "category", [3, 4, 5], "item has 2 entries, category 3"),
    ("request", "item", None, "item is null"),
    ("request", "label", [1.0, 0.0, 1.0], "item has 2 entries, label 3"),
    ("request", "label", None, "label is null"),
    ("request", "label", [-0.5, 0.0], "label is -0.5; it must be from 0 to 1"),
    ("request", "label", [0.0, float("nan")], "label is nan"),
]


@pytest.mark.parametrize(("row", "start"), [(0, 0), (2, 1), (4, 0), (5, 2), (6, 0)])
@pytest.mark.parametrize(("layout", "field", "value", "problem"), BAD_IDS + BAD_LISTS)
def test_a_bad_row_is_named_by_file_number_and_field(
    tmp_path: Path, layout: Layout, field: str, value: Any, problem: str, row: int, start: int
) -> None:
    said = problem_of(tmp_path, layout, {field: value}, row=row, start=start, ids=CHECK)
    assert said.startswith(f"row {row}: {problem}")


@pytest.mark.parametrize("layout", ["user", "request"])
def test_bad_lists_are_found_when_ids_are_hashed_too(tmp_path: Path, layout: Layout) -> None:
    ids = IdRules(CHECK.rows, "hash")
    field = {"user": "requests.item", "request": "history_item"}[layout]
    for value, problem in (([7], "has 1 entries"), ([None, 1], "has a null"), (None, "is null")):
        said = problem_of(tmp_path, layout, {field: value}, row=4, start=1, ids=ids)
        assert said.startswith(f"row 4: {field} {problem}")


def test_a_row_outside_the_range_that_is_read_does_not_matter(tmp_path: Path) -> None:
    rows = seven_rows("user")
    rows[0]["item"] = [500, 1]
    rows[2]["category"] = None
    pq.write_table(pa.Table.from_pylist(rows, schema=LAYOUTS["user"]), tmp_path / "a.parquet")
    group = RowRange(str(tmp_path / "a.parquet"), 0, 0, 1, 2)
    requests = read_requests(group, layout="user", history_length=5, ids=CHECK)
    assert requests.user.tolist() == [1]


@pytest.mark.parametrize("label", [0.0, 0.25, 1.0])
def test_labels_from_0_to_1_are_kept_as_they_are(tmp_path: Path, label: float) -> None:
    path = write_users(tmp_path / "a.parquet", [User(1, [], [], [Request(0, [1], [1], [label])])])
    (group,) = list_row_groups(path, "user")
    requests = read_requests(group, layout="user", history_length=5, ids=CHECK)
    assert requests.label.tolist() == [label]


def test_narrow_integers_and_large_lists_are_read_alike(tmp_path: Path) -> None:
    rows = seven_rows("request")
    narrow, wide = pa.large_list(pa.int32()), pa.list_(pa.float64())
    types = {"history_item": narrow, "item": narrow, "category": pa.list_(pa.int16())}
    schema = pa.schema(
        [(field.name, types.get(field.name, field.type)) for field in LAYOUTS["request"]]
    ).set(7, pa.field("label", wide))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "narrow.parquet")
    pq.write_table(
        pa.Table.from_pylist(rows, schema=LAYOUTS["request"]), tmp_path / "plain.parquet"
    )
    read = []
    for name in ("narrow", "plain"):
        (group,) = list_row_groups(str(tmp_path / f"{name}.parquet"), "request")
        requests = read_requests(group, layout="request", history_length=5, ids=CHECK)
        names = ("start", "end", "user", "target_offset", "label")
        arrays = {n: getattr(requests, n) for n in names} | requests.history
        arrays |= {f"target {name}": ids for name, ids in requests.target.items()}
        read.append({name: (values.dtype, values.tolist()) for name, values in arrays.items()})
    assert read[0] == read[1]


@pytest.mark.parametrize("content", [b"", b"user_id,item\n1,2\n", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_a_file_that_is_not_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet is not a readable parquet file: "):
        list_row_groups(str(path), "user")


def test_a_damaged_footer_or_page_is_named(tmp_path: Path) -> None:
    users = [User(n, list(range(1, 90)), [1] * 89, []) for n in range(200)]
    path = Path(write_users(tmp_path / "a.parquet", users, rows_per_group=200))
    whole = path.read_bytes()
    groups = list_row_groups(str(path), "user")
    path.write_bytes(whole[:-60] + b"\xff" * 50 + whole[-10:])
    with pytest.raises(ValueError, match=r"a\.parquet is not a readable parquet file: "):
        list_row_groups(str(path), "user")
    path.write_bytes(whole[:4] + b"\xff" * (len(whole) // 2) + whole[len(whole) // 2 + 4 :])
    dataset = RequestDataset(groups, stream_config(), rank=0, world=1)
    with pytest.raises(ValueError, match=r"a\.parquet row group 0: "):
        list(dataset)


@pytest.mark.parametrize(
    ("written", "asked", "missing"),
    [("request", "user", "requests"), ("user", "request", "history_item")],
)
def test_a_file_of_the_other_layout_is_recognised(
    tmp_path: Path, written: Layout, asked: Layout, missing: str
) -> None:
    path = write_users(tmp_path / "a.parquet", [], layout=written)
    expected = rf"a\.parquet has no column {missing}, which data\.layout {asked} needs; it has .*"
    with pytest.raises(ValueError, match=f"{expected}; that is data.layout {written}$"):
        list_row_groups(path, asked)


def test_row_groups_count_the_rows_before_them_in_their_file(tmp_path: Path) -> None:
    users = [User(n, [], [], []) for n in range(7)]
    write_users(tmp_path / "b.parquet", users, rows_per_group=3)
    write_users(tmp_path / "a.parquet", users[:2], rows_per_group=3)
    found = list_row_groups(str(tmp_path), "user")
    assert [(Path(g.path).name, g.row_group, g.first_row, g.stop) for g in found] == [
        ("a.parquet", 0, 0, 2),
        ("b.parquet", 0, 0, 3),
        ("b.parquet", 1, 3, 3),
        ("b.parquet", 2, 6, 1),
    ]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50), st.integers(2, 2**40))
def test_hashing_maps_any_id_into_the_table_and_never_to_row_0(ids: list[int], rows: int) -> None:
    found = hash_ids(np.array(ids, np.int64), rows)
    assert found.dtype == np.int64
    assert all(1 <= row < rows for row in found.tolist())


def splitmix64_finaliser(value: int) -> int:
    mask = 2**64 - 1
    value &= mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


@given(st.integers(-(2**63), 2**63 - 1))
def test_hashing_is_the_published_finaliser(value: int) -> None:
    (found,) = hash_ids(np.array([value]), 1001)
    assert found == splitmix64_finaliser(value) % 1000 + 1


def test_hashing_spreads_neighbouring_ids_evenly() -> None:
    rows = 65
    counts = np.bincount(hash_ids(np.arange(-32_000, 32_000), rows), minlength=rows)
    assert counts[0] == 0
    # 1000 ids a row on average: five standard deviations are 158.
    assert abs(counts[1:] - 1000).max() < 158


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EIO, OSError), (errno.ESTALE, OSError), (errno.ENOENT, ValueError)]
)
def test_storage_that_fails_may_heal_and_a_file_that_is_wrong_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    """So the former is a failure, which is tried again, and the latter the user's to mend."""

    def fail(*_: object) -> None:
        raise OSError(number, "what storage says")

    path = tmp_path / "a.parquet"
    path.touch()
    monkeypatch.setattr("pipelines.storage.open_file", fail)
    with pytest.raises(kind, match=f"{path} .*: what storage says; ") as told:
        list_row_groups(str(path), "user")
    assert type(told.value) is kind
