"""A split as a stream of batches that can stop and go on at any batch.

Requests are shuffled within a window of several row groups. The order is a function of seed,
epoch and reader alone, so the place in it is five numbers and resuming reads one window again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from pipelines.batch import Batch, collate
from pipelines.ids import IdRules
from pipelines.parquet import read_requests
from pipelines.place import Place, Share, share_after, window_key
from pipelines.requests import Requests
from pipelines.row_groups import RowRange, shuffled
from pipelines.schema import Layout

EpochOrder = Literal["new", "same"]
"""Whether an epoch has an order of its own or that of the first."""
Targets = Literal["together", "apart"]
"""Whether a request's targets are in one batch, or each is a request of its own."""
LastBatch = Literal["keep", "drop"]
"""What becomes of a reader's last batch where another request would have fitted in."""


@dataclass(frozen=True)
class StreamConfig:
    """What every reader of a split must agree on."""

    layout: Layout
    history_length: int
    batch_size: int
    """Targets of a batch at most."""
    shuffle_requests: int
    """Requests of a shuffle window; 0 keeps the order of the files."""
    shuffle_behaviours: int
    """Behaviours at which a shuffle window ends, whatever its requests."""
    seed: int
    ids: IdRules
    behaviours_per_batch: int = 0
    """Behaviours of a batch at most; 0 for any number."""
    targets: Targets = "together"
    epoch_order: EpochOrder = "new"
    last_batch: LastBatch = "keep"


class Read(NamedTuple):
    """A batch, and where its reader stands after it."""

    batch: Batch
    worker: int
    """Number of the reader within its rank."""
    place: Place


@dataclass(frozen=True)
class Start:
    """Where the readers of a rank begin their first pass; the next passes are whole epochs."""

    epoch: int = 0
    cuts: Sequence[Sequence[Place]] = ()
    """Of each number of readers that were at the epoch before, where all of them stood."""
    places: Sequence[Place] = ()
    """Of this rank's readers; empty where they start at the beginning of their shares."""
    first_worker: int = 0
    """Which of them is asked first."""


class RequestDataset(IterableDataset[Read]):
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
        self._start = Start()

    def order(self) -> dict[str, int | str]:
        """What must not change between a place and the readers that go on from it."""
        return {
            "seed": self.config.seed,
            "data.shuffle_requests": self.config.shuffle_requests,
            "data.shuffle_behaviours": self.config.shuffle_behaviours,
            "data.layout": self.config.layout,
            "data.targets": self.config.targets,
            "data.epoch_order": self.config.epoch_order,
            "number of row groups": len(self.groups),
            "number of rows": sum(group.stop for group in self.groups),
        }

    def start_at(self, start: Start) -> None:
        """Let the next pass begin there."""
        self._start = start

    def __iter__(self) -> Iterator[Read]:
        start, self._start = self._start, Start(epoch=self._start.epoch + 1)
        info = get_worker_info()
        workers, number = (info.num_workers, info.id) if info else (1, 0)
        worker = (number + start.first_worker) % workers
        ranges = self.groups
        epoch = start.epoch if self.config.epoch_order == "new" else 0
        if self.config.shuffle_requests > 0:
            ranges = shuffled(ranges, _mix(self.config.seed, epoch))
        share = share_after(
            ranges,
            start.cuts,
            reader=self.rank * workers + worker,
            readers=self.world * workers,
        )
        place = start.places[worker] if start.places else Place()
        reader = _Reader(self.config, share, epoch)
        return (Read(batch, worker, after) for batch, after in reader.batches(place))


@dataclass(frozen=True)
class _Window:
    """Requests that are shuffled together, in their order."""

    tables: list[Requests]
    table_of: np.ndarray
    place_in: np.ndarray
    targets: np.ndarray
    """Targets of each request, summed up: [R + 1]."""
    behaviours: np.ndarray
    """Behaviours of each request, summed up: [R + 1]."""

    def __len__(self) -> int:
        return len(self.place_in)

    def choose(self, start: int, stop: int) -> list[tuple[Requests, np.ndarray]]:
        """Some requests, as `collate` takes them."""
        table_of, place_in = self.table_of[start:stop], self.place_in[start:stop]
        return [(self.tables[which], place_in[table_of == which]) for which in np.unique(table_of)]


