"""What a plan costs, worked out by hand, and what is said where none fits.

A rank has 100 requests a step, each with a history of 6 and 2.5 targets: 850 ids a table.
Tables have 1,000 items and 17 categories; widths are 8, 8, 16 (representation_item) and 8.
"""

import time
from dataclasses import replace
from unittest import mock

import pytest

from tests.small_run import small_config, small_schema
from trainer.build import make_workload
from trainer.planner import planning
from trainer.planner.advice import _width, explain
from trainer.planner.config import PlanConfig, ReservationSpec, TableSpec, TopologySpec
from trainer.planner.figures import format_plan
from trainer.planner.job import place
from trainer.planner.planning import DoesNotFitError, find_plan, shortfall
from trainer.planner.workload import _ids_a_request, make_topology

NAMES = ("attention_item", "attention_category", "representation_item", "representation_category")
IDS = 850
ROW_WISE = TableSpec(sharding_types=("row_wise",))
OPTIONS = (
    "--data.item_rows=1000",
    "--data.batch_size=250",
    "--model.embeddings.representation_lookup=unpooled",
)
POOLED = "--model.embeddings.representation_lookup=pooled"


NOTHING = ReservationSpec(hbm_share=0)


def _workload(spec=ROW_WISE, *options, reservation=NOTHING, **machines):
    tables = dict.fromkeys(NAMES, spec)
    topology = TopologySpec(**machines)
    config = PlanConfig(topology=topology, reservation=reservation, tables=tables)
    return make_workload(small_config(*OPTIONS, *options), small_schema(), config, TopologySpec())


def _figures(workload):
    return place(workload, find_plan(workload)).figures


def _item(figures):
    return next(table for table in figures.tables if table.table == "representation_item")


def test_a_row_wise_shard_takes_its_rows_their_state_and_a_steps_ids_and_rows():
    table = _item(_figures(_workload(gpus_a_host=4)))
    weights, adam = 250 * 16 * 4, 250 * 16 * 8
    # Each of 4 shards is asked a quarter of 4 ranks' ids; two batches of ids are under way.
    step = 2 * IDS * 8 + IDS * 16 * 4
    assert table.hbm_bytes == 4 * (weights + adam + step)
    assert (table.shards, table.ranks, table.weight_bytes) == (4, 4, 64_000)
    assert table.host_bytes == 0


@pytest.mark.parametrize(
    ("optimizer", "state"),
    [("sgd", 0), ("rowwise_adagrad", 250 * 4), ("partial_rowwise_adam", 250 * (16 * 4 + 4))],
)
def test_the_optimizers_state_counts(optimizer, state):
    options = f"--optim.sparse.name={optimizer}", "--optim.sparse.eps=1e-8"
    figures = _figures(_workload(ROW_WISE, *options, gpus_a_host=4))
    assert _item(figures).hbm_bytes == 4 * (16_000 + state + 2 * IDS * 8 + IDS * 16 * 4)


def test_fp16_halves_the_weights_and_neither_state_nor_looked_up_rows():
    figures = _figures(_workload(replace(ROW_WISE, precision="fp16"), gpus_a_host=4))
    assert _item(figures).hbm_bytes == 4 * (8_000 + 32_000 + 2 * IDS * 8 + IDS * 16 * 4)
    assert _item(figures).precision == "fp16"


def test_a_cached_table_lies_in_host_memory_with_a_share_of_its_rows_in_hbm():
    spec = TableSpec(
        compute_kernels=("fused_uvm_caching",), precision="fp16", cache_load_factor=0.1
    )
    table = _item(_figures(_workload(spec, "--optim.sparse.name=rowwise_adagrad")))
    cache, places, state = 3_200, 1000 * 4 + 100 * 16, 1000 * 4
    assert table.hbm_bytes == cache + places + state + 2 * IDS * 8 + IDS * 16 * 4
    assert table.host_bytes == 32_000


def test_ranks_send_ids_rows_and_gradients_but_not_to_themselves():
    figures = _figures(_workload(gpus_a_host=4))
    ids = 4 * IDS * 8  # Four tables.
    rows = IDS * (8 + 8 + 16 + 8) * 4
    # Three quarters go elsewhere: ids out, others' rows out, gradients of the own rows out.
    for rank in figures.ranks:
        assert rank.sent_bytes == rank.received_bytes == 3 * (ids + 2 * rows) // 4
        assert rank.sent_between_hosts_bytes == 0


def test_half_of_it_leaves_a_host_of_two():
    figures = _figures(_workload(hosts=2, gpus_a_host=2))
    ids, rows = 4 * IDS * 8, IDS * 40 * 4
    for rank in figures.ranks:
        assert rank.sent_between_hosts_bytes == (ids + 2 * rows) // 2
        assert rank.received_between_hosts_bytes == (ids + 2 * rows) // 2


def test_whole_tables_on_two_ranks_are_as_uneven_as_they_are_large():
    spec = TableSpec(sharding_types=("table_wise",))
    figures = _figures(_workload(spec, gpus_a_host=2))
    used = [rank.hbm_bytes for rank in figures.ranks]
    assert sum(used) == sum(table.hbm_bytes for table in figures.tables)
    assert figures.imbalance()["hbm_bytes"] == round(2 * max(used) / sum(used), 4)
    assert figures.memory["representation_item"].count(0) == 1
    assert sum(map(sum, figures.memory.values())) == sum(used)


