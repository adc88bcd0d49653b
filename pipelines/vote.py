"""What ranks tell each other of each batch: whether there is one, its weight, whether to stop."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
import torch.distributed as dist

from pipelines.batch import Batch
from pipelines.place import Place


@dataclass(frozen=True)
class Result:
    """What the ranks said of a batch."""

    readers: int
    """Ranks that have one."""
    weight: float
    imbalance: float
    """Behaviours of the fullest rank over the mean of all."""
    stop: bool
    """Whether a rank was asked to stop."""


class Vote:
    """This rank's batch or none, where it stands after it, and its voice among the ranks."""

    def __init__(
        self,
        batch: Batch | None,
        places: tuple[Place, ...],
        next_reader: int,
        group: dist.ProcessGroup | None,
        *,
        stop: bool,
    ) -> None:
        self.batch, self.places, self.next_reader = batch, places, next_reader
        rank, world = (0, 1) if group is None else (group.rank(), group.size())
        self._numbers = torch.zeros(3 + world, dtype=torch.float64)
        self._numbers[2] = stop
        if batch is not None:
            self._numbers[0], self._numbers[1] = 1.0, batch.total_weight
            self._numbers[3 + rank] = batch.num_behaviours
        self._sum = (
            None if group is None else dist.all_reduce(self._numbers, group=group, async_op=True)
        )

    def wait(self) -> Result:
        """The sum over the ranks; a collective that was begun when the batch was read."""
        if self._sum is not None:
            self._sum.wait()
        readers, weight, stop, *behaviours = self._numbers.tolist()
        mean = statistics.fmean(behaviours)
        return Result(int(readers), weight, max(behaviours) / mean if mean else 1.0, stop > 0)
