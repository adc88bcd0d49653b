"""Any planner config and any saved plan is taken for what it says, or refused in lines."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.harness import accepted, examples
from tests.fuzz.test_fuzz_configs import NASTY, TOKENS
from tests.small_run import small_config, small_schema
from trainer.build import make_workload, read_planning
from trainer.planner.config import TopologySpec, load_plan_config
from trainer.planner.saved import plan_rows, read_rows, restore_plan
from trainer.sharding import model_tables

KINDS = {"attention_item": "unpooled", "representation_item": "pooled"}
PLANS = sorted((Path(__file__).parents[2] / "launch" / "plans").glob("*.yaml"))
WORDS = ["row_wise", "table_wise", "column_wise", "fused", "fused_uvm_caching", "fp16", "bf16"]


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 15).flatmap(lambda luck: good if luck else NASTY)


NUMBERS = mostly(st.floats(0.01, 0.9))
WHOLE = mostly(st.integers(1, 8))
TABLE = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "sharding_types": mostly(st.lists(st.sampled_from(WORDS[:3]), max_size=3)),
            "compute_kernels": mostly(st.lists(st.sampled_from(WORDS[3:5]), max_size=2)),
            "precision": mostly(st.sampled_from(["fp32", "fp16"])),
            "min_partition": mostly(st.sampled_from([0, 4, 8])),
            "cache_load_factor": NUMBERS,
        },
    ),
    NASTY,
)
TOPOLOGY = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("hosts", "gpus_a_host"), WHOLE),
        **dict.fromkeys(("hbm_gb", "host_memory_gb", "in_host_gb_per_s"), NUMBERS),
        "device": mostly(st.sampled_from(["cpu", "cuda"])),
    },
)
PLAN = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "topology": mostly(TOPOLOGY),
            "reservation": st.one_of(
                st.fixed_dictionaries({}, optional={"hbm_share": NUMBERS, "host_share": NUMBERS}),
                NASTY,
            ),
            "tables": mostly(st.dictionaries(st.sampled_from([*KINDS, "*"]), TABLE, max_size=3)),
            "proposer": mostly(st.sampled_from(["grid", "greedy", "uniform"])),
            "replication": st.one_of(
                st.fixed_dictionaries({}, optional={"groups": WHOLE, "sync_every": WHOLE}),
                NASTY,
            ),
        },
    ),
    NASTY,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "plan"


def _read(file: Path) -> Any:
    return load_plan_config(str(file), KINDS, "cpu")  # type: ignore[arg-type]


@examples(150)
@given(PLAN)
def test_any_planner_config_is_taken_for_what_it_says_or_refused(file: Path, plan: Any) -> None:
    file.write_text(yaml.safe_dump(plan, allow_unicode=True), encoding="utf-8")
    config = accepted("planner configs", lambda: _read(file))
    if config is None:
        return
    for section in ("topology", "reservation", "replication"):
        for name, value in plan.get(section, {}).items():
            assert getattr(getattr(config, section), name) == value
    assert config.proposer == plan.get("proposer", "grid")
    for name, spec in config.tables.items():
        said = plan.get("tables", {})
        for key, value in said.get(name, said.get("*", {})).items():
            held = getattr(spec, key)
            assert (list(held) if isinstance(held, tuple) else held) == (
                [] if value is None and key in ("sharding_types", "compute_kernels") else value
            )


@examples(60)
@given(st.one_of(st.just(""), st.sampled_from(PLANS).map(Path.read_text)), st.data())
def test_any_text_is_a_planner_config_or_refused(
    file: Path, text: str, data: st.DataObject
) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        slip = data.draw(st.one_of(TOKENS, st.text(max_size=5)))
        text = text[:at] + slip + text[at + data.draw(st.integers(0, 8)) :]
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    accepted("planner configs with slips", lambda: _read(file))


@pytest.fixture(scope="module")
def planned() -> tuple[list[dict[str, Any]], Any, TopologySpec]:
    """The rows of a plan that fits, the tables it is of, and the machines."""
    config, machines = small_config(), TopologySpec(hosts=1, gpus_a_host=2, device="cpu")
    schema = small_schema()
    planning = read_planning(config, schema, machines)
    workload = make_workload(config, schema, planning, machines)
    from trainer.planner.planning import find_plan

    tables = model_tables(workload.model)
    return plan_rows(find_plan(workload), tables), tables, workload.topology


@examples(100)
@given(st.data())
def test_any_saved_plan_is_whole_or_refused(
    file: Path, planned: tuple[list[dict[str, Any]], Any, TopologySpec], data: st.DataObject
) -> None:
    good, tables, machines = planned
    rows: Any = [dict(row) for row in good]
    for _ in range(data.draw(st.integers(0, 3))):
        row = data.draw(st.sampled_from(rows))
        kind = data.draw(st.sampled_from(["value", "drop", "twice", "lose"]))
        name = data.draw(st.sampled_from(sorted(good[0])))
        if kind == "value":
            row[name] = data.draw(st.one_of(NASTY, st.sampled_from(sorted(WORDS))))
        elif kind == "drop":
            row.pop(name, None)
        elif kind == "twice":
            rows.append(dict(row))
        elif len(rows) > 1:
            rows.remove(row)
    held = data.draw(st.one_of(st.just(rows), st.just(rows), NASTY))
    file.write_text(json.dumps(held, default=repr), encoding="utf-8")

    def restore() -> Any:
        return restore_plan(read_rows(str(file)), tables, machines, str(file))

    plan = accepted("saved plans", restore)
    if plan is None:
        return
    _check_whole(plan, tables, machines.ranks)


def _check_whole(plan: Any, tables: Any, ranks: int) -> None:
    """By hand: each number of each table lies on exactly one shard, on a rank there is."""
    held = {name: [0] * table.rows * table.width for name, table in tables.items()}
    for module in plan.plan.values():
        for name, sharding in module.items():
            for rank, part in zip(sharding.ranks, sharding.sharding_spec.shards, strict=True):
                assert 0 <= rank < ranks
                (row, column), (height, width) = part.shard_offsets, part.shard_sizes
                for line in range(row, row + height):
                    for place in range(column, column + width):
                        held[name][line * tables[name].width + place] += 1
    assert all(set(counts) == {1} for counts in held.values())


def test_the_plan_that_is_changed_is_whole_itself(file: Path, planned: Any) -> None:
    rows, tables, machines = planned
    file.write_text(json.dumps(rows))
    restored = restore_plan(read_rows(str(file)), tables, machines, str(file))
    assert plan_rows(restored, tables) == rows
