"""Batches for one rank: the loader, the vote that keeps ranks in step, the place to resume from."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torchdata.stateful_dataloader import StatefulDataLoader

from pipelines.batch import Batch, padding_batch
from pipelines.place import Place
from pipelines.stream import Read, RequestDataset, Start
from pipelines.vote import Result, Vote
from pipelines.workers import begin_reader, forkserver, in_words, kill_readers

logger = logging.getLogger(__name__)

_REMEMBERED_PLACES = 16
_NEVER = 1 << 60
_UNTOLD = {"data.targets": "together", "data.epoch_order": "new"}
"""What decides the order of requests, and places of earlier versions do not tell."""


class BatchStream(Iterator[Batch]):
    """Batches of one or more epochs, equally many on every rank.

    For each batch the ranks vote over `group`: as long as one of them has data, all go on, and
    those without get a weightless padding batch. The vote also carries the weights, so that each
    batch knows the sum over all ranks before the forward pass. It is held one batch ahead: sent
    when a batch is read, needed when the batch is handed out. And it carries whether a rank was
    asked to stop: then the stream ends at the same batch on all of them, and can be gone on with
    from there. Nothing is read any more then, and a read that is under way may be left.

    Args:
        dataset: this rank's share.
        workers: processes that read ahead.
        epochs: passes over the data.
        group: a gloo group of all ranks, None for one rank.
        pin_memory: copy batches to page-locked memory.
        stop: whether this rank was asked to stop.
        phase: entered, with words for what is done, around what may hang.
        patience: entered around a read; it may leave it where this rank was asked to stop.
    """

    def __init__(
        self,
        dataset: RequestDataset,
        *,
        workers: int,
        epochs: int,
        group: dist.ProcessGroup | None,
        pin_memory: bool,
        stop: Callable[[], bool] = lambda: False,
        phase: Callable[[str], AbstractContextManager[None]] = lambda _: contextlib.nullcontext(),
        patience: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._dataset, self._group, self._epochs = dataset, group, epochs
        self._stop, self._phase, self._patience = stop, phase, patience
        self.stopped = False
        """Whether it has ended because a rank was asked to stop."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*set_vital.*")  # torchdata 0.11 calls it.
            # Its snapshots go on with as many workers only: places travel with batches instead.
            self._loader: StatefulDataLoader[Read] = StatefulDataLoader(
                dataset,
                batch_size=None,
                num_workers=workers,
                snapshot_every_n_steps=_NEVER,
                pin_memory=pin_memory,
                persistent_workers=workers > 0,
                multiprocessing_context=forkserver() if workers else None,
                # Left to itself it draws from the generator of training, at each start anew.
                generator=torch.Generator(),
                worker_init_fn=begin_reader,
            )
        self._readers = max(1, workers)
        self._start = Start(places=[Place()] * self._readers)
        self._iterator: Iterator[Read] | None = None
        self._read_out = False
        """This rank's share of the epoch is over; it may have to wait for other ranks."""
        self._ahead: Vote | None = None
        self._places, self._next_reader = list(self._start.places), 0
        self._standings: OrderedDict[int, _Standing] = OrderedDict()
        self.epoch = 0
        self.batches = 0
        """Batches given out, over all epochs and resumed runs."""
        self.samples = 0.0
        """Weight of their targets, over all ranks."""
        self.waited_s = 0.0
        """Seconds spent waiting for data and votes."""

    def __next__(self) -> Batch:
        started = time.perf_counter()
        try:
            while self.epoch < self._epochs and not self.stopped:
                vote, self._ahead = self._ahead or self._next_vote(), None
                with self._phase("waiting for the batches of other ranks"):
                    result = vote.wait()
                self.stopped = result.stop
                if result.stop:
                    kill_readers(self._iterator)
                    break
                if result.readers:
                    self._ahead = self._next_vote()
                    return self._hand_out(vote, result)
                self.epoch += 1
                self._iterator, self._read_out = None, False
                self._places, self._next_reader = [Place()] * self._readers, 0
            raise StopIteration
        finally:
            self.waited_s += time.perf_counter() - started

    def _next_vote(self) -> Vote:
        """Read a batch, if there is one, and let the other ranks know."""
        with self._phase("reading data"):
            read = self._read()
        self._read_out = read is None
        if read is not None:
            self._places[read.worker] = read.place
            self._next_reader = (read.worker + 1) % self._readers
        batch = None if read is None else read.batch
        return Vote(batch, tuple(self._places), self._next_reader, self._group, stop=self._stop())

    def _read(self) -> Read | None:
        if self._stop():  # It would not be handed out.
            return None
        try:
            with self._patience():
                if self._iterator is None:
                    self._iterator = iter(self._loader)
                return None if self._read_out else next(self._iterator, None)
        except ValueError as error:
            raise in_words(error, self._loader.num_workers) from error
        except (OSError, EOFError, RuntimeError) as error:
            # A worker may have ended: all that belongs to a job may be asked to.
            if self._stop() and self._loader.num_workers:
                return None
            raise in_words(error, self._loader.num_workers) from error
        return None  # It was left.

    def _hand_out(self, vote: Vote, result: Result) -> Batch:
        batch = vote.batch
        if batch is None:
            batch = padding_batch(tuple(self._dataset.config.ids.rows))
        batch.total_weight.fill_(result.weight)
        self.batches += 1
        self.samples += result.weight
        self._remember(
            _Standing(self.epoch, self.samples, vote.places, vote.next_reader, result.imbalance)
        )
        return batch

    def _remember(self, standing: _Standing) -> None:
        self._standings[self.batches] = standing
        if len(self._standings) > _REMEMBERED_PLACES:
            self._standings.popitem(last=False)

    def imbalance_of(self, batch: int) -> float:
        """Behaviours of the fullest rank over the mean of all, in the batch of a number, from 1.

        Raises:
            KeyError: the batch was given out too long ago.
        """
        return self._standings[batch].imbalance

    def place_after(self, batches: int) -> dict[str, Any]:
        """Where all ranks go on after so many batches; a collective.

        Pipelines read a few batches ahead of training, so the last places are remembered.

        Returns:
            What JSON can hold, the same on every rank.

        Raises:
            KeyError: the batch was given out too long ago.
        """
        standing = self._standings[batches]
        mine = {"next_reader": standing.next_reader, "places": standing.places}
        ranks = [mine]
        if self._group is not None:
            ranks = [{}] * self._dataset.world
            dist.all_gather_object(ranks, mine, group=self._group)
        return {
            "epoch": standing.epoch,
            "batches": batches,
            "samples": standing.samples,
            "order": self._dataset.order(),
            "cuts": list(self._start.cuts) if standing.epoch == self._start.epoch else [],
            "ranks": ranks,
        }

    def restore(self, place: dict[str, Any]) -> None:
        """Go on from a place of `place_after`, in a stream that has not started.

        As many readers as there were (ranks x workers) go on where each of them stood; with
        another number, what is left of the epoch is cut among those there are.

        Raises:
            ValueError: something that decides the order of the requests is not as it was.
        """
        for name, value in self._dataset.order().items():
            earlier = place["order"].get(name, _UNTOLD.get(name))
            if earlier != value:
                raise ValueError(
                    f"{name} is {value}, the checkpoint was written with {earlier}; "
                    "resume with that, or start a new run"
                )
        ranks, rank, world = place["ranks"], self._dataset.rank, self._dataset.world
        before = [Place(*numbers) for one in ranks for numbers in one["places"]]
        cuts = [[Place(*numbers) for numbers in cut] for cut in place["cuts"]]
        places, first = [Place()] * self._readers, 0
        if len(before) != world * self._readers:
            cuts.append(before)
            logger.info(
                "%d readers have begun the epoch, %d go on: what is left is cut anew",
                len(before),
                world * self._readers,
            )
        else:
            places = before[rank * self._readers : (rank + 1) * self._readers]
            first = ranks[rank]["next_reader"] if len(ranks) == world else 0
        self._start = Start(place["epoch"], cuts, places, first)
        self._dataset.start_at(self._start)
        self._places, self._next_reader = list(places), first
        self.epoch, self.batches, self.samples = place["epoch"], place["batches"], place["samples"]
        self._remember(_Standing(self.epoch, self.samples, tuple(places), first))


@dataclass(frozen=True)
class _Standing:
    """Where this rank goes on after a batch."""

    epoch: int
    samples: float
    places: tuple[Place, ...]
    """Of its readers."""
    next_reader: int
    """Whose turn it is."""
    imbalance: float = 1.0
    """Of the batch."""
