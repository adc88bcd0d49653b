"""Interval, behaviour type and scenario from parquet to batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch import Batch, collate, padding_batch
from pipelines.ids import IdMode, IdRules, hash_ids
from pipelines.loader import count_collisions
from pipelines.lockstep import BatchStream
from pipelines.parquet import read_requests
from pipelines.requests import Requests
from pipelines.row_groups import list_row_groups
from pipelines.schema import Layout, layout_schema
from pipelines.stream import RequestDataset, StreamConfig
from tests import small
from tests.split_files import flat_batch

FEATURES = ("behaviour_type", "scenario")
ROWS = {"item": 100, "category": 10, "behaviour_type": 5, "interval": 8, "scenario": 6}
LAYOUTS: list[Layout] = ["user", "request"]


def row_of(layout: Layout) -> dict[str, Any]:
    """Two behaviours at 10 and 20, and a request for two targets at 24."""
    life = {"item": [1, 2], "category": [1, 2], "timestamp": [10, 20]}
    life |= {"behaviour_type": [4, 3], "scenario": [1, 5]}
    shown = {"item": [7, 8], "category": [1, 1], "label": [1.0, 0.0], "scenario": [3, 3]}
    if layout == "user":
        request = {"history_end": 2, "timestamp": 24, **shown}
        return {"user_id": 1, **life, "requests": [request]}
    history = {f"history_{name}": ids for name, ids in life.items()}
    return {"user_id": 1, **history, "timestamp": 24, **shown}


def write(path: Path, layout: Layout, *rows: dict[str, Any], targets: tuple[str, ...]) -> str:
    schema = layout_schema(layout, FEATURES, targets)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
    return str(path)


def read(path: str, layout: Layout, *, mode: IdMode = "check", **rows: int) -> Requests:
    (group,) = list_row_groups(path, layout, FEATURES)
    rules = IdRules(ROWS | rows, mode)
    return read_requests(group, layout=layout, history_length=5, ids=rules)


def ids_of(batch: Batch) -> dict[str, list[int]]:
    return {key: batch.features[key].values().tolist() for key in batch.features.keys()}  # noqa: SIM118


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_has_the_ids_of_behaviours_newest_first_and_of_targets(
    tmp_path: Path, layout: Layout
) -> None:
    path = write(tmp_path / "a.parquet", layout, row_of(layout), targets=("scenario",))
    batch = collate([(read(path, layout), np.array([0]))])
    assert ids_of(batch) == {
        "history_item": [2, 1],
        "history_category": [2, 1],
        "history_behaviour_type": [3, 4],
        # 4 and 14 seconds before the request.
        "history_interval": [4, 5],
        "history_scenario": [5, 1],
        "target_item": [7, 8],
        "target_category": [1, 1],
        "target_behaviour_type": [0, 0],
        "target_interval": [0, 0],
        "target_scenario": [3, 3],
    }


def test_both_layouts_give_the_same_batch(tmp_path: Path) -> None:
    log, features = small.users(), ("item", "category", "scenario", "interval", "behaviour_type")
    user, request = (small.read(log, layout, tmp_path, features) for layout in LAYOUTS)
    assert user.features.keys() == request.features.keys()
    assert flat_batch(user) == flat_batch(request)


def test_only_what_is_asked_for_is_in_a_batch_in_one_order(tmp_path: Path) -> None:
    log = small.users()
    plain = small.read(log, "user", tmp_path)
    assert plain.features.keys() == [
        *("history_item", "history_category", "target_item", "target_category")
    ]
    for features in (("scenario", "interval"), ("interval", "scenario")):
        batch = small.read(log, "user", tmp_path, ("item", "category", *features))
        keys = [f"{side}_{name}" for side in ("history", "target") for name in sorted(features)]
        assert [key for key in batch.features.keys() if key not in plain.features.keys()] == keys  # noqa: SIM118


def test_a_rank_without_data_pads_with_the_keys_of_the_others(tmp_path: Path) -> None:
    names = ("item", "category", "scenario", "interval", "behaviour_type")
    batch = small.read(small.users(), "user", tmp_path, names)
    padding = padding_batch(names)
    assert padding.features.keys() == batch.features.keys()
    assert padding.features.lengths().tolist() == [0] * 5 + [1] * 5
    assert padding.features.values().tolist() == [0] * 5


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("feature", "value", "problem"),
    [
        ("behaviour_type", [5, 1], "has id 5, the behaviour_type table has 5 rows"),
        ("behaviour_type", [-1, 1], "has id -1, the behaviour_type table has 5 rows"),
        ("scenario", [1], "item has 2 entries, {name} 1; they must be equally long"),
        ("scenario", None, "{name} is null; an empty list is allowed, null is not"),
        ("scenario", [1, None], "{name} has a null; every entry needs a value"),
        ("timestamp", [1], "item has 2 entries, {name} 1; they must be equally long"),
        ("timestamp", [1, None], "{name} has a null; every entry needs a value"),
    ],
)
def test_a_bad_row_of_behaviours_is_named_by_file_number_and_field(
    tmp_path: Path, layout: Layout, feature: str, value: Any, problem: str
) -> None:
    name = feature if layout == "user" else f"history_{feature}"
    bad = row_of(layout) | {name: value}
    path = write(tmp_path / "a.parquet", layout, row_of(layout), bad, targets=("scenario",))
    with pytest.raises(ValueError, match=r"a\.parquet row 1: ") as caught:
        read(path, layout)
    assert problem.format(name=name) in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([9, 1], "scenario has id 9, the scenario table has 6 rows; ids go from 0 to 5: raise "),
        ([3], "scenario 1; they must be equally long"),
        ([3, None], "scenario has a null"),
    ],
)
def test_a_bad_row_of_targets_is_named_too(
    tmp_path: Path, layout: Layout, value: Any, problem: str
) -> None:
    bad = row_of(layout)
    (bad["requests"][0] if layout == "user" else bad)["scenario"] = value
    path = write(tmp_path / "a.parquet", layout, bad, targets=("scenario",))
    with pytest.raises(ValueError, match=problem):
        read(path, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_id_outside_names_the_option_that_makes_room(tmp_path: Path, layout: Layout) -> None:
    path = write(tmp_path / "a.parquet", layout, row_of(layout), targets=())
    with pytest.raises(ValueError, match=r"raise data\.feature_rows\.scenario or set data\.ids"):
        read(path, layout, scenario=5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_or_wrong_column_is_named_before_anything_is_read(
    tmp_path: Path, layout: Layout
) -> None:
    path = write(tmp_path / "a.parquet", layout, row_of(layout), targets=())
    name = "page" if layout == "user" else "history_page"
    with pytest.raises(ValueError, match=f"no column {name}, which the feature of that name needs"):
        list_row_groups(path, layout, ("page",))
    schema = layout_schema(layout, FEATURES)
    name = "scenario" if layout == "user" else "history_scenario"
    wrong = schema.set(schema.get_field_index(name), pa.field(name, pa.list_(pa.string())))
    pq.write_table(wrong.empty_table(), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=f"column {name} is list<.*string>"):
        list_row_groups(str(tmp_path / "b.parquet"), layout, FEATURES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hashing_spreads_all_ids_but_intervals_and_0_of_targets(
    tmp_path: Path, layout: Layout
) -> None:
    row = row_of(layout)
    row["scenario" if layout == "user" else "history_scenario"][:2] = [0, -(2**60)]
    path = write(tmp_path / "a.parquet", layout, row, targets=())
    batch = collate([(read(path, layout, mode="hash", scenario=1000), np.array([0]))])
    found = ids_of(batch)
    (hashed,) = hash_ids(np.array([-(2**60)]), 1000).tolist()
    assert found["history_scenario"] == [hashed, 0]
    assert found["target_scenario"] == found["target_behaviour_type"] == [0, 0]
    assert found["history_behaviour_type"] == hash_ids(np.array([3, 4]), 5).tolist()
    assert found["history_interval"] == [4, 5]


def test_collisions_of_every_hashed_feature_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", "request", row_of("request"), targets=())
    ids = IdRules(ROWS | {"behaviour_type": 2}, "hash")
    config = StreamConfig("request", 5, 8, 0, 1 << 20, 1, ids)
    dataset = RequestDataset(list_row_groups(path, "request", FEATURES), config, rank=0, world=1)
    found = count_collisions(dataset)
    assert found.keys() == {"item", "category", *FEATURES}
    # Types 4 and 3 have one row to go to; what targets have, 0, is no id.
    assert found["behaviour_type"] == (2, 2)
    stream = BatchStream(dataset, workers=0, epochs=1, group=None, pin_memory=False)
    assert [set(ids_of(batch)["history_behaviour_type"]) for batch in stream] == [{1}]
