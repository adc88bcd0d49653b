"""Batches of uniform ids with full histories, and what the planner must know of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.batch import Batch, Requests, collate
from pipelines.prepare.writer import DatasetWriter, user_table
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
    writer = DatasetWriter(str(folder))
    length, targets = shape.history_length, shape.targets
    chunk = max(1, _CHUNK // length)
    for first in range(0, requests, chunk):
        users = min(chunk, requests - first)
        behaviours, shown = users * length, users * targets
        life = {
            "item": rng.integers(1, shape.items + 1, behaviours),
            "category": rng.integers(1, CATEGORIES + 1, behaviours),
            "timestamp": np.tile(np.arange(length), users),
        }
        table = user_table(
            np.arange(first, first + users),
            life,
            np.arange(users + 1) * length,
            {"history_end": np.full(users, length), "timestamp": np.full(users, length)},
            np.arange(users + 1),
            {
                "item": rng.integers(1, shape.items + 1, shown),
                "category": rng.integers(1, CATEGORIES + 1, shown),
                "label": (np.arange(shown) % targets == 0).astype(np.float32),
            },
            np.arange(users + 1) * targets,
        )
        writer.add("train", table)
    rows = {"item": shape.items + 1, "category": CATEGORIES + 1}
    writer.close(
        source="bench",
        seed=seed,
        protocol={},
        distinct={name: size - 1 for name, size in rows.items()},
        rows=rows,
    )
