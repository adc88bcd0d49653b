"""The road every preparation takes: raw rows, event store, lives in chunks, requests, parquet."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipelines import storage
from pipelines.from_json import MOST
from pipelines.prepare.event_store import EventStore, Resources
from pipelines.prepare.negatives import NegativeSampler
from pipelines.prepare.protocol import Lives, Protocol, RequestBuilder
from pipelines.prepare.raw_file import Quarantine, RawFormat, ReadCounts, check_raw, read_rows
from pipelines.prepare.rows import Parse
from pipelines.prepare.writer import SPLITS, DatasetWriter
from pipelines.schema import FEATURES, DatasetSchema, Layout

# Just under the row group size of the writer, so that a chunk of lives is one even row group.
CHUNK_BEHAVIOURS = 1_000_000
_LOG_EVERY_ROWS = 10_000_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What all preparations have in common.

    Raises:
        ValueError: an option is out of range.
    """

    source: str
    raw: str
    out: str
    layout: Layout
    history_length: int
    protocol: Protocol
    resources: Resources
    max_bad_rows: int
    seed: int
    options: dict[str, Any]
    """What else shaped the data, by command line name."""
    features: tuple[str, ...] = ()
    """Further features of behaviours, which `parse` returns too."""
    target_features: tuple[str, ...] = ()
    """Those of them that targets have."""

    def __post_init__(self) -> None:
        least = {"history_length": 1, "max_bad_rows": 0, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if not low <= value <= MOST:
                limit = f"at least {low}" if value < low else f"at most {MOST}"
                raise ValueError(f"--{name} is {value}; it must be {limit}")

    def recorded(self) -> dict[str, Any]:
        """Every option that shaped the data, by its command line name."""
        names = ("raw", "out", "history_length", "max_bad_rows")
        protocol = dataclasses.asdict(self.protocol)
        return {
            **{name: getattr(self, name) for name in names},
            **{f"protocol.{name}": value for name, value in protocol.items()},
            **self.options,
        }


def prepare(job: Preparation, form: RawFormat, parse: Parse) -> DatasetSchema:
    """Make a dataset from a raw log.

    Args:
        job: where from, where to, and how.
        form: how the raw file is written.
        parse: what its rows mean.

    Raises:
        ValueError: the raw file is not what it should be, or nothing is left of it.
        RuntimeError: the event store failed, as for want of memory or disk.
    """
    # Nothing is written for a raw log that is not there, and a folder in use is refused before
    # hours of reading, by both of the next two.
    check_raw(job.raw)
    _check_unused(job.out)
    writer = DatasetWriter(
        job.out,
        layout=job.layout,
        history_length=job.history_length,
        features=job.features,
        target_features=job.target_features,
    )
    local = job.out if Path(job.out).is_dir() else None
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=local) as scratch:
        try:
            with closing(EventStore(scratch, job.resources, job.features)) as store:
                counts = _read(job, form, parse, store)
                return _write(job, store, writer, counts)
        except duckdb.Error as error:
            # No kind of error that commands turn into a line.
            raise RuntimeError(
                f"the event store in {scratch} failed: {error}; where it lacks memory or disk, "
                f"raise --resources.memory_gb (now {job.resources.memory_gb}) or make room"
            ) from error


def _check_unused(out: str) -> None:
    # Files that an interrupted run left would be read as part of the new dataset.
    for split in SPLITS:
        try:
            found = storage.find(storage.join(out, split))
        except ValueError:
            continue
        if not storage.exists(storage.join(out, "schema.json")):
            raise ValueError(
                f"--out is {out}, which holds an unfinished dataset ({found[0]}); remove it or "
                "choose another"
            )