def test_one_process_exchanges_nothing():
    figures = _figures(_workload(TableSpec()))
    assert (figures.ranks[0].sent_bytes, figures.ranks[0].received_bytes) == (0, 0)
    assert {table.sharding for table in figures.tables} == {"table_wise"}


def test_the_text_shows_every_table_and_the_most():
    text = format_plan(_figures(_workload(gpus_a_host=4)))
    assert all(name in text for name in NAMES)
    assert "4 on 4 ranks" in text
    assert text.splitlines()[-1].startswith("most over mean  1.000")


def _too_small():
    # 336,128 bytes on rank 0 of 2, of which 9 rows of each category table; 300,000 are there.
    return _workload(gpus_a_host=2, hbm_gb=0.0003)


def test_what_does_not_fit_says_by_how_much_where_and_because_of_what():
    workload = _too_small()
    with pytest.raises(DoesNotFitError) as failed:
        find_plan(workload)
    item = 500 * 16 * 12 + 2 * IDS * 8 + IDS * 16 * 4
    others = 500 * 8 * 12 + 2 * 9 * 8 * 12 + 3 * (2 * IDS * 8 + IDS * 8 * 4)
    lack = shortfall(workload, failed.value.nearest)
    assert (lack.rank, lack.memory, lack.table) == (0, "HBM", "representation_item")
    assert (lack.table_bytes, lack.used_bytes) == (item, item + others)
    assert lack.missing_bytes == item + others - 300_000 == 36_128
    assert "rank 0 lacks 36,128 bytes of HBM" in str(lack)


def test_what_is_reserved_is_not_for_tables():
    reserved = ReservationSpec(hbm_share=0.4, host_share=0.25)
    workload = _workload(gpus_a_host=2, hbm_gb=0.0005, host_memory_gb=1, reservation=reserved)
    with pytest.raises(DoesNotFitError) as failed:
        find_plan(workload)
    # Of 500,000 bytes 300,000 are left, of 10^9 of the host's half of three quarters.
    assert shortfall(workload, failed.value.nearest).missing_bytes == 36_128
    assert workload.host_capacity == 375_000_000


def _told(workload, *options):
    with pytest.raises(DoesNotFitError) as failed:
        find_plan(workload)
    text = explain(
        small_config(*OPTIONS, *options),
        workload,
        failed.value,
        lambda config, planning: make_workload(config, small_schema(), planning, TopologySpec()),
    )
    first, *told = [line.partition(": ")[2] for line in text.splitlines()]
    assert first.startswith("no plan fits: rank 0 lacks ")
    return told


def test_only_changes_that_make_it_fit_are_told():
    assert _told(_too_small()) == [
        "it would fit with tables.representation_item.compute_kernels [fused_uvm_caching]",
        "it would fit with optim.sparse.name rowwise_adagrad",
        "it would fit with model.embeddings.representation.item 8",
        "it would fit with topology.hosts 2",
        "it would fit with data.batch_size 125",
    ]
    # Half of its weights are 16,000 bytes, of 36,128: rightly not told.
    fp16, small = replace(ROW_WISE, precision="fp16"), {"gpus_a_host": 2, "hbm_gb": 0.0003}
    with pytest.raises(DoesNotFitError):
        find_plan(_workload(fp16, **small))
    find_plan(_workload(ROW_WISE, "--optim.sparse.name=rowwise_adagrad", **small))


def test_rowwise_adagrad_is_told_to_a_run_whose_adam_has_betas_of_its_own():
    assert "it would fit with optim.sparse.name rowwise_adagrad" in _told(
        _too_small(), "--optim.sparse.beta1=0.8"
    )


def test_where_no_change_alone_helps_several_are_told_together():
    # A step's ids and rows take 190,400 bytes on however many hosts, weights and state 145,728.
    assert _told(_workload(gpus_a_host=2, hbm_gb=0.00012)) == [
        "it would fit with tables.representation_item.precision fp16, "
        "tables.representation_item.compute_kernels [fused_uvm_caching], "
        "optim.sparse.name rowwise_adagrad, model.embeddings.representation.item 8, "
        "topology.hosts 2, data.batch_size 125"
    ]


SIDE = "--model.embeddings.attention={item: 8, category: 8, position: 4, interval: 8, features: %s}"


def test_further_tables_are_placed_by_their_own_ids_and_as_wide_as_asked_for():
    side = SIDE % "{scenario: 4}"
    pooled = "--model.embeddings.representation.features={scenario: 8}"
    figures = _figures(_workload(ROW_WISE, side, POOLED, pooled, gpus_a_host=4))
    sizes = {table.table: (table.rows, table.width) for table in figures.tables}
    assert sizes["attention_interval"] == (33, 8)
    assert (sizes["attention_scenario"], sizes["representation_scenario"]) == ((9, 4), (9, 8))


