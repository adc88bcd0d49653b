"""`dare plan`: where the tables would live on machines that need not be here, and what it costs."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipelines import storage
from pipelines.schema import INTERVAL, DatasetSchema, SplitInfo, TableInfo, load_schema
from trainer.build import make_workload, read_planning
from trainer.config import TrainConfig
from trainer.distributed import RunContext
from trainer.planner.advice import explain
from trainer.planner.config import PlanConfig, TopologySpec
from trainer.planner.figures import format_plan
from trainer.planner.job import check_replication, place
from trainer.planner.planning import DoesNotFitError, find_plan
from trainer.planner.saved import read_rows, restore_plan
from trainer.planner.workload import job_topology
from trainer.report.figures import save_memory_figure
from trainer.sharding import model_tables


def plan_run(
    config: TrainConfig, *, out: str = "", picture: str = ""
) -> tuple[str, dict[str, Any]]:
    """Plan a run without a GPU and without a process group.

    Args:
        config: of the run.
        out: file for the plan, to be given back as `sharding.saved_plan`; empty for none.
        picture: SVG or PNG of the ranks' memory; empty for none.

    Returns:
        Tables for people, and all figures for JSON.

    Raises:
        ValueError: the planner config or the saved plan is wrong, or nothing fits.
    """
    started = time.perf_counter()
    schema = schema_or_sizes(config)
    machines = job_topology(RunContext(0, 1, 0, 1, _device(), None))
    planning = read_planning(config, schema, machines)
    workload = make_workload(config, schema, planning, machines)
    check_replication(workload)
    saved = config.sharding.saved_plan
    if saved:
        tables = model_tables(workload.model)
        plan = restore_plan(read_rows(saved), tables, workload.topology, saved)
    else:
        try:
            plan = find_plan(workload)
        except DoesNotFitError as failed:
            told = explain(
                config,
                workload,
                failed,
                lambda config, planning: make_workload(config, schema, planning, machines),
            )
            raise ValueError(told) from None
    placement = place(workload, plan)
    figures = placement.figures
    if out:
        Path(out).write_text(json.dumps(placement.rows, indent=1) + "\n")
    if picture:
        save_memory_figure(picture, figures.memory, title=_title(workload.topology, planning))
    found = {
        "name": config.name,
        "plan": config.sharding.plan,
        "saved_plan": saved,
        "seconds": round(time.perf_counter() - started, 3),
        **figures.as_json(),
    }
    return f"{_title(workload.topology, planning)}\n\n{format_plan(figures)}", found


def _device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _title(machines: TopologySpec, planning: PlanConfig) -> str:
    groups = planning.replication.groups
    copies = f"{groups} copies of all tables, each on " if groups > 1 else ""
    ranks, hosts = (
        f"{count:,} {noun}{'s' * (count > 1)}"
        for count, noun in ((machines.ranks, "rank"), (machines.hosts, "host"))
    )
    return f"{copies}{ranks} on {hosts} ({machines.device})"


def schema_or_sizes(config: TrainConfig) -> DatasetSchema:
    """The schema of the data; where there is none yet, one from the sizes in the config.

    Then every history is as long as `data.history_length` lets it be, and a request has one target.

    Raises:
        ValueError: there is no schema, and the config does not say how large all tables are.
    """
    data = config.data
    if storage.exists(data.schema) or not (data.item_rows and data.category_rows):
        return load_schema(data.schema)
    rows = {"item": data.item_rows, "category": data.category_rows, **data.feature_rows}
    unknown = [f for f in config.model.embeddings.features if f not in (*rows, INTERVAL)]
    if unknown:
        raise ValueError(
            f"data.schema is {data.schema}, which is not there, and data.feature_rows does not say "
            f"how many rows the table of {unknown[0]} has"
        )
    split = SplitInfo(
        rows=1,
        requests=1,
        targets=1,
        positives=0,
        history_length={"mean": float(data.history_length)},
        files=[],
    )
    return DatasetSchema(
        source="sizes",
        layout=data.layout,
        seed=0,
        protocol={},
        tables={name: TableInfo(rows=count, distinct=count) for name, count in rows.items()},
        splits={"train": split},
    )


def with_plan(config: TrainConfig, path: str) -> TrainConfig:
    """The config with another planner config."""
    return replace(config, sharding=replace(config.sharding, plan=path)) if path else config
