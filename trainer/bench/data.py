"""Batches of uniform ids with full histories, and what the planner must know of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.batch import Batch, collate
from pipelines.prepare.writer import DatasetWriter, user_table
from pipelines.requests import Requests
from pipelines.schema import DatasetSchema, SplitInfo, TableInfo
from trainer.bench.setting import CATEGORIES, DataShape

_CHUNK = 1 << 20
"""Behaviours that are written at a time."""


def uniform_schema(
    *, items: int, categories: int, requests: int, targets: int, history_length: int
) -> DatasetSchema:
    """What `schema.json` would say of such data.

    Args:
        items: the largest item id.
        categories: the largest category id.
        requests: how many there are.
        targets: of each request.
        history_length: of each request.
    """
    split = SplitInfo(
        rows=requests,
        requests=requests,
        targets=requests * targets,
        positives=0,
        history_length={"mean": float(history_length)},
        files=[],
    )
    rows = {"item": items + 1, "category": categories + 1}
    return DatasetSchema(
        source="bench",
        layout="user",
        seed=0,
        protocol={},
        tables={name: TableInfo(rows=size, distinct=size - 1) for name, size in rows.items()},
        splits={"train": split},
    )


def uniform_batch(
    *, items: int, categories: int, requests: int, targets: int, history_length: int, seed: int
) -> Batch:
    """One batch of it.

    Args:
        items: the largest item id.
        categories: the largest category id.
        requests: how many there are.
        targets: of each request.
        history_length: of each request.
        seed: of the ids.
    """
    rng = np.random.default_rng(seed)
    end, total = np.arange(1, requests + 1) * history_length, requests * targets
    drawn = Requests(
        history={
            "item": rng.integers(1, items + 1, requests * history_length),
            "category": rng.integers(1, categories + 1, requests * history_length),
        },
        start=end - history_length,
        end=end,
        user=np.arange(requests),
        target_offset=np.arange(requests + 1) * targets,
        target={
            "item": rng.integers(1, items + 1, total),
            "category": rng.integers(1, categories + 1, total),
        },
        label=np.zeros(total, np.float32),
    )
    return collate([(drawn, np.arange(requests))])


def write_uniform(folder: Path, shape: DataShape, requests: int, seed: int) -> None:
    """Write a dataset of it, in the `user` layout; every third, or so, target is a click.

    Args:
        folder: where it goes.
        shape: of its histories and targets.
        requests: how many there are.
        seed: of the ids.
    """
    rng = np.random.default_rng(seed)
    rows = {"item": shape.items + 1, "category": CATEGORIES + 1}

    def draw(first: int, last: int) -> Users:
        lives, shown = (last - first, shape.history_length), (last - first, shape.targets)
        return Users(
            history={name: rng.integers(1, size, lives) for name, size in rows.items()},
            target={name: rng.integers(1, size, shown) for name, size in rows.items()},
            label=np.broadcast_to(np.arange(shape.targets) == 0, shown),
        )

    write_equal(folder, draw, requests, shape.history_length, rows)


class Users(NamedTuple):
    """Users with a request each, all with as many behaviours and targets."""

    history: dict[str, np.ndarray]
    """Ids by feature, oldest first, [U, L]."""
    target: dict[str, np.ndarray]
    """Ids by feature, [U, T]."""
    label: np.ndarray
    """Clicked or not, [U, T]."""


def write_equal(
    folder: Path,
    users: Callable[[int, int], Users],
    requests: int,
    history_length: int,
    rows: dict[str, int],
) -> None:
    """Write a dataset of such users, in the `user` layout.

    Args:
        folder: where it goes.
        users: those from one number to another, which are asked for once and in their order.
        requests: how many users there are.
        history_length: behaviours of each.
        rows: of each feature's table.
    """
    writer = DatasetWriter(str(folder))
    chunk = max(1, _CHUNK // history_length)
    for first in range(0, requests, chunk):
        found = users(first, min(first + chunk, requests))
        count, targets = found.label.shape
        life = {name: ids.ravel() for name, ids in found.history.items()}
        shown = {name: ids.ravel() for name, ids in found.target.items()}
        table = user_table(
            np.arange(first, first + count),
            {**life, "timestamp": np.tile(np.arange(history_length), count)},
            np.arange(count + 1) * history_length,
            {name: np.full(count, history_length) for name in ("history_end", "timestamp")},
            np.arange(count + 1),
            {**shown, "label": found.label.ravel().astype(np.float32)},
            np.arange(count + 1) * targets,
        )
        writer.add("train", table)
    distinct = {name: size - 1 for name, size in rows.items()}
    writer.close(source="bench", seed=0, protocol={}, distinct=distinct, rows=rows)
