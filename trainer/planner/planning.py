"""From a planner config to a plan: TorchRec's planner, and what lacks where nothing fits."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner import types as planner_types
from torchrec.distributed.planner.planners import to_sharding_plan
from torchrec.distributed.planner.proposers import (
    DynamicProgrammingProposer,
    GreedyProposer,
    GridSearchProposer,
    UniformProposer,
)
from torchrec.distributed.planner.stats import NoopEmbeddingStats
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    PerfModel,
    PlannerError,
    Shard,
    ShardingOption,
    Storage,
    Topology,
)
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    ParameterSharding,
    ShardingPlan,
)

from trainer.planner.config import Proposer, TableSpec
from trainer.planner.workload import StatefulEnumerator, Workload, make_constraints, make_topology
from trainer.report.headline import format_bytes
from trainer.sharding import sharders

_MAX_GRID = 1000
"""Combinations that the grid tries; with more it proposes nothing, and the greedy ones decide."""
_BOUNDLESS = 1 << 60
"""Bytes that no plan fills."""


class DoesNotFitError(Exception):
    """No plan fits.

    Args:
        nearest: the plan whose fullest rank lacks least.
    """

    def __init__(self, nearest: list[ShardingOption]) -> None:
        super().__init__()
        self.nearest = nearest


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """What the nearest plan lacks on its fullest rank."""

    rank: int
    memory: str
    """`HBM` or `host memory`."""
    missing_bytes: int
    used_bytes: int
    capacity_bytes: int
    """What a rank's tables may take."""
    table: str
    """The table that takes most of it."""
    table_bytes: int

    def __str__(self) -> str:
        return (
            f"rank {self.rank} lacks {self.missing_bytes:,} bytes of {self.memory}: its tables "
            f"take {format_bytes(self.used_bytes)} of {format_bytes(self.capacity_bytes)}, "
            f"{self.table} alone {format_bytes(self.table_bytes)}"
        )


def find_plan(workload: Workload) -> ShardingPlan:
    """Let TorchRec's planner place the tables.

    Raises:
        DoesNotFitError: nothing fits.
        ValueError: no plan is possible, whatever the memory.
    """
    try:
        return _within_memory(workload)
    except PlannerError:
        pass
    boundless = make_topology(workload.topology, hbm=_BOUNDLESS, host=_BOUNDLESS)
    judge = _LeastLack(workload.hbm_capacity, workload.host_capacity)
    try:
        nearest = _search(workload, boundless, judge)
    except PlannerError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"sharding.plan: no plan whatever the memory: {reason}") from error
    raise DoesNotFitError(nearest)


def fits(workload: Workload) -> bool:
    """Whether there is a plan; the greedy search proves it, and takes least time."""
    try:
        _within_memory(replace(workload, config=replace(workload.config, proposer="greedy")))
    except PlannerError:
        return False
    return True


def _within_memory(workload: Workload) -> ShardingPlan:
    topology = make_topology(
        workload.topology, hbm=workload.hbm_capacity, host=workload.host_capacity
    )
    return to_sharding_plan(_search(workload, topology, None), topology)


def _search(
    workload: Workload, topology: Topology, judge: PerfModel | None
) -> list[ShardingOption]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        planner = EmbeddingShardingPlanner(
            topology=topology,
            constraints=make_constraints(workload),
            batch_size=workload.batch_size,
            enumerator=StatefulEnumerator(topology, workload),
            # The topology is told what the config reserves, of both memories.
            storage_reservation=FixedPercentageStorageReservation(0.0),
            proposer=_proposers(workload.config.proposer),
            performance_model=judge,
            stats=NoopEmbeddingStats(),
            debug=False,
        )
        planner.plan(workload.model, sharders(workload.fused_params))
    # TorchRec 1.6 to 1.8 keeps the estimates of its plan in this attribute only.
    return cast(list[ShardingOption], planner._best_plan)


