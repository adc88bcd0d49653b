"""What a plan costs: by table, and by rank in memory and in bytes a step over the network."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torchrec.distributed.planner.types import ShardingOption, Storage

from trainer.planner.workload import ID_BYTES, Workload, pooled_factors, shard_traffic, state_bytes
from trainer.report.headline import format_bytes
from trainer.sharding import model_tables

_WEIGHT_BYTES = 4
_LISTED_RANKS = 16
"""Ranks that the text lists one by one; of more it shows the least, the median and the most."""


@dataclass(frozen=True, kw_only=True)
class TableFigures:
    """A table in a plan; bytes over all ranks of one copy."""

    table: str
    collection: str
    kind: str
    rows: int
    width: int
    precision: str
    sharding: str
    kernel: str
    shards: int
    ranks: int
    """Ranks that hold a shard."""
    weight_bytes: int
    hbm_bytes: int
    """With optimizer state, caches, and the ids and rows of a step."""
    host_bytes: int


@dataclass(frozen=True, kw_only=True)
class RankFigures:
    """A rank in a plan; what it sends and receives a step, forward and backward, to others."""

    rank: int
    hbm_bytes: int = 0
    host_bytes: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    sent_between_hosts_bytes: int = 0
    received_between_hosts_bytes: int = 0


_MEASURES = tuple(name for name in RankFigures.__dataclass_fields__ if name != "rank")


@dataclass(frozen=True, kw_only=True)
class PlanFigures:
    """What a plan costs, as TorchRec estimates it."""

    tables: list[TableFigures]
    ranks: list[RankFigures]
    """Of one group of replicated tables; the other groups are the same."""
    groups: int
    sync_every: int
    sync_bytes: int
    """What a rank sends when the groups average their tables; 0 where there is one."""
    hbm_capacity_bytes: int
    """Of a rank, for tables: the reservation is taken off."""
    host_capacity_bytes: int
    memory: dict[str, list[int]]
    """Bytes by table and rank; a table's part in host memory beside a GPU goes apart."""

    def imbalance(self) -> dict[str, float]:
        """The fullest rank over the mean rank, of each measure that is not zero everywhere."""
        found = {}
        for measure in _MEASURES:
            values = [getattr(rank, measure) for rank in self.ranks]
            if any(values):
                found[measure] = round(max(values) / statistics.fmean(values), 4)
        return found

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return {
            "ranks": len(self.ranks) * self.groups,
            "groups": self.groups,
            "sync_every": self.sync_every,
            "sync_bytes": self.sync_bytes,
            "hbm_capacity_bytes": self.hbm_capacity_bytes,
            "host_capacity_bytes": self.host_capacity_bytes,
            "imbalance": self.imbalance(),
            "tables": [dataclasses.asdict(table) for table in self.tables],
            "by_rank": [dataclasses.asdict(rank) for rank in self.ranks],
        }


def plan_figures(workload: Workload, options: Sequence[ShardingOption]) -> PlanFigures:
    """Add a plan up.

    Args:
        workload: what is placed.
        options: one a table, its shards with rank and storage.
    """
    world, replication = workload.topology.ranks, workload.config.replication
    totals = {measure: [0.0] * world for measure in _MEASURES}
    memory, copied = dict[str, list[int]](), [0] * world
    for option in options:
        _add_memory(option, totals)
        _add_traffic(option, workload, totals)
        memory |= _memory(option, workload)
        element_bytes = option.tensor.element_size()
        for shard in option.shards:
            rows, columns = shard.size
            copied[cast(int, shard.rank)] += rows * columns * element_bytes + sum(
                state_bytes(rows, columns, workload.fused_params)
            )
    groups = replication.groups
    return PlanFigures(
        tables=[_table(option, workload) for option in options],
        ranks=[
            RankFigures(rank=rank, **{name: round(totals[name][rank]) for name in _MEASURES})
            for rank in range(world)
        ],
        groups=groups,
        sync_every=replication.sync_every,
        sync_bytes=2 * (groups - 1) * max(copied) // groups,
        hbm_capacity_bytes=workload.hbm_capacity,
        host_capacity_bytes=workload.host_capacity,
        memory=memory,
    )


def _memory(option: ShardingOption, workload: Workload) -> dict[str, list[int]]:
    """Bytes by rank, under the table's name; what lies in host memory beside a GPU apart."""
    hbm, host = ([0] * workload.topology.ranks for _ in range(2))
    for shard in option.shards:
        rank, storage = cast(int, shard.rank), cast(Storage, shard.storage)
        hbm[rank] += storage.hbm
        host[rank] += storage.ddr
    if workload.topology.device == "cpu":
        return {option.name: host}
    return {option.name: hbm} | ({f"{option.name}, host memory": host} if any(host) else {})