def test_ids_of_a_feature_whose_name_ends_like_anothers_are_its_own():
    pooling = {"history_type": 6, "target_type": 2.5, "history_a_type": 1, "target_a_type": 1}
    assert _ids_a_request("type", pooling) == 8.5
    assert _ids_a_request("a_type", pooling) == 2
    assert _ids_a_request("history_type", pooling) == 6


def test_the_width_of_a_further_table_is_changed_where_it_is_set():
    wide = SIDE % "{scenario: 64}"
    config = small_config(*OPTIONS, wide)
    workload = _workload(ROW_WISE, wide, gpus_a_host=2)
    (halved, *_) = _width(config, workload.config, "attention_scenario")
    assert halved.told == "model.embeddings.attention.features.scenario 32"
    assert halved.config.model.embeddings.attention.tables["scenario"] == 32
    (halved, *_) = _width(config, workload.config, "attention_interval")
    assert halved.told == "model.embeddings.attention.interval 4"


def test_where_nothing_helps_that_is_said():
    (line,) = _told(_workload(gpus_a_host=2, hbm_gb=1e-7))
    assert line == ("no change of representation_item, machines or batch that was tried helps")


@pytest.mark.parametrize("proposer", ["grid", "greedy", "uniform", "dynamic_programming"])
def test_every_search_finds_a_plan_where_tables_differ(proposer):
    workload = _workload(TableSpec(), gpus_a_host=4)
    tables = {**workload.config.tables, "attention_item": ROW_WISE}
    tables["representation_item"] = TableSpec(sharding_types=("column_wise",))
    config = replace(workload.config, tables=tables, proposer=proposer)
    figures = _figures(replace(workload, config=config))
    sharding = {table.table: table.sharding for table in figures.tables}
    assert sharding["attention_item"] == "row_wise"
    assert sharding["representation_item"] == "column_wise"


@pytest.mark.parametrize("proposer", ["grid", "greedy", "uniform", "dynamic_programming"])
def test_the_search_is_the_one_that_is_asked_for(proposer):
    workload = _workload(gpus_a_host=2)
    workload = replace(workload, config=replace(workload.config, proposer=proposer))
    with mock.patch.object(planning, "_proposers", wraps=planning._proposers) as asked:
        find_plan(workload)
    asked.assert_called_once_with(proposer)
    names = [type(found).__name__.lower() for found in planning._proposers(proposer)]
    assert names[0].startswith(proposer.replace("_", ""))


def test_bandwidths_are_those_within_and_between_hosts():
    spec = TopologySpec(in_host_gb_per_s=400, between_hosts_gb_per_s=40)
    topology = make_topology(spec, hbm=10**9, host=10**9)
    # Bytes a millisecond.
    assert (topology.intra_host_bw, topology.inter_host_bw) == (400e6, 40e6)


def test_a_thousand_ranks_are_planned_within_a_minute():
    started = time.process_time()
    figures = _figures(
        _workload(TableSpec(), "--data.item_rows=1000000000", hosts=128, gpus_a_host=8)
    )
    assert len(figures.ranks) == 1024
    # Of processor time, of which a quiet machine has one a second and more.
    assert time.process_time() - started < 60


def test_pooled_tables_send_sums_back_and_get_weights():
    figures = _figures(_workload(ROW_WISE, POOLED, gpus_a_host=4))
    assert {table.table: table.kind for table in figures.tables} == {
        **dict.fromkeys(NAMES[:2], "unpooled"),
        **dict.fromkeys(NAMES[2:], "pooled"),
    }
    # 2.5 targets a request: 5 weights an id, whose gradients come back; every shard gives every
    # request of all ranks 5 sums and 2.5 rows, whose gradients come back.
    ids, weights, sums = 2 * IDS * 8, 2 * IDS * 5 * 4, 4 * 100 * 7.5 * 4 * (16 + 8)
    unpooled = 2 * IDS * 8 + 2 * IDS * (8 + 8) * 4
    for rank in figures.ranks:
        assert rank.sent_bytes == 3 * (unpooled + ids + 2 * weights + 2 * sums) // 4


def test_without_an_auxiliary_head_only_what_is_kept_is_sent():
    head = "--model.head.auxiliary_weight=0"
    figures = _figures(_workload(ROW_WISE, POOLED, head, gpus_a_host=4))
    # 100 requests of 2.5 targets, each with 5 kept behaviours and itself.
    ids, weights, sums = 2 * 1500 * 8, 2 * 1250 * 4, 4 * 100 * 5 * 4 * (16 + 8)
    unpooled = 2 * IDS * 8 + 2 * IDS * (8 + 8) * 4
    for rank in figures.ranks:
        assert rank.sent_bytes == 3 * (unpooled + ids + 2 * weights + 2 * sums) // 4


def test_a_pooled_shard_holds_the_rows_it_sums():
    pooled, unpooled = (
        _item(_figures(_workload(ROW_WISE, lookup, gpus_a_host=4)))
        for lookup in (POOLED, OPTIONS[2])
    )
    # Beside TorchRec's one vector for each of a rank's 400 requests.
    assert pooled.hbm_bytes - unpooled.hbm_bytes == 4 * 400 * 16 * 4
