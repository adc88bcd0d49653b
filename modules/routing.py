"""From ids to the shards that hold their rows, whatever the sharding type: a plan as rectangles.

Every sharding type of TorchRec cuts a table into rectangles of rows and columns, each on one rank.
An id travels to the rank of every rectangle that holds its row. Ids travel ahead of the step; what
is known only later (weights there, sums back) follows the same paths.
Letters: P parts of all ranks, G groups of this rank (requests, or targets), N behaviours,
T targets, E ids in the order they are sent.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.types import EmbeddingModuleShardingPlan
from torchrec.streamable import Multistreamable


@dataclass(frozen=True, order=True)
class Part:
    """One shard of a table: a rectangle of its rows and columns."""

    rank: int
    table: int
    first_column: int
    first_row: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Lane:
    """Parts of one table that share their columns; together they hold all rows."""

    table: int
    first_column: int
    columns: int
    parts: tuple[int, ...]
    """Numbers among all parts, by first row."""
    first_rows: tuple[int, ...]


@dataclass(frozen=True)
class PartMap:
    """Where all parts of a collection are.

    Args:
        parts: sorted, so by rank first.
        rank: this rank.
        world: ranks of the group.
    """

    parts: tuple[Part, ...]
    rank: int
    world: int

    @staticmethod
    def from_plan(
        plan: EmbeddingModuleShardingPlan, tables: Sequence[str], group: dist.ProcessGroup
    ) -> PartMap:
        """The rectangles of TorchRec's plan of one collection.

        Args:
            plan: by table; it names ranks of the whole job.
            tables: names, in the order that `Part.table` counts.
            group: the ranks that hold the tables.

        Raises:
            ValueError: a table has no shards, as with data_parallel.
        """
        parts = []
        for number, table in enumerate(tables):
            spec = plan[table].sharding_spec
            if spec is None:
                raise ValueError(
                    f"table {table} is {plan[table].sharding_type}, which has no shards to pool "
                    "on; shard it, or set model.embeddings.representation_lookup to unpooled"
                )
            for shard in spec.shards:  # type: ignore[attr-defined]
                (row, column), (rows, columns) = shard.shard_offsets, shard.shard_sizes
                if rows and columns:
                    place = dist.get_group_rank(group, shard.placement.rank())
                    parts.append(Part(place, number, column, row, rows, columns))
        rank, world = dist.get_rank(group), dist.get_world_size(group)
        return PartMap(tuple(sorted(parts)), rank, world)

    @functools.cached_property
    def lanes(self) -> tuple[Lane, ...]:
        """All lanes by their first part: where each is one part, in the order of the parts."""
        found: dict[tuple[int, int], list[int]] = {}
        for number, part in enumerate(self.parts):
            found.setdefault((part.table, part.first_column), []).append(number)
        lanes = []
        for (table, column), numbers in found.items():
            numbers.sort(key=lambda number: self.parts[number].first_row)
            first_rows = tuple(self.parts[number].first_row for number in numbers)
            columns = self.parts[numbers[0]].columns
            lanes.append(Lane(table, column, columns, tuple(numbers), first_rows))
        return tuple(sorted(lanes, key=lambda lane: min(lane.parts)))

    @functools.cached_property
    def parts_of_rank(self) -> list[int]:
        """Parts on each rank."""
        return [sum(part.rank == rank for part in self.parts) for rank in range(self.world)]

    @property
    def mine(self) -> list[Part]:
        """The parts on this rank, in order."""
        return [part for part in self.parts if part.rank == self.rank]

    @functools.cached_property
    def in_order(self) -> bool:
        """Every lane is one part: ids need no sorting by part."""
        return all(len(lane.parts) == 1 for lane in self.lanes)


@dataclass
class Slots(Multistreamable):
    """Ids of one rank's batch, as they are in it: behaviours in groups, and targets."""

    history: list[Tensor]
    """Of each table, [N]; empty where no use reads the history."""
    target: list[Tensor]
    """Of each table, [T]; empty where no use reads the target."""
    length_G: Tensor
    """Behaviours of each group, int64."""

    @property
    def num_behaviours(self) -> int:
        """N."""
        return max(ids.numel() for ids in self.history)

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the tensors alive until the stream is done with them."""
        for value in (*self.history, *self.target, self.length_G):
            value.record_stream(stream)


@dataclass
class Sent(Multistreamable):
    """What this rank sent, in the order of all parts; in each, behaviours before targets."""

    behaviour_E: Tensor | None
    """Which of the N behaviours each sent one is; None: all of them, lane after lane."""
    target_E: Tensor | None
    """Which of the T targets each sent one is, lane after lane; None: all, in order."""
    counts: list[tuple[int, int]]
    """Behaviours and targets sent to each part."""
    row_E: Tensor
    """Row within the part of everything sent, [all behaviours and targets sent]."""
    length_PG: Tensor
    """Behaviours of each group sent to each part."""
    longest: list[int]
    """Behaviours of the longest group, by part."""

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the tensors alive until the stream is done with them."""
        for value in (self.behaviour_E, self.target_E, self.row_E, self.length_PG):
            if value is not None:
                value.record_stream(stream)


