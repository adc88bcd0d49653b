"""Planning for machines that are not here, and training with the plan that was made."""

import json
from pathlib import Path

import pytest
import torch

from tests.commands import dare, dare_without_report

PLANS = sorted((Path(__file__).parents[2] / "launch" / "plans").glob("*.yaml"))
BILLION = (
    "--data.schema=nowhere.json",
    "--data.item_rows=1000000000",
    "--data.category_rows=10000",
    "--optim.sparse.name=rowwise_adagrad",
)


def _widths(attention, representation):
    return [
        f"--model.embeddings.{section}={{item: {width}, category: {width}, position: 16}}"
        for section, width in (("attention", attention), ("representation", representation))
    ]


@pytest.mark.parametrize(("attention", "representation"), [(16, 64), (64, 128)])
@pytest.mark.parametrize("plan", [p for p in PLANS if "x" in p.stem], ids=lambda path: path.stem)
def test_shipped_plans_place_tables_of_a_billion_rows(plan, attention, representation):
    found = dare("plan", *BILLION, *_widths(attention, representation), f"--plan={plan}").result
    hosts, gpus = map(int, plan.stem.split("_")[0].split("x"))
    assert found["ranks"] == hosts * gpus
    assert len(found["by_rank"]) * found["groups"] == hosts * gpus
    for rank in found["by_rank"]:
        assert 0 < rank["hbm_bytes"] <= found["hbm_capacity_bytes"] == 112_800_000_000
        assert rank["host_bytes"] <= found["host_capacity_bytes"]
        assert (rank["sent_between_hosts_bytes"] > 0) == (hosts > 1 and found["groups"] == 1)
    item = next(table for table in found["tables"] if table["table"] == "representation_item")
    assert item["weight_bytes"] == 10**9 * representation * 2
    assert item["kernel"] == ("fused_uvm_caching" if plan.stem == "1x1_h200" else "fused")
    assert (found["sync_bytes"] > 0) == (found["groups"] > 1)


def test_the_plan_for_one_process_fits_where_it_is_run(data):
    (plan,) = (path for path in PLANS if path.stem == "1_process")
    found = dare("plan", *data, f"--plan={plan}").result
    assert found["ranks"] == 1
    assert {table["sharding"] for table in found["tables"]} == {"table_wise"}


def test_people_read_tables_and_programs_read_json(data, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text("topology: {hosts: 4, gpus_a_host: 8}\n")
    outcome = dare("plan", *data, f"--plan={plan}")
    assert outcome.result["imbalance"]["hbm_bytes"] >= 1
    assert outcome.err.startswith("32 ranks on 4 hosts (cuda)\n")
    assert "most over mean" in outcome.err


@pytest.mark.parametrize(("ending", "begins"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_picture_is_drawn(data, tmp_path, ending, begins):
    picture = tmp_path / f"plan.{ending}"
    assert dare("plan", *data, f"--picture={picture}").code == 0
    assert picture.read_bytes().startswith(begins)


def test_training_takes_a_plan_as_it_is_and_keeps_it_with_run_and_checkpoint(data, tmp_path):
    plan = tmp_path / "plan.json"
    assert dare("plan", *data, f"--out={plan}").code == 0
    options = [*data, f"--out_dir={tmp_path}", "--loop.steps=2"]
    given = dare("train", *options, "--name=given", f"--sharding.saved_plan={plan}")
    planned = dare_without_report("train", *options, "--name=planned")
    assert given.result["logloss"] == planned.result["logloss"]
    rows = json.loads(plan.read_text())
    (checkpoint,) = (tmp_path / "given" / "checkpoints").glob("*step-*")
    for kept in (tmp_path / "given" / "plan.json", checkpoint / "plan.json"):
        assert json.loads(kept.read_text()) == rows
    assert "plan.json" in json.loads((checkpoint / "manifest.json").read_text())["files"]
    report = (tmp_path / "given" / "report.html").read_text()
    assert "Memory by rank" in report
    assert 'id="memory-' in report


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a CPU cannot do")
@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (
            "topology: {hosts: 2, gpus_a_host: 8}",
            ["device is cuda", "hosts is 2", "gpus_a_host is 8"],
        ),
        (
            "tables: {'*': {precision: fp16}}",
            ["an unpooled table takes on cpu: fp32", "pooled one"],
        ),
        (
            "tables: {'*': {compute_kernels: [fused_uvm_caching]}}",
            ["on cpu: fused", "a pooled one on cpu: fused"],
        ),
    ],
)
def test_a_plan_for_other_machines_does_not_start_a_run(data, tmp_path, plan, told):
    path = tmp_path / "plan.yaml"
    path.write_text(plan)
    runs = tmp_path / "runs"
    outcome = dare("train", *data, f"--out_dir={runs}", f"--sharding.plan={path}")
    assert (outcome.code, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) == len(told)
    for line, part in zip(outcome.err.splitlines(), told, strict=True):
        assert part in line
    assert not runs.exists()


def test_a_saved_plan_of_another_model_is_refused_in_lines(data, tmp_path):
    plan = tmp_path / "plan.json"
    assert dare("plan", *data, f"--out={plan}").code == 0
    other = [*data, f"--out_dir={tmp_path}", f"--sharding.saved_plan={plan}", "--model.preset=twin"]
    outcome = dare("train", *other)
    assert (outcome.code, outcome.out) == (2, "")
    lines = outcome.err.splitlines()
    assert len(lines) == 6  # DARE's four tables are unknown, TWIN's two are missing.
    for line in lines:
        assert line.startswith(f"dare train: error: sharding.saved_plan: {plan} ")


def test_copies_need_the_one_optimizer_that_can_be_averaged():
    (plan,) = (path for path in PLANS if path.stem.endswith("2d"))
    outcome = dare("plan", *BILLION, "--optim.sparse.name=adam", f"--plan={plan}")
    assert (outcome.code, outcome.out) == (2, "")
    assert "set optim.sparse.name rowwise_adagrad" in outcome.err


def test_dense_adam_is_refused_on_gpus_before_anything_is_placed():
    (plan,) = (path for path in PLANS if path.stem == "1x8_h200")
    outcome = dare("plan", *BILLION, "--optim.sparse.name=dense_adam", f"--plan={plan}")
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert "optim.sparse.name is dense_adam, the device is cuda" in line


def test_without_data_and_without_sizes_the_missing_schema_is_told():
    outcome = dare("plan", "--data.schema=nowhere.json")
    assert outcome.code == 2
    assert "data.schema is nowhere.json, which is not there" in outcome.err
