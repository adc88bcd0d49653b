"""A job's plan: from its planner config, or one that was saved; the same on all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec.distributed.types import ShardingPlan

from trainer.distributed import RunContext
from trainer.planner.config import PlanConfig, TopologySpec, load_plan_config
from trainer.planner.figures import PlanFigures, plan_figures
from trainer.planner.planning import DoesNotFitError, estimate, find_plan, shortfall
from trainer.planner.saved import Row, plan_rows, read_rows, restore_plan, saved_precisions
from trainer.planner.workload import Workload, group_topology, job_topology
from trainer.sharding import ShardingConfig, model_tables, table_kinds


@dataclass(frozen=True)
class Placement:
    """A plan, as a job, a file and a reader take it."""

    plan: ShardingPlan
    rows: list[Row]
    """One a shard, as in `plan.json`."""
    figures: PlanFigures
    """What it costs."""


def check_job(config: PlanConfig, job: TopologySpec) -> None:
    """Compare the machines of a planner config with those of the running job.

    Raises:
        ValueError: they differ, one line a difference.
    """
    if config.topology is None:
        return
    mistakes = [
        f"sharding.plan: topology.{name} is {getattr(config.topology, name)}, this job has "
        f"{getattr(job, name)}; start it so, or leave topology out"
        for name in ("device", "hosts", "gpus_a_host")
        if getattr(config.topology, name) != getattr(job, name)
    ]
    if mistakes:
        raise ValueError("\n".join(mistakes))


def check_replication(workload: Workload) -> None:
    """Check that replicated tables can be averaged.

    Raises:
        ValueError: TorchRec cannot average the state of the tables' optimizer.
    """
    groups = workload.config.replication.groups
    # DMPCollection of torchrec 1.6 to 1.8 looks for rowwise Adagrad's state and no other.
    averaged = workload.fused_params["optimizer"] == EmbOptimType.EXACT_ROWWISE_ADAGRAD
    if groups > 1 and not averaged:
        raise ValueError(
            f"sharding.plan: replication.groups is {groups}; TorchRec's DMPCollection averages the "
            "state of one optimizer only: set optim.sparse.name rowwise_adagrad"
        )


def describe(workload: Workload, failed: DoesNotFitError) -> str:
    """What lacks where, in one line."""
    return f"sharding.plan: no plan fits: {shortfall(workload, failed.nearest)}"


def make_plan(
    model: nn.Module,
    context: RunContext,
    config: ShardingConfig,
    *,
    fused_params: dict[str, Any],
    pooling: Mapping[str, float],
    batch_size: int,
    explain: Callable[[Workload, DoesNotFitError], str] = describe,
) -> ShardingPlan:
    """Let TorchRec's planner place the tables, or take a saved plan; a collective.

    Args:
        model: with its collections on meta.
        context: of this process.
        config: the user's planner config or saved plan.
        fused_params: the tables' optimizer, whose state takes memory too.
        pooling: mean ids a request by feature, from the data's own statistics.
        batch_size: requests a step and rank.
        explain: what to tell where nothing fits.

    Raises:
        ValueError: the planner config or the saved plan is wrong or for another job, or nothing
            fits; one line a mistake.
    """
    machines = job_topology(context)
    planning = load_plan_config(config.plan, table_kinds(model), machines.device)
    check_job(planning, machines)
    workload = Workload(
        model=model,
        config=planning,
        topology=group_topology(planning, machines),
        fused_params=fused_params,
        pooling=pooling,
        batch_size=batch_size,
    )
    check_replication(workload)
    if config.saved_plan:
        rows = read_rows(config.saved_plan)
        return restore_plan(rows, model_tables(model), workload.topology, config.saved_plan)
    # One rank plans: TorchRec's search goes over sets, whose order differs between processes.
    outcome: list[ShardingPlan | str | None] = [None]
    if context.is_main:
        try:
            outcome = [find_plan(workload)]
        except DoesNotFitError as failed:
            outcome = [explain(workload, failed)]
    if context.world > 1:
        dist.broadcast_object_list(outcome, src=0, group=context.control)
    if not isinstance(outcome[0], ShardingPlan):
        raise ValueError(outcome[0])
    return outcome[0]


def place(workload: Workload, plan: ShardingPlan) -> Placement:
    """Add rows and figures to a plan; before sharding, which takes the tables off the model."""
    # The order of the tables in a plan is the search's; a reader wants the model's.
    tables = model_tables(workload.model)
    order = list(tables)
    options = sorted(estimate(workload, plan), key=lambda option: order.index(option.name))
    return Placement(plan, plan_rows(plan, tables), plan_figures(workload, options))


def with_saved_precisions(config: PlanConfig, path: str) -> PlanConfig:
    """A planner config whose tables have the precisions of a saved plan, where there is one."""
    if not path:
        return config
    tables = dict(config.tables)
    for name, precision in saved_precisions(read_rows(path)).items():
        if name in tables:
            tables[name] = replace(tables[name], precision=precision)
    return replace(config, tables=tables)
