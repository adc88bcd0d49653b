"""One step of pooled tables over ranks: ids travel ahead, weights follow, sums come back.

Letters: as in `modules.pooled` and `modules.routing`; E ids in the order they were sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad
from torchrec.distributed.types import Awaitable
from torchrec.streamable import Multistreamable

from modules.exchange import all_to_all, all_to_all_counts, scale_gradient, start_all_to_all
from modules.pooled import LookUp, Pooled, jagged_groups, kept_slots, pool_groups
from modules.routing import PartMap, Sent, Slots, sort_by_part


@dataclass
class Arrived(Multistreamable):
    """What this rank's parts got from all ranks: ids, and how they lie in groups."""

    ids: list[Tensor]
    """Rows of each part, behaviours of all ranks, then targets of all ranks."""
    lengths: list[Tensor]
    """Behaviours of each group of all ranks, by part."""
    counts: list[list[tuple[int, int]]]
    """Behaviours and targets from each rank, for each part."""
    longest: list[int]
    """Behaviours of the longest group, by part."""
    groups: list[int]
    """Groups of each rank."""
    sums: list[int]
    """Sums a group of each rank, C."""

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the tensors alive until the stream is done with them."""
        for value in (*self.ids, *self.lengths):
            value.record_stream(stream)


class Travelling(Awaitable[Any]):
    """Ids on their way; its wait gives a pool that has them."""

    def __init__(self, pool: ShardedPool, slots: Slots, sums: int) -> None:
        super().__init__()
        parts, group = pool.shards.parts, pool.shards.group
        self._pool, self.sent = pool, sort_by_part(parts, slots)
        groups = self.sent.length_PG.size(1)
        told: list[list[int]] = [[groups, sums] for _ in range(parts.world)]
        for part, counts, longest in zip(
            parts.parts, self.sent.counts, self.sent.longest, strict=True
        ):
            told[part.rank] += [*counts, longest]
        self._heard = all_to_all_counts(told, group)
        self._ids, self._ids_work = start_all_to_all(
            "pooled ids",
            self.sent.row_E,
            [sum(map(sum, _counts(told_rank))) for told_rank in told],
            [sum(map(sum, _counts(heard))) for heard in self._heard],
            group,
        )
        self._lengths, self._lengths_work = start_all_to_all(
            "pooled lengths",
            self.sent.length_PG.flatten(),
            [number * groups for number in parts.parts_of_rank],
            [len(parts.mine) * heard[0] for heard in self._heard],
            group,
        )

    def _wait_impl(self) -> ShardedPool:
        self._ids_work.wait()
        self._lengths_work.wait()
        mine = len(self._pool.shards.parts.mine)
        step = 2 * mine
        groups = [heard[0] for heard in self._heard]
        counts = [_counts(heard) for heard in self._heard]
        ids = torch.split(
            self._ids, [size for of_rank in counts for pair in of_rank for size in pair]
        )
        lengths = torch.split(self._lengths, [number for number in groups for _ in range(mine)])
        self._pool.sent = self.sent
        self._pool.arrived = Arrived(
            ids=[torch.cat(ids[2 * p :: step] + ids[2 * p + 1 :: step]) for p in range(mine)],
            lengths=[torch.cat(lengths[p::mine]) for p in range(mine)],
            counts=counts,
            longest=[max(heard[4 + 3 * p] for heard in self._heard) for p in range(mine)],
            groups=groups,
            sums=[heard[1] for heard in self._heard],
        )
        return self._pool


def _counts(told: list[int]) -> list[tuple[int, int]]:
    """Behaviours and targets of each part: told are groups, sums a group, then three a part."""
    return list(zip(told[2::3], told[3::3], strict=True))


@dataclass
class Shards:
    """What a pool needs of its module."""

    parts: PartMap
    group: dist.ProcessGroup
    look_up: LookUp
    """From ids of each part on this rank to their rows."""
    share: float
    """What the gradient of the tables is multiplied by: TorchRec averages over ranks."""


class ShardedPool(Multistreamable):
    """A `Pool` whose tables are on several ranks.

    Args:
        shards: where the tables are.
        slots: the ids of this rank's batch.
    """

    def __init__(self, shards: Shards, slots: Slots) -> None:
        self.shards, self.slots = shards, slots
        self.sent: Sent
        self.arrived: Arrived

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the tensors alive until the stream is done with them."""
        self.slots.record_stream(stream)
        if hasattr(self, "arrived"):
            self.arrived.record_stream(stream)
            self.sent.record_stream(stream)

    def whole(self, weight_RCL: Tensor) -> list[Pooled]:
        """As `Pool.whole`; a collective, also backward."""
        length_R = self.slots.length_G
        behaviours = max(ids.numel() for ids in self.slots.history)
        weight_NC = jagged_groups(weight_RCL.transpose(1, 2), length_R, behaviours)
        return self._pool(weight_NC)

    def kept(self, behaviour_TK: Tensor, valid_TK: Tensor, weight_TK: Tensor) -> list[Pooled]:
        """As `Pool.kept`; a collective, also backward."""
        self.slots = kept_slots(self.slots, behaviour_TK, valid_TK)
        Travelling(self, self.slots, 1).wait()
        return self._pool(weight_TK[valid_TK].unsqueeze(1))

    def _pool(self, weight_NC: Tensor) -> list[Pooled]:
        tie, weights = self._send_weights(weight_NC)
        shards, arrived = self.shards, self.arrived
        rows = [scale_gradient(row_ED, shards.share) for row_ED in shards.look_up(arrived.ids)]
        return self._collect(self._return_sums(tie, weights, rows), weight_NC.size(1))

    def _send_weights(self, weight_NC: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Weights of the behaviours of each part here, [behaviours of all ranks, most sums].

        Before them, an empty view of what came: it ties the way back to the way there even on a
        rank without parts, because their backward is a collective.
        """
        parts, arrived, sums = self.shards.parts, self.arrived, weight_NC.size(1)
        if self.sent.behaviour_E is None:
            weight_EC = torch.cat([weight_NC[:behaviours] for behaviours, _ in self.sent.counts])
        else:
            weight_EC = weight_NC.index_select(0, self.sent.behaviour_E)
        sent = [0] * parts.world
        for part, (behaviours, _) in zip(parts.parts, self.sent.counts, strict=True):
            sent[part.rank] += behaviours * sums
        sizes = [
            [b * c for b, _ in counts]
            for counts, c in zip(arrived.counts, arrived.sums, strict=True)
        ]
        flat = all_to_all(
            "pooled weights",
            weight_EC.flatten(),
            sent,
            [sum(size) for size in sizes],
            self.shards.group,
        )
        most, mine = max(arrived.sums), len(parts.mine)
        pieces = torch.split(flat, [size for of_rank in sizes for size in of_rank])
        return flat[:0], [
            torch.cat(
                [
                    pad(piece.view(-1, c), (0, most - c))
                    for piece, c in zip(pieces[p::mine], arrived.sums, strict=True)
                ]
            )
            for p in range(mine)
        ]

    def _return_sums(self, tie: Tensor, weights: list[Tensor], rows: list[Tensor]) -> Tensor:
        """Sums and targets' rows of each part, sent back to whom they are for, flat."""
        arrived, parts = self.arrived, self.shards.parts
        back: list[list[Tensor]] = [[] for _ in range(parts.world)]
        for p, (weight_BC, row_ED) in enumerate(zip(weights, rows, strict=True)):
            behaviours = weight_BC.size(0)
            sum_GCD = pool_groups(
                row_ED[:behaviours], weight_BC, arrived.lengths[p], arrived.longest[p]
            ).float()
            targets = torch.split(row_ED[behaviours:], [counts[p][1] for counts in arrived.counts])
            for rank, sum_of_rank in enumerate(torch.split(sum_GCD, arrived.groups)):
                back[rank] += [
                    sum_of_rank[:, : arrived.sums[rank]].flatten(),
                    targets[rank].flatten(),
                ]
        groups, sums = self.sent.length_PG.size(1), arrived.sums[parts.rank]
        expected = [0] * parts.world
        for part, (_, targets_sent) in zip(parts.parts, self.sent.counts, strict=True):
            expected[part.rank] += part.columns * (groups * sums + targets_sent)
        flat = torch.cat([tie, *(piece for pieces in back for piece in pieces)])
        sizes = [sum(piece.numel() for piece in pieces) for pieces in back]
        return all_to_all("pooled sums", flat, sizes, expected, self.shards.group)

    def _collect(self, flat: Tensor, sums: int) -> list[Pooled]:
        """Add the rows' parts, join the columns' parts."""
        parts, groups = self.shards.parts, self.sent.length_PG.size(1)
        targets = [count for _, count in self.sent.counts]
        sizes = []
        for part, count in zip(parts.parts, targets, strict=True):
            sizes += [part.columns * groups * sums, part.columns * count]
        pieces = torch.split(flat, sizes)
        places = None if self.sent.target_E is None else torch.split(self.sent.target_E, targets)
        columns: dict[int, list[tuple[int, Tensor, Tensor]]] = {}
        for lane in parts.lanes:
            sums_of_parts = [pieces[2 * p].view(groups, sums, lane.columns) for p in lane.parts]
            sum_GCD = torch.stack(sums_of_parts).sum(0)
            row_TD = torch.cat([pieces[2 * p + 1].view(-1, lane.columns) for p in lane.parts])
            if places is not None:
                order_T = torch.argsort(torch.cat([places[p] for p in lane.parts]))
                row_TD = row_TD.index_select(0, order_T)
            columns.setdefault(lane.table, []).append((lane.first_column, sum_GCD, row_TD))
        pooled = []
        for table in sorted(columns):
            _, all_sums, all_rows = zip(*sorted(columns[table], key=lambda c: c[0]), strict=True)
            pooled.append(Pooled(torch.cat(all_sums, dim=2), torch.cat(all_rows, dim=1)))
        return pooled
