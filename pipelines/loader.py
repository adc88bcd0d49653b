"""Batches for one rank: the loader, the vote that keeps ranks in step, the place to resume from."""

from __future__ import annotations

import multiprocessing
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torchdata.stateful_dataloader import StatefulDataLoader

from pipelines.batch import Batch, padding_batch
from pipelines.parquet import IdMode, IdRules, hash_ids, list_row_groups, read_requests
from pipelines.schema import DatasetSchema, Layout
from pipelines.stream import RequestDataset, StreamConfig

Split = Literal["train", "val", "test"]
_REMEMBERED_PLACES = 16
_COLLISION_SAMPLE = 4_000_000


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data is and how it becomes batches."""

    layout: Layout = "user"
    """`user`: one row a user, whose life is stored once. `request`: one row a request."""
    train: str = "data/synthetic/train"
    """Training requests: a file, a folder, or a glob."""
    val: str = "data/synthetic/val"
    """Validation requests."""
    test: str = "data/synthetic/test"
    """Test requests."""
    schema: str = "data/synthetic/schema.json"
    """What `dare prepare` wrote about the data."""
    history_length: int = 200
    """Behaviours a history has at most, the newest."""
    batch_size: int = 2048
    """Targets a step and rank at most; a request's targets stay together."""
    shuffle_requests: int = 131072
    """Requests that are shuffled together, drawn from several row groups; memory grows with it."""
    shuffle_behaviours: int = 1 << 27
    """Behaviours of stored histories at which these end too: 16 bytes each, so 2 GiB a reader (each
    rank has `data.workers` of them, at least one). One row group is always read whole."""
    ids: IdMode = "check"
    """`check`: an id outside its table is an error. `hash`: ids are hashed into the table."""
    item_rows: int = 0
    """Rows of the item table; 0 takes the schema's."""
    category_rows: int = 0
    """Rows of the category table; 0 takes the schema's."""
    workers: int = 0
    """Processes a rank that read ahead; 0 reads in the training process."""

    def __post_init__(self) -> None:
        for name, least in (
            ("history_length", 1),
            ("batch_size", 1),
            ("shuffle_requests", 0),
            ("shuffle_behaviours", 1),
            ("item_rows", 0),
            ("category_rows", 0),
            ("workers", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name} is {getattr(self, name)}; at least {least}")

    def rows(self, schema: DatasetSchema) -> dict[str, int]:
        """Rows of the tables.

        Raises:
            ValueError: a table is smaller than the data, or than hashing, needs.
        """
        rows = {}
        for name, asked in (("item", self.item_rows), ("category", self.category_rows)):
            needed = schema.tables[name].rows
            rows[name] = asked or needed
            if self.ids == "check" and rows[name] < needed:
                raise ValueError(
                    f"data.{name}_rows is {asked}, the data has ids up to {needed - 1}; "
                    f"give at least {needed}, or 0 for just that, or data.ids hash"
                )
            if self.ids == "hash" and rows[name] < 2:
                raise ValueError(
                    f"data.{name}_rows is {rows[name]}; data.ids hash leaves row 0 free and needs "
                    "at least 2"
                )
        return rows


def make_dataset(
    config: DataConfig, split: Split, schema: DatasetSchema, *, seed: int, rank: int, world: int
) -> RequestDataset:
    """One rank's share of a split; only training is shuffled.

    Raises:
        ValueError: no file, or columns that do not fit the layout.
    """
    pattern: str = getattr(config, split)
    try:
        groups = list_row_groups(pattern, config.layout)
    except ValueError as error:
        raise ValueError(f"data.{split}: {error}") from error
    stream = StreamConfig(
        layout=config.layout,
        history_length=config.history_length,
        batch_size=config.batch_size,
        shuffle_requests=config.shuffle_requests if split == "train" else 0,
        shuffle_behaviours=config.shuffle_behaviours,
        seed=seed,
        ids=IdRules(config.rows(schema), config.ids),
    )
    return RequestDataset(groups, stream, rank=rank, world=world)


class BatchStream(Iterator[Batch]):
    """Batches of one or more epochs, equally many on every rank.

    Before each batch the ranks vote over `group`: as long as one of them has data, all go on, and
    those without get a weightless padding batch. The vote also carries the weights, so that each
    batch knows the sum over all ranks before the forward pass.

    Args:
        dataset: this rank's share.
        workers: processes that read ahead.
        epochs: passes over the data.
        group: a gloo group of all ranks, None for one rank.
        pin_memory: copy batches to page-locked memory.
    """

    def __init__(
        self,
        dataset: RequestDataset,
        *,
        workers: int,
        epochs: int,
        group: dist.ProcessGroup | None,
        pin_memory: bool,
    ) -> None:
        self._loader: StatefulDataLoader[Batch] = StatefulDataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            multiprocessing_context=_forkserver() if workers else None,
        )
        self._group, self._epochs = group, epochs
        self._order = {**dataset.order(), "data.workers": workers}
        self._iterator: Iterator[Batch] | None = None
        self._read_out = False
        """This rank's share of the epoch is over; it may have to wait for other ranks."""
        self._places: OrderedDict[int, dict[str, Any]] = OrderedDict()
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
            while True:
                batch = self._read()
                readers, weight = self._vote(batch)
                if readers:
                    batch = padding_batch() if batch is None else batch
                    batch.total_weight.fill_(weight)
                    self.samples += weight
                    self._remember()
                    return batch
                self.epoch += 1
                if self.epoch >= self._epochs:
                    raise StopIteration
                self._iterator, self._read_out = None, False
        finally:
            self.waited_s += time.perf_counter() - started

    def _read(self) -> Batch | None:
        if self._read_out:
            return None
        if self._iterator is None:
            self._iterator = iter(self._loader)
        try:
            batch = next(self._iterator, None)
        except (ValueError, OSError) as error:
            raise _without_traceback(error) from error
        self._read_out = batch is None
        return batch

    def _vote(self, batch: Batch | None) -> tuple[int, float]:
        mine = (0.0, 0.0) if batch is None else (1.0, float(batch.total_weight))
        if self._group is None:
            return int(mine[0]), mine[1]
        votes = torch.tensor(mine, dtype=torch.float64)
        dist.all_reduce(votes, group=self._group)
        return int(votes[0]), float(votes[1])

    def _remember(self) -> None:
        self.batches += 1
        self._places[self.batches] = {
            "epoch": self.epoch,
            "batches": self.batches,
            "samples": self.samples,
            "order": self._order,
            "read_out": self._read_out,
            "loader": self._loader.state_dict(),
        }
        if len(self._places) > _REMEMBERED_PLACES:
            self._places.popitem(last=False)

    def place_after(self, batches: int) -> dict[str, Any]:
        """Where this rank goes on after so many batches; pipelines read a few ahead of training.

        Raises:
            KeyError: the batch was given out too long ago.
        """
        return self._places[batches]

    def restore(self, place: dict[str, Any]) -> None:
        """Go on from a place of `place_after`, in a stream that has not started.

        Raises:
            ValueError: something that decides the order of the requests is not as it was.
        """
        for name, value in self._order.items():
            before = place["order"].get(name)
            if before != value:
                raise ValueError(
                    f"{name} is {value}, the checkpoint was written with {before}; "
                    "resume with that, or start a new run"
                )
        self.epoch, self.batches = place["epoch"], place["batches"]
        self.samples, self._read_out = place["samples"], place["read_out"]
        self._loader.load_state_dict(place["loader"])
        self._places[self.batches] = place