def _add_memory(option: ShardingOption, totals: dict[str, list[float]]) -> None:
    for shard in option.shards:
        rank, storage = cast(int, shard.rank), cast(Storage, shard.storage)
        totals["hbm_bytes"][rank] += storage.hbm
        totals["host_bytes"][rank] += storage.ddr


def _table(option: ShardingOption, workload: Workload) -> TableFigures:
    table = model_tables(workload.model)[option.name]
    storage = option.total_storage
    return TableFigures(
        table=option.name,
        collection=option.path.removeprefix("ranker.embeddings.collections."),
        kind=table.kind,
        rows=table.rows,
        width=table.width,
        precision=table.precision,
        sharding=option.sharding_type,
        kernel=option.compute_kernel,
        shards=option.num_shards,
        ranks=len({shard.rank for shard in option.shards}),
        weight_bytes=sum(s.size[0] * s.size[1] for s in option.shards) * table.element_bytes,
        hbm_bytes=storage.hbm,
        host_bytes=storage.ddr,
    )


def _add_traffic(
    option: ShardingOption, workload: Workload, totals: dict[str, list[float]]
) -> None:
    """What a table makes ranks exchange.

    TorchRec's own sizes of a shard: the ids that reach it from all ranks, and the rows, or a vector
    a request, that it gives back. Backward, gradients of those reach it. A pooled table gives back
    several vectors a request, and gets a float of weight for each sum that an id is part of, whose
    gradient goes back. Each rank asks for an equal part of it all, and what it asks itself stays
    at home.
    """
    world, local = workload.topology.ranks, workload.topology.gpus_a_host
    asked_share, weight_share, vectors = 1.0, 0.0, 1.0
    if option.is_pooled:
        asked_share, weights, vectors = pooled_factors(option, workload)
        weight_share = weights * _WEIGHT_BYTES / ID_BYTES
    reach, leave = [0.0] * world, [0.0] * world
    for shard, ids, rows in zip(option.shards, *shard_traffic(option, workload), strict=True):
        rank, sent = cast(int, shard.rank), ids * asked_share
        reach[rank] += sent * (1 + weight_share) + rows * vectors
        leave[rank] += rows * vectors + sent * weight_share
    for where, group in (("", 1), ("_between_hosts", local)):
        # By group of ranks that need not leave it: a rank itself, or a host.
        to_others, from_others = (
            [(sum(part) - sum(part[n : n + group])) / world for n in range(0, world, group)]
            for part in (reach, leave)
        )
        away = (world - group) / world
        for rank in range(world):
            asked, answered = to_others[rank // group], from_others[rank // group]
            totals[f"sent{where}_bytes"][rank] += asked + leave[rank] * away
            totals[f"received{where}_bytes"][rank] += answered + reach[rank] * away


def format_plan(figures: PlanFigures) -> str:
    """Two tables for people: tables and ranks."""
    tables = [("table", "rows", "width", "type", "sharding", "kernel", "shards", "HBM", "host")]
    tables += [
        (
            t.table,
            f"{t.rows:,}",
            str(t.width),
            t.precision,
            t.sharding,
            t.kernel,
            f"{t.shards} on {t.ranks} ranks",
            format_bytes(t.hbm_bytes),
            format_bytes(t.host_bytes),
        )
        for t in figures.tables
    ]
    ranks: list[tuple[str, ...]] = [
        ("rank", "HBM", "host", "sent", "received", "sent between hosts", "received between hosts")
    ]
    if len(figures.ranks) <= _LISTED_RANKS:
        for rank in figures.ranks:
            values = (format_bytes(getattr(rank, measure)) for measure in _MEASURES)
            ranks.append((str(rank.rank), *values))
    ordered = [sorted(getattr(rank, m) for rank in figures.ranks) for m in _MEASURES]
    for label, place in (("least", 0.0), ("median", 0.5), ("most", 1.0)):
        index = round(place * (len(figures.ranks) - 1))
        ranks.append((label, *(format_bytes(values[index]) for values in ordered)))
    imbalance = figures.imbalance()
    ranks.append(("most over mean", *(f"{imbalance.get(m, 1.0):.3f}" for m in _MEASURES)))
    text = f"{_columns(tables)}\n\n{_columns(ranks)}"
    if figures.groups > 1:
        text += (
            f"\n\nTo average the {figures.groups} copies a rank sends "
            f"{format_bytes(figures.sync_bytes)} every {figures.sync_every} steps, "
            f"{format_bytes(figures.sync_bytes / figures.sync_every)} a step."
        )
    return text


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