def sort_by_part(parts: PartMap, slots: Slots) -> Sent:
    """Order a batch's ids by the part that holds their rows.

    An id of a table with several column parts is sent to each of them.
    """
    groups = slots.length_G.numel()
    device = slots.length_G.device
    sizes = [
        (slots.history[lane.table].numel(), slots.target[lane.table].numel())
        for lane in parts.lanes
    ]
    ids = [torch.cat([slots.history[n], slots.target[n]]) for n in (x.table for x in parts.lanes)]
    if parts.in_order:
        length_PG = slots.length_G.expand(len(parts.parts), groups)
        has_history = torch.tensor([n > 0 for n, _ in sizes], device=device)
        longest = int(slots.length_G.max()) if groups else 0
        return Sent(
            None,
            None,
            sizes,
            torch.cat(ids) if ids else slots.length_G.new_zeros(0),
            length_PG * has_history.unsqueeze(1),
            [longest if n else 0 for n, _ in sizes],
        )
    group_N = torch.repeat_interleave(torch.arange(groups, device=device), slots.length_G)
    keys, groups_sent, numbers = [], [], []
    for lane, id_E, (behaviours, targets) in zip(parts.lanes, ids, sizes, strict=True):
        bounds = torch.tensor(lane.first_rows[1:], device=device)
        number = torch.tensor(lane.parts, device=device)[torch.bucketize(id_E, bounds, right=True)]
        is_target = torch.arange(id_E.numel(), device=device) >= behaviours
        keys.append(number * 2 + is_target)
        groups_sent.append(number[:behaviours] * groups + group_N[:behaviours])
        numbers += [torch.arange(behaviours, device=device), torch.arange(targets, device=device)]
    first_row_P = torch.tensor([part.first_row for part in parts.parts], device=device)
    key_E, id_E, number_E = torch.cat(keys), torch.cat(ids), torch.cat(numbers)
    order_E = torch.argsort(key_E, stable=True)
    key_E, number_E = key_E[order_E], number_E[order_E]
    is_target_E = (key_E % 2).bool()
    length_PG = torch.bincount(torch.cat(groups_sent), minlength=len(parts.parts) * groups).view(
        len(parts.parts), groups
    )
    count_P2 = torch.bincount(key_E, minlength=2 * len(parts.parts)).view(-1, 2)
    longest_P = length_PG.amax(1) if groups else count_P2[:, 0]
    facts = torch.cat([count_P2, longest_P.unsqueeze(1)], dim=1).tolist()
    return Sent(
        number_E[~is_target_E],
        number_E[is_target_E],
        [(behaviours, targets) for behaviours, targets, _ in facts],
        id_E[order_E] - first_row_P[key_E // 2],
        length_PG,
        [longest for *_, longest in facts],
    )
