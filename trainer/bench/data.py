"""Batches of uniform ids with full histories, and what the planner must know of them."""

from __future__ import annotations

import numpy as np

from pipelines.batch import Batch, Requests, collate
from pipelines.schema import DatasetSchema, SplitInfo, TableInfo


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