@dataclass
class _Filling:
    """The batch that is being cut; it may take requests of several windows."""

    targets_left: int
    behaviours_left: int
    parts: list[tuple[Requests, np.ndarray]] = field(default_factory=list)

    def take(self, window: _Window, start: int) -> int:
        """Take requests from `start` on as long as there is room, at least one if empty.

        Returns:
            The first request that was not taken.
        """
        stop = min(
            int(np.searchsorted(total, total[start] + left, side="right")) - 1
            for total, left in (
                (window.targets, self.targets_left),
                (window.behaviours, self.behaviours_left),
            )
        )
        stop = max(stop, start if self.parts else start + 1)
        if stop > start:
            self.parts += window.choose(start, stop)
            self.targets_left -= int(window.targets[stop] - window.targets[start])
            self.behaviours_left -= int(window.behaviours[stop] - window.behaviours[start])
        return stop


class _Reader:
    """Reads a share window by window."""

    def __init__(self, config: StreamConfig, share: Share, epoch: int) -> None:
        self.config, self.share, self.epoch = config, share, epoch

    def batches(self, place: Place) -> Iterator[tuple[Batch, Place]]:
        """The batches from a place on, each with the place after it."""
        filling = self._empty()
        while (found := self._window(place)) is not None:
            window, place = found
            done = place.done
            while done < len(window):
                done = filling.take(window, done)
                if done < len(window):
                    yield collate(filling.parts), place._replace(done=done)
                    filling = self._empty()
            place = Place(place.window + 1, place.next_range, place.next_range)
        if filling.parts:
            last = collate(filling.parts)
            full = filling.targets_left < last.num_targets
            if full or self.config.last_batch == "keep":
                yield last, place

    def _empty(self) -> _Filling:
        anything = np.iinfo(np.int64).max // 2
        return _Filling(self.config.batch_size, self.config.behaviours_per_batch or anything)

    def _window(self, place: Place) -> tuple[_Window, Place] | None:
        """The window of a place, and the place with its end filled in; None at the end."""
        if place.window < len(self.share.leftovers):
            leftover = self.share.leftovers[place.window]
            tables = [self._read(rows) for rows in leftover.ranges]
            window = self._shuffle(tables, leftover.key, leftover.start, leftover.stop)
            return window, place._replace(requests=len(window))
        ranges, first, following = self.share.ranges, place.first_range, place.first_range
        if first >= len(ranges):
            return None
        tables = []
        while following < len(ranges):
            tables.append(self._read(ranges[following]))
            following += 1
            behaviours = sum(len(table.history["item"]) for table in tables)
            enough = behaviours >= self.config.shuffle_behaviours
            if enough or sum(map(len, tables)) >= self.config.shuffle_requests:
                break
        window = self._shuffle(tables, window_key(place.window, first, ranges[first:following]))
        return window, place._replace(next_range=following, requests=len(window))

    def _read(self, rows: RowRange) -> Requests:
        requests = read_requests(
            rows,
            layout=self.config.layout,
            history_length=self.config.history_length,
            ids=self.config.ids,
        )
        return requests.with_targets_apart() if self.config.targets == "apart" else requests

    def _shuffle(
        self, tables: list[Requests], key: tuple[int, ...], start: int = 0, stop: int | None = None
    ) -> _Window:
        """Put requests in their window's order, and keep those from `start` to `stop` of it."""
        table_of = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        place_in = np.concatenate([np.arange(len(table)) for table in tables])
        if self.config.shuffle_requests > 0:
            seed = _mix(self.config.seed, self.epoch, *key)
            order = np.random.default_rng(seed).permutation(len(place_in))
            table_of, place_in = table_of[order], place_in[order]
        table_of, place_in = table_of[start:stop], place_in[start:stop]
        targets, behaviours = np.zeros((2, len(place_in) + 1), np.int64)
        for which, table in enumerate(tables):
            mine = np.flatnonzero(table_of == which)
            targets[mine + 1] = table.targets_of(place_in[mine])
            behaviours[mine + 1] = table.behaviours_of(place_in[mine])
        return _Window(tables, table_of, place_in, np.cumsum(targets), np.cumsum(behaviours))


def _mix(*numbers: int) -> int:
    """One seed of several numbers, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
