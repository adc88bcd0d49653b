"""A split as a stream of batches that can stop and go on at any batch.

Requests are shuffled within a window of several row groups. The order is a function of seed,
epoch and reader alone, so the place in it is four numbers and resuming reads one window again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from pipelines.batch import Batch, Requests, collate
from pipelines.parquet import IdRules, RowRange, read_requests, share_of
from pipelines.schema import Layout


@dataclass(frozen=True)
class StreamConfig:
    """What every reader of a split must agree on."""

    layout: Layout
    history_length: int
    batch_size: int
    shuffle_requests: int
    """Requests of a shuffle window; 0 keeps the order of the files."""
    shuffle_behaviours: int
    """Behaviours at which a shuffle window ends, whatever its requests."""
    seed: int
    ids: IdRules


@dataclass
class _Window:
    """Requests that are shuffled together."""

    number: int
    first_range: int
    next_range: int
    tables: list[Requests]
    table_of: np.ndarray
    place_in: np.ndarray
    targets: np.ndarray
    """Targets of each request, in the shuffled order, summed up: [R + 1]."""


class RequestDataset(IterableDataset[Batch]):
    """One rank's share of a split, cut among its loader's workers.

    Each pass over the dataset is an epoch; the next pass is the next epoch.

    Args:
        groups: all row groups of the split.
        config: how to read them.
        rank: number of this rank.
        world: ranks in all.
    """

    def __init__(
        self, groups: list[RowRange], config: StreamConfig, *, rank: int, world: int
    ) -> None:
        self.groups, self.config = groups, config
        self.rank, self.world = rank, world
        self.epoch = 0
        self._place = (0, 0, 0)
        self._ended = self._loaded = False

    def order(self) -> dict[str, Any]:
        """What must not change between a state and the reader that goes on from it."""
        return {
            "seed": self.config.seed,
            "data.shuffle_requests": self.config.shuffle_requests,
            "data.shuffle_behaviours": self.config.shuffle_behaviours,
            "data.layout": self.config.layout,
            "number of row groups": len(self.groups),
            "number of rows": sum(group.stop for group in self.groups),
            "number of ranks": self.world,
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch starts: epoch, window, its first row range, offset in it."""
        return {"epoch": self.epoch, "place": list(self._place), "ended": self._ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass go on where `state_dict` was taken; at an epoch's end it is empty."""
        self.epoch, self._ended = state["epoch"], state["ended"]
        window, first_range, offset = state["place"]
        self._place = (window, first_range, offset)
        self._loaded = True

    def __iter__(self) -> Iterator[Batch]:
        # A worker that has ended is asked again when its rank resumes in the same epoch: only a
        # pass that follows a pass, not one that follows a state, may begin the next epoch.
        if self._ended and not self._loaded:
            self.epoch += 1
            self._place, self._ended = (0, 0, 0), False
        self._loaded = False
        return iter(()) if self._ended else self._batches()

    def _batches(self) -> Iterator[Batch]:
        ranges = self._ranges()
        number, first_range, offset = self._place
        parts: list[tuple[Requests, np.ndarray]] = []
        room = self.config.batch_size
        while first_range < len(ranges):
            window = self._window(ranges, number, first_range)
            while offset < len(window.place_in):
                stop = _cut(window.targets, offset, room, allow_none=bool(parts))
                if stop > offset:
                    parts += _choose(window, offset, stop)
                    room -= int(window.targets[stop] - window.targets[offset])
                    offset = stop
                if offset < len(window.place_in):
                    self._place = (number, first_range, offset)
                    yield collate(parts)
                    parts, room = [], self.config.batch_size
            number, first_range, offset = number + 1, window.next_range, 0
        if parts:
            self._place = (number, first_range, 0)
            yield collate(parts)
        self._ended = True

    def _ranges(self) -> list[RowRange]:
        worker = get_worker_info()
        workers, me = (worker.num_workers, worker.id) if worker else (1, 0)
        shuffle = self.config.shuffle_requests > 0
        return share_of(
            self.groups,
            shard=self.rank * workers + me,
            num_shards=self.world * workers,
            seed=_mix(self.config.seed, self.epoch) if shuffle else None,
        )

    def _window(self, ranges: list[RowRange], number: int, first_range: int) -> _Window:
        """Read row ranges until the window is full, of requests or of behaviours; shuffle them."""
        config = self.config
        tables: list[Requests] = []
        next_range = first_range
        while next_range < len(ranges):
            tables.append(
                read_requests(
                    ranges[next_range],
                    layout=config.layout,
                    history_length=config.history_length,
                    ids=config.ids,
                )
            )
            next_range += 1
            behaviours = sum(len(table.history_item) for table in tables)
            enough = behaviours >= config.shuffle_behaviours
            if enough or sum(map(len, tables)) >= config.shuffle_requests:
                break
        table_of = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        place_in = np.concatenate([np.arange(len(table)) for table in tables])
        if config.shuffle_requests > 0:
            seed = _mix(config.seed, self.epoch, number, first_range, ranges[first_range].start)
            order = np.random.default_rng(seed).permutation(len(place_in))
            table_of, place_in = table_of[order], place_in[order]
        count = np.zeros(len(place_in), np.int64)
        for which, table in enumerate(tables):
            mine = table_of == which
            count[mine] = table.targets_of(place_in[mine])
        return _Window(
            number,
            first_range,
            next_range,
            tables,
            table_of,
            place_in,
            np.concatenate([[0], np.cumsum(count)]),
        )


def _mix(*numbers: int) -> int:
    """One seed of several numbers, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _cut(targets: np.ndarray, offset: int, room: int, *, allow_none: bool) -> int:
    """Where a batch with room for so many targets ends; at least one request if it is empty."""
    stop = int(np.searchsorted(targets, targets[offset] + room, side="right")) - 1
    return stop if allow_none else max(stop, offset + 1)


def _choose(window: _Window, start: int, stop: int) -> list[tuple[Requests, np.ndarray]]:
    table_of, place_in = window.table_of[start:stop], window.place_in[start:stop]
    return [(window.tables[which], place_in[table_of == which]) for which in np.unique(table_of)]
