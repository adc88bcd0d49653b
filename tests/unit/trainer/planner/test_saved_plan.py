"""A plan as rows: there and back, and checked against what it is for."""

import json

import pytest

from tests.small_run import small_config, small_schema
from trainer.build import make_workload
from trainer.planner.config import PlanConfig, TableSpec, TopologySpec
from trainer.planner.job import place
from trainer.planner.planning import find_plan
from trainer.planner.saved import plan_rows, read_rows, restore_plan, saved_precisions
from trainer.sharding import model_tables

MACHINES = TopologySpec(gpus_a_host=2)
NAMES = ("attention_item", "attention_category", "representation_item", "representation_category")
SPECS = {
    "attention_item": TableSpec(sharding_types=("row_wise",), precision="fp16"),
    "attention_category": TableSpec(sharding_types=("table_wise",)),
    "representation_item": TableSpec(
        sharding_types=("column_wise",),
        compute_kernels=("fused_uvm_caching",),
        cache_load_factor=0.25,
        min_partition=8,
    ),
    "representation_category": TableSpec(sharding_types=("row_wise",)),
}


@pytest.fixture(scope="module")
def planned():
    planning = PlanConfig(topology=MACHINES, tables=SPECS)
    workload = make_workload(small_config(), small_schema(), planning, MACHINES)
    return workload, place(workload, find_plan(workload)).rows


def _changed(planned, change):
    workload, rows = planned
    rows = [dict(row) for row in rows]
    rows = change(rows) or rows
    with pytest.raises(ValueError, match=r"sharding\.saved_plan") as caught:
        restore_plan(rows, model_tables(workload.model), MACHINES, "plan.json")
    return [line.partition("plan.json ")[2] for line in str(caught.value).splitlines()]


def _of(rows, table):
    return [row for row in rows if row["table"] == table]


def test_a_plan_goes_to_a_file_and_back(planned, tmp_path):
    workload, rows = planned
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(rows))
    tables = model_tables(workload.model)
    restored = restore_plan(read_rows(str(path)), tables, MACHINES, str(path))
    assert plan_rows(restored, tables) == rows
    assert place(workload, restored).figures == place(workload, find_plan(workload)).figures
    assert saved_precisions(rows)["attention_item"] == "fp16"


def test_rows_tell_each_shards_place_and_bytes(planned):
    _, rows = planned
    item = _of(rows, "attention_item")
    assert [(row["first row"], row["rows"], row["bytes"]) for row in item] == [
        (0, 106, 106 * 8 * 2),
        (106, 105, 105 * 8 * 2),
    ]
    cached = _of(rows, "representation_item")
    assert [(row["first column"], row["columns"]) for row in cached] == [(0, 8), (8, 8)]
    assert {row["cache load factor"] for row in cached} == {0.25}
    cut = _of(rows, "representation_category")
    assert [(row["rank"], row["rows"], row["columns"]) for row in cut] == [(0, 9, 8), (1, 8, 8)]


def test_all_that_does_not_fit_the_tables_is_told(planned):
    def change(rows):
        for row in rows:
            if row["table"] == "attention_item":
                row["rows"] += 7
            if row["table"] == "attention_category":
                row["table"] = "attention_brand"
            if row["table"] == "representation_item":
                row["rank"] += 3

    told = _changed(planned, change)
    assert told[:2] == [
        "has attention_brand, which is no table of the model",
        "lacks attention_category, a table of the model",
    ]
    assert "up to row 218 and column 8; the table has 211 rows of 8" in told[2]
    assert told[3] == "representation_item is on ranks 3 to 4; the job has ranks 0 to 1"
    assert len(told) == 4


@pytest.mark.parametrize(
    ("table", "key", "value", "told"),
    [
        ("attention_item", "sharding", "grid_shard", "unpooled tables on cuda take table_wise"),
        ("attention_item", "kernel", "quick", "take fused, fused_uvm"),
        ("attention_item", "rank", 1, "row_wise; that is one shard on each of 2 ranks"),
        ("attention_category", "rank", -1, "ranks -1 to -1"),
        ("attention_category", "columns", 4, "68 numbers"),
    ],
)
def test_what_cannot_be_is_refused(planned, table, key, value, told):
    def change(rows):
        for row in _of(rows, table):
            row[key] = value

    (line,) = _changed(planned, change)
    assert told in line


def test_a_lost_shard_is_missed(planned):
    (line,) = _changed(planned, lambda rows: [r for r in rows if r["first column"] == 0])
    assert line.startswith("representation_item has shards of 1,688 numbers")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[{", "is not JSON"),
        ("{}", "must hold a list of shards"),
        ('[{"table": "attention_item"}]', "shard 0: collection is None; a word"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path, content, told):
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"sharding\.saved_plan") as caught:
        read_rows(str(path))
    assert told in str(caught.value)


def test_shards_that_overlap_are_refused(planned):
    """The table's numbers and outer corner, but one part twice and one nowhere."""

    def change(rows):
        first, second = _of(rows, "attention_item")
        extra = dict(second)
        first["rows"], extra["first row"], extra["rows"] = 105, 104, 1
        rows.append(extra)

    told = _changed(planned, change)
    assert "attention_item has shards that overlap; each of its numbers is on one of them" in told


def test_a_precision_that_is_none_is_told_by_shard(planned, tmp_path):
    _, rows = planned
    path = tmp_path / "plan.json"
    path.write_text(json.dumps([{**rows[0], "precision": "fp8"}]))
    with pytest.raises(
        ValueError, match=r"plan\.json shard 0: precision is 'fp8'; one of fp32, fp16"
    ):
        read_rows(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"saved_plan: .*plan\.json is not JSON"):
        read_rows(str(path))


@pytest.mark.parametrize("sharding", ["table_row_wise", "grid_shard"])
def test_a_plan_of_one_host_is_refused_on_two(sharding):
    """TorchRec would send the rows of a column shard to all ranks of one host."""
    spec = {"representation_item": TableSpec(sharding_types=(sharding,), min_partition=8)}
    here, two = (
        TopologySpec(gpus_a_host=2, device="cpu"),
        TopologySpec(gpus_a_host=1, hosts=2, device="cpu"),
    )
    workload = make_workload(small_config(), small_schema(), PlanConfig(tables=spec), here)
    rows, tables = place(workload, find_plan(workload)).rows, model_tables(workload.model)
    assert restore_plan(rows, tables, here, "plan.json")
    told = f"representation_item is {sharding} and has a column shard on ranks 0, 1; that is one"
    with pytest.raises(ValueError, match=told):
        restore_plan(rows, tables, two, "plan.json")