def _proposers(name: Proposer) -> list[planner_types.Proposer]:
    """The chosen search, and the greedy ones, which find something where it proposes nothing."""
    greedy = [GreedyProposer(), GreedyProposer(use_depth=False)]
    if name == "grid":
        return [GridSearchProposer(max_proposals=_MAX_GRID), *greedy]
    if name == "uniform":
        return [UniformProposer(), *greedy]
    if name == "dynamic_programming":
        return [DynamicProgrammingProposer(), *greedy]
    return list(greedy)


class _LeastLack(PerfModel):
    """Rates a plan by the bytes that its fullest rank lacks."""

    def __init__(self, hbm: int, host: int) -> None:
        self.hbm, self.host = hbm, host

    def rate(self, plan: list[ShardingOption]) -> float:
        used = used_by_rank(plan).values()
        return float(max(max(0, u.hbm - self.hbm) + max(0, u.ddr - self.host) for u in used))


def used_by_rank(plan: Sequence[ShardingOption]) -> dict[int, Storage]:
    """Bytes of HBM and of host memory by rank, of ranks that hold something."""
    used: dict[int, Storage] = {}
    for option in plan:
        for shard in option.shards:
            rank = cast(int, shard.rank)
            used[rank] = used.get(rank, Storage(0, 0, 0)) + cast(Storage, shard.storage)
    return used


def shortfall(workload: Workload, nearest: Sequence[ShardingOption]) -> Shortfall:
    """What lacks on the fullest rank of a plan that does not fit."""
    capacity = {"HBM": workload.hbm_capacity, "host memory": workload.host_capacity}

    def size(storage: Storage, memory: str) -> int:
        return int(storage.hbm if memory == "HBM" else storage.ddr)

    lacks = [
        (size(used, memory) - capacity[memory], -rank, memory, size(used, memory))
        for rank, used in used_by_rank(nearest).items()
        for memory in capacity
    ]
    missing, minus_rank, memory, used = max(lacks)
    here = {
        option.name: sum(
            size(cast(Storage, shard.storage), memory)
            for shard in option.shards
            if shard.rank == -minus_rank
        )
        for option in nearest
    }
    table = max(here, key=lambda name: here[name])
    return Shortfall(
        rank=-minus_rank,
        memory=memory,
        missing_bytes=missing,
        used_bytes=used,
        capacity_bytes=capacity[memory],
        table=table,
        table_bytes=here[table],
    )


def estimate(workload: Workload, plan: ShardingPlan) -> list[ShardingOption]:
    """What a plan costs, whoever made it: an option a table, its shards with rank and storage."""
    placed = {
        (path, table): placement
        for path, tables in plan.plan.items()
        for table, placement in cast(EmbeddingModuleShardingPlan, tables).items()
    }
    topology = make_topology(
        workload.topology, hbm=workload.hbm_capacity, host=workload.host_capacity
    )
    enumerator = StatefulEnumerator(topology, _only(workload, placed))
    options = enumerator.enumerate(workload.model, sharders(workload.fused_params))
    for option in options:
        placement = placed[option.path, option.name]
        parts = getattr(placement.sharding_spec, "shards", None)
        if parts is not None:
            option.shards = [
                Shard(size=list(part.shard_sizes), offset=list(part.shard_offsets))
                for part in parts
            ]
        for shard, rank in zip(option.shards, cast(list[int], placement.ranks), strict=True):
            shard.rank = rank
    enumerator.populate_estimates(options)
    return options


def _only(workload: Workload, placed: dict[tuple[str, str], ParameterSharding]) -> Workload:
    """The workload whose tables may do what a plan does with them, nothing else."""
    specs = workload.config.tables
    tables = {
        table: replace(
            specs.get(table, TableSpec()),
            sharding_types=(placement.sharding_type,),
            compute_kernels=(placement.compute_kernel,),
        )
        for (_, table), placement in placed.items()
    }
    return replace(workload, config=replace(workload.config, tables=tables))