def _without_traceback(error: ValueError | OSError) -> ValueError | OSError:
    """What a worker raised; torch's loader wraps it into the text of the worker's traceback."""
    _, _, message = str(error).rpartition(f"\n{type(error).__name__}: ")
    return type(error)(message.strip()) if message and "Traceback" in str(error) else error


def _forkserver() -> BaseContext:
    """Workers by fork from a small server, not from a process with GPU threads.

    The server imports the reader once; otherwise each worker would spend seconds on it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.stream"])
    return context


def count_collisions(dataset: RequestDataset) -> dict[str, tuple[int, int]]:
    """How many ids share a row after hashing, over the first few million behaviours of a share.

    Returns:
        By table: different ids, and how many of them share their row with another.
    """
    config = dataset.config
    seen: dict[str, list[np.ndarray]] = {"item": [], "category": []}
    read = 0
    for rows in dataset.groups:
        if read >= _COLLISION_SAMPLE:
            break
        requests = read_requests(
            rows,
            layout=config.layout,
            history_length=config.history_length,
            ids=IdRules({}, "as_is"),
        )
        read += len(requests.history_item)
        seen["item"] += [np.unique(requests.history_item), np.unique(requests.target_item)]
        seen["category"] += [
            np.unique(requests.history_category),
            np.unique(requests.target_category),
        ]
    return {name: _collisions(parts, config.ids.rows[name]) for name, parts in seen.items()}


def _collisions(parts: list[np.ndarray], rows: int) -> tuple[int, int]:
    ids = np.unique(np.concatenate([np.zeros(0, np.int64), *parts]))
    _, count = np.unique(hash_ids(ids, rows), return_counts=True)
    return len(ids), int(count[count > 1].sum())
