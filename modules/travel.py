"""The journey of a batch's ids to the shards that hold their rows; it starts ahead of the step.

Letters: G groups of behaviours of one rank (requests, or targets).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.types import Awaitable
from torchrec.streamable import Multistreamable

from modules.exchange import Wire, start_all_to_all, start_counts
from modules.routing import PartMap, Sent, Slots, sort_by_part

LookUp = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""From ids of each table, or part, to their rows, [N, D]; its backward is an optimizer step."""


@dataclass
class Shards:
    """What rows need of the module that holds them."""

    parts: PartMap
    group: dist.ProcessGroup
    look_up: LookUp
    """From ids of each part on this rank to their rows."""
    share: float
    """What the gradient of the tables is multiplied by: TorchRec averages over ranks."""
    wire: Wire
    """Of all that follows the ids."""


@dataclass
class Arrived(Multistreamable):
    """What this rank's parts got from all ranks: ids, and how they lie in groups."""

    ids: list[Tensor]
    """Rows of each part: behaviours of all ranks, then targets of all ranks."""
    lengths: list[Tensor]
    """Behaviours of each group of all ranks, by part."""
    counts: list[list[tuple[int, int]]]
    """Behaviours and targets from each rank, for each part."""
    longest: list[int]
    """Behaviours of the longest group, by part."""
    groups: list[int]
    """Groups of each rank."""
    fullest: list[int]
    """Targets of the fullest group of each rank, M."""

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the tensors alive until the stream is done with them."""
        for value in (*self.ids, *self.lengths):
            value.record_stream(stream)


class Travelling(Awaitable[tuple[Sent, Arrived]]):
    """Ids on their way, in two steps, so that neither waits for a step that is running.

    Making it tells each rank how many ids come, `depart` sends them, its wait tells where they went
    and what came. Each is a collective.

    Args:
        shards: where the tables are.
        slots: the ids of this rank's batch.
        fullest: targets of the fullest group.
    """

    def __init__(self, shards: Shards, slots: Slots, fullest: int) -> None:
        super().__init__()
        parts, group = shards.parts, shards.group
        self._shards = shards
        self._sent = sent = sort_by_part(parts, slots)
        groups = sent.length_PG.size(1)
        told: list[list[int]] = [[groups, fullest] for _ in range(parts.world)]
        for part, counts, longest in zip(parts.parts, sent.counts, sent.longest, strict=True):
            told[part.rank] += [*counts, longest]
        self._told, self._hear = told, start_counts(told, group)
        self._departed = False

    def depart(self) -> None:
        """Send the ids, once it is known how many come; a collective."""
        if self._departed:
            return
        self._departed = True
        shards, sent, self._heard = self._shards, self._sent, self._hear()
        groups = sent.length_PG.size(1)
        self._ids, self._ids_work = start_all_to_all(
            "pooled ids",
            sent.row_E,
            [sum(map(sum, _counts(of_rank))) for of_rank in self._told],
            [sum(map(sum, _counts(heard))) for heard in self._heard],
            shards.group,
        )
        self._lengths, self._lengths_work = start_all_to_all(
            "pooled lengths",
            sent.length_PG.flatten(),
            [number * groups for number in shards.parts.parts_of_rank],
            [len(shards.parts.mine) * heard[0] for heard in self._heard],
            shards.group,
        )

    def _wait_impl(self) -> tuple[Sent, Arrived]:
        self.depart()
        self._ids_work.wait()
        self._lengths_work.wait()
        mine = len(self._shards.parts.mine)
        step, groups = 2 * mine, [heard[0] for heard in self._heard]
        counts = [_counts(heard) for heard in self._heard]
        sizes = [size for of_rank in counts for pair in of_rank for size in pair]
        ids = torch.split(self._ids, sizes)
        lengths = torch.split(self._lengths, [number for number in groups for _ in range(mine)])
        arrived = Arrived(
            ids=[torch.cat(ids[2 * p :: step] + ids[2 * p + 1 :: step]) for p in range(mine)],
            lengths=[torch.cat(lengths[p::mine]) for p in range(mine)],
            counts=counts,
            longest=[max(heard[4 + 3 * p] for heard in self._heard) for p in range(mine)],
            groups=groups,
            fullest=[heard[1] for heard in self._heard],
        )
        return self._sent, arrived


def _counts(told: list[int]) -> list[tuple[int, int]]:
    """Behaviours and targets of each part: told are groups, their targets, then three a part."""
    return list(zip(told[2::3], told[3::3], strict=True))