def _read(job: Preparation, form: RawFormat, parse: Parse, store: EventStore) -> dict[str, Any]:
    counts = ReadCounts()
    with Quarantine(job.out, raw=job.raw, max_bad_rows=job.max_bad_rows) as quarantine:
        told = 0
        for events in read_rows(job.raw, form, parse, quarantine, counts):
            store.add(events)
            if counts.read - told >= _LOG_EVERY_ROWS:
                told = counts.read
                _log.info("read %d million rows of %s", told // 1_000_000, job.raw)
    held = store.num_events()
    _log.info("read %d rows, %d of them are wanted events", counts.read, held)
    dropped = {"damaged": counts.damaged, **dict(sorted(counts.dropped.items()))}
    if not held:
        raise ValueError(
            f"--raw {job.raw} has {counts.read} rows and none is left: {dropped}; see "
            f"{storage.join(job.out, 'quarantine.csv')} for damaged ones"
        )
    repeated = store.count_repeated()
    if job.protocol.repeated == "drop":
        store.drop_repeated()
        dropped["repeated"] = repeated
    return {"read": counts.read, "repeated": repeated, "dropped": dropped}


def _write(
    job: Preparation, store: EventStore, writer: DatasetWriter, counts: dict[str, Any]
) -> DatasetSchema:
    store.number_ids()
    distinct = store.num_ids()
    user, clicks = store.users(job.protocol.min_clicks)
    sampler = NegativeSampler(store.item_clicks())
    builder = RequestBuilder(
        job.protocol,
        sampler=sampler,
        item_category=store.item_category(),
        seed=job.seed,
        target_features=job.target_features,
    )
    num_events, total = store.num_events(), int(clicks.sum())
    done = 0
    for chunk, lives in enumerate(_chunks(store, user, clicks, job)):
        for split, table in builder.build(lives, chunk).items():
            writer.add(split, table)
        done += lives.item.size
        _log.info("wrote %d of %d behaviours", done, total)
    kept = total - builder.clicks_without_negatives
    users_kept = user.size - builder.users_without_negatives
    dropped = counts["dropped"] | {
        "user with too few clicks": num_events - total,
        "user without a possible negative": builder.clicks_without_negatives,
    }
    if not users_kept:
        raise ValueError(
            f"none of the {distinct['user']} users of {job.raw} is left: --protocol.min_clicks is "
            f"{job.protocol.min_clicks}, dropped were {dropped}; lower it for a small log"
        )
    assert counts["read"] == kept + sum(dropped.values()), "a row was lost without a reason"
    store.write_ids(storage.join(job.out, "ids"))
    tables = (*FEATURES, *job.features)
    return writer.close(
        source=job.source,
        seed=job.seed,
        protocol=job.recorded(),
        distinct={name: distinct[name] for name in tables},
        rows={name: distinct[name] + 1 for name in tables},
        counts={
            "read": counts["read"],
            "kept": kept,
            "dropped": dropped,
            "repeated": counts["repeated"],
            "users": distinct["user"],
            "users_kept": users_kept,
            "items_with_two_categories": store.items_with_two_categories(),
            "requests_without_history": builder.requests_without_history,
        },
    )


def _chunks(
    store: EventStore, user: np.ndarray, clicks: np.ndarray, job: Preparation
) -> Iterator[Lives]:
    """Whole lives, about `CHUNK_BEHAVIOURS` at a time; cut by the lives alone."""
    if not user.size:
        return
    number = (np.cumsum(clicks) - 1) // CHUNK_BEHAVIOURS
    first = np.flatnonzero(np.diff(number, prepend=-1))
    stream = _Stream(store.lives(job.protocol.min_clicks, job.protocol.order))
    for start, stop in zip(first, np.append(first[1:], user.size), strict=True):
        offsets = np.concatenate([[0], np.cumsum(clicks[start:stop])])
        table = stream.take(int(offsets[-1]))
        yield Lives(
            user=user[start:stop],
            offsets=offsets,
            **{name: table[name].to_numpy() for name in ("item", "category", "timestamp")},
            features={name: table[name].to_numpy() for name in job.features},
        )


class _Stream:
    """Record batches of any size as tables of the size one asks for."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._held: list[pa.RecordBatch] = []
        self._rows = 0

    def take(self, rows: int) -> pa.Table:
        while self._rows < rows:
            self._held.append(next(self._batches))
            self._rows += self._held[-1].num_rows
        table = pa.Table.from_batches(self._held)
        self._held = table.slice(rows).to_batches()
        self._rows -= rows
        return table.slice(0, rows)
