"""Users as plain Python, their parquet files, and what a right reader must make of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipelines.batch import Batch
from pipelines.ids import IdRules
from pipelines.schema import LAYOUTS, Layout
from pipelines.stream import EpochOrder, LastBatch, Read, StreamConfig, Targets

ROWS = {"item": 100_000, "category": 50}
Seen = tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[float, ...]]
"""Whose request, history items and categories newest first, target items, labels."""


@dataclass(frozen=True)
class Request:
    history_end: int
    item: list[int]
    category: list[int]
    label: list[float]


@dataclass(frozen=True)
class User:
    user_id: int
    item: list[int]
    category: list[int]
    requests: list[Request]


def draw_users(count: int, *, seed: int = 0, most_requests: int = 4) -> list[User]:
    """Ragged users, some without behaviours, some without requests; no two targets are equal."""
    random = np.random.default_rng(seed)
    next_item, users = 50_000, []
    for user_id in range(1, count + 1):
        life = int(random.integers(0, 12)) * int(random.random() > 0.2)
        requests = []
        for end in sorted(random.integers(0, life + 1, int(random.integers(0, most_requests + 1)))):
            targets = int(random.integers(1, 5))
            requests.append(
                Request(
                    int(end),
                    list(range(next_item, next_item + targets)),
                    random.integers(1, 50, targets).tolist(),
                    random.integers(0, 2, targets).astype(float).tolist(),
                )
            )
            next_item += targets
        item, category = (random.integers(1, size, life).tolist() for size in (40_000, 50))
        users.append(User(user_id, item, category, requests))
    return users


def rows_of(users: Iterable[User], layout: Layout) -> list[dict[str, object]]:
    """Rows as Python, for `pa.Table.from_pylist`."""
    rows: list[dict[str, object]] = []
    for user in users:
        life = {"item": user.item, "category": user.category}
        if layout == "user":
            entries = [{**vars(request), "timestamp": 9} for request in user.requests]
            times = list(range(len(user.item)))
            rows.append({"user_id": user.user_id, **life, "timestamp": times, "requests": entries})
            continue
        for request in user.requests:
            end = request.history_end
            row = {"user_id": user.user_id, "timestamp": 9, "history_timestamp": list(range(end))}
            row |= {f"history_{name}": ids[:end] for name, ids in life.items()}
            rows.append(row | {n: v for n, v in vars(request).items() if n != "history_end"})
    return rows


def write_users(
    path: Path, users: Iterable[User], *, layout: Layout = "user", rows_per_group: int = 4
) -> str:
    """Write a parquet file of small row groups, and return its name."""
    table = pa.Table.from_pylist(rows_of(users, layout), schema=LAYOUTS[layout])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_per_group)
    return str(path)


def batches_of(reads: Iterable[Read]) -> list[Batch]:
    """One pass over a dataset, without the places."""
    return [read.batch for read in reads]


def expected_requests(users: Iterable[User], history_length: int) -> list[Seen]:
    """Every request of some users, in their order."""
    return [
        (
            user.user_id,
            tuple(user.item[: request.history_end][::-1][:history_length]),
            tuple(user.category[: request.history_end][::-1][:history_length]),
            tuple(request.item),
            tuple(request.label),
        )
        for user in users
        for request in user.requests
    ]


def requests_of(batches: Iterable[Batch]) -> list[Seen]:
    """Every request of some batches, in their order; weightless ones left out."""
    seen: list[Seen] = []
    for batch in batches:
        cut = {
            key: torch.split(batch.features[key].values(), batch.features[key].lengths().tolist())
            for key in batch.features.keys()  # noqa: SIM118 - not a dict
        }
        first = 0
        for number, targets in enumerate(cut["target_item"]):
            last = first + len(targets)
            if batch.weight[first:last].sum() > 0:
                (user,) = set(batch.user[first:last].tolist())
                assert len(cut["target_category"][number]) == len(targets)
                seen.append(
                    (
                        user,
                        tuple(cut["history_item"][number].tolist()),
                        tuple(cut["history_category"][number].tolist()),
                        tuple(targets.tolist()),
                        tuple(batch.label[first:last].tolist()),
                    )
                )
            first = last
    return seen


def flat_batch(batch: Batch) -> tuple[list[float], ...]:
    """All numbers of a batch, to compare two bit for bit."""
    parts = (batch.features.values(), batch.features.lengths(), batch.label, batch.weight)
    others = (batch.user, batch.total_weight.reshape(1))
    sizes = [batch.num_history, batch.num_targets, batch.num_behaviours]
    return (*(part.tolist() for part in (*parts, *others)), sizes)


def flat_batches(batches: Iterable[Batch]) -> list[tuple[list[float], ...]]:
    return [flat_batch(batch) for batch in batches]


def stream_config(
    *,
    layout: Layout = "user",
    history_length: int = 5,
    batch_size: int = 8,
    shuffle_requests: int = 20,
    shuffle_behaviours: int = 1 << 27,
    seed: int = 1,
    rows: dict[str, int] | None = None,
    behaviours_per_batch: int = 0,
    targets: Targets = "together",
    epoch_order: EpochOrder = "new",
    last_batch: LastBatch = "keep",
) -> StreamConfig:
    return StreamConfig(
        layout=layout,
        history_length=history_length,
        batch_size=batch_size,
        shuffle_requests=shuffle_requests,
        shuffle_behaviours=shuffle_behaviours,
        seed=seed,
        ids=IdRules(rows or ROWS, "check"),
        behaviours_per_batch=behaviours_per_batch,
        targets=targets,
        epoch_order=epoch_order,
        last_batch=last_batch,
    )


def sorted_requests(requests: Sequence[Seen]) -> list[Seen]:
    return sorted(requests, key=lambda request: request[3])
