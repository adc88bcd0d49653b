"""A planner config: what it may say, and every mistake of a file at once."""

from pathlib import Path

import pytest

from trainer.planner.config import CAPABILITIES, TableSpec, load_plan_config

KINDS = {"attention_item": "unpooled", "representation_item": "pooled"}
SHIPPED = sorted((Path(__file__).parents[4] / "launch" / "plans").glob("*.yaml"))


def _load(folder, text, device="cuda"):
    path = folder / "plan.yaml"
    path.write_text(text)
    return load_plan_config(str(path), KINDS, device)


def _mistakes(folder, text, device="cuda"):
    with pytest.raises(ValueError, match=r"sharding\.plan") as caught:
        _load(folder, text, device)
    return [line.partition(".yaml: ")[2] for line in str(caught.value).splitlines()]


def test_a_config_that_says_nothing_leaves_the_planner_free():
    config = load_plan_config("", KINDS, "cpu")
    assert config.topology is None
    assert config.tables == {"attention_item": TableSpec(), "representation_item": TableSpec()}
    assert config.replication.groups == 1


def test_the_star_is_for_the_tables_that_are_not_named(tmp_path):
    config = _load(
        tmp_path,
        "tables: {'*': {sharding_types: [row_wise]}, attention_item: {compute_kernels: [fused]}}",
    )
    assert config.tables["representation_item"].sharding_types == ("row_wise",)
    assert config.tables["attention_item"].sharding_types == ()


def test_every_section_is_read(tmp_path):
    config = _load(
        tmp_path,
        """
        topology: {hosts: 4, gpus_a_host: 8, hbm_gb: 80, between_hosts_gb_per_s: 25.5}
        reservation: {hbm_share: 0.3}
        proposer: greedy
        replication: {groups: 4, sync_every: 7}
        tables:
          attention_item:
            {precision: fp16, compute_kernels: [fused_uvm_caching], cache_load_factor: 0.3,
             sharding_types: [column_wise], min_partition: 16}
        """,
    )
    assert (config.topology.ranks, config.topology.hbm_gb) == (32, 80)
    assert config.topology.between_hosts_gb_per_s == 25.5
    assert (config.reservation.hbm_share, config.proposer) == (0.3, "greedy")
    assert (config.replication.groups, config.replication.sync_every) == (4, 7)
    assert config.tables["attention_item"] == TableSpec(
        sharding_types=("column_wise",),
        compute_kernels=("fused_uvm_caching",),
        precision="fp16",
        min_partition=16,
        cache_load_factor=0.3,
    )


def test_all_mistakes_are_told_at_once_each_in_a_line(tmp_path):
    told = _mistakes(
        tmp_path,
        """
        topology: {hosts: 0, gpus_a_host: eight, hbm: 141, device: tpu}
        reservation: {hbm_share: 1.5}
        proposer: best
        replication: {sync_every: 0}
        table: {}
        tables: {nowhere: {}, "*": {sharding_types: [row_wise, diagonal], precision: bf16}}
        """,
    )
    assert [line.split()[0] for line in told] == [
        *("the", "topology", "topology.hosts", "topology.gpus_a_host", "topology.device"),
        *("reservation.hbm_share", "tables", "tables.*.sharding_types", "tables.*.precision"),
        # Told for the pooled table too, which can do other things.
        *("tables.*.sharding_types", "tables.*.precision", "proposer", "replication.sync_every"),
    ]
    assert "topology has hbm; it takes hosts, gpus_a_host, device, hbm_gb" in told[1]
    assert "topology.hosts is 0; from 1 to 4096" in told
    assert "topology.gpus_a_host is 'eight'; it must be a whole number" in told
    assert "FBGEMM has no kernel that trains bf16 tables" in told[8]


@pytest.mark.parametrize(
    ("device", "table", "spec", "told"),
    [
        ("cpu", "attention_item", "precision: fp16", "takes on cpu: fp32"),
        ("cpu", "attention_item", "compute_kernels: [fused_uvm]", "takes on cpu: fused"),
        ("cpu", "attention_item", "sharding_types: [data_parallel]", "column_wise"),
        ("cuda", "attention_item", "sharding_types: [grid_shard]", "column_wise"),
        ("cuda", "attention_item", "sharding_types: row_wise", "must be a list"),
        ("cuda", "attention_item", "cache_load_factor: 0.1", "needs fused_uvm_caching"),
        ("cuda", "attention_item", "cache_load_factor: 2", "from 0 to 1"),
        ("cuda", "attention_item", "min_partition: 6", "multiple of 4"),
    ],
)
def test_what_a_device_or_a_kind_of_table_cannot_do_is_refused(tmp_path, device, table, spec, told):
    (line,) = _mistakes(tmp_path, f"tables: {{{table}: {{{spec}}}}}", device)
    assert line.startswith(f"tables.{table}.")
    assert told in line


def test_pooled_tables_can_do_what_unpooled_cannot(tmp_path):
    text = "tables: {representation_item: {sharding_types: [grid_shard, table_row_wise]}}"
    assert len(_load(tmp_path, text, "cpu").tables["representation_item"].sharding_types) == 2
    for device in ("cpu", "cuda"):
        unpooled, pooled = (CAPABILITIES[device, kind] for kind in ("unpooled", "pooled"))
        assert set(unpooled.sharding_types) < set(pooled.sharding_types)


@pytest.mark.parametrize(
    ("replication", "told"),
    [
        ("topology: {hosts: 2, gpus_a_host: 8}\nreplication: {groups: 3}", "2 hosts of 8"),
        ("topology: {hosts: 3, gpus_a_host: 8}\nreplication: {groups: 2}", "3 hosts of 8"),
        ("replication: {groups: 2}", "needs a topology"),
        (
            "topology: {device: cpu, gpus_a_host: 2}\nreplication: {groups: 2}",
            "DMPCollection needs device cuda",
        ),
    ],
)
def test_groups_that_cannot_be_are_refused(tmp_path, replication, told):
    (line,) = _mistakes(tmp_path, replication)
    assert told in line


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_plans_have_no_mistake(path):
    items = ("attention_item", "representation_item")
    config = load_plan_config(str(path), dict.fromkeys(items, "unpooled"), "cpu")
    if config.topology is not None:
        hosts, gpus = config.topology.hosts, config.topology.gpus_a_host
        assert path.stem.startswith(f"{hosts}x{gpus}_h200")


def test_the_documented_capabilities_are_those_of_the_code():
    text = (Path(__file__).parents[4] / "docs" / "architecture.md").read_text()
    for (device, kind), can in CAPABILITIES.items():
        cells = (can.sharding_types, can.compute_kernels, can.precisions)
        assert f"| {device} | {kind} | {' | '.join(map(', '.join, cells))} |" in text
