"""The rows that are compared, drawn once, and in the formats of the peers; NumPy and Arrow alone.

Letters: R requests, T targets a request, L behaviours, N = R * T rows, a target each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the rows look like."""

    items: int
    """The largest item id."""
    categories: int = 9_407
    """The largest category id."""
    history_length: int
    """L, of every history."""
    batch_size: int
    """Rows a step."""
    batches: int = 24
    """Different ones; then they come again."""
    targets: int
    """T; the peers take each as a row of its own, with a history of its own."""
    seed: int = 1

    @property
    def requests(self) -> int:
        """R.

        Raises:
            ValueError: the batches do not hold whole requests.
        """
        rows = self.batch_size * self.batches
        if rows % self.targets:
            raise ValueError(
                f"{self.batches} batches of {self.batch_size} rows are no whole number of requests "
                f"of {self.targets} targets; make batches a multiple of targets"
            )
        return rows // self.targets

    def save(self, folder: Path) -> None:
        """Write it beside the rows."""
        (folder / "shape.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Shape:
        """Read it."""
        return cls(**json.loads((folder / "shape.json").read_text()))


@dataclass(frozen=True)
class Rows:
    """Requests with equally many behaviours and targets; request r is user r."""

    history_RL: Array
    """Items, oldest first."""
    target_RT: Array
    label_RT: Array
    categories: int

    def category(self, item: Array) -> Array:
        """An item has one category, as FuxiCTR's format wants it; 0 pads both."""
        return np.where(item > 0, 1 + item * 7_919 % self.categories, 0)


def draw(shape: Shape) -> Rows:
    """Uniform items, so the hardest case for tables and caches; every history is full.

    A target is clicked where its category is a multiple of 3, so there is something to learn.
    """
    rng = np.random.default_rng(shape.seed)
    requests = shape.requests
    history_RL = rng.integers(1, shape.items + 1, (requests, shape.history_length))
    target_RT = rng.integers(1, shape.items + 1, (requests, shape.targets))
    rows = Rows(history_RL, target_RT, np.zeros(0), shape.categories)
    return Rows(
        history_RL, target_RT, (rows.category(target_RT) % 3 == 0).astype(np.int64), rows.categories
    )


def paper_rows(rows: Rows, requests: slice) -> Array:
    """Rows of the paper's code, [N, 6] objects.

    User, item, category, [1, 0] where clicked, else [0, 1], items and categories of the history.
    """
    made = []
    part = range(*requests.indices(len(rows.target_RT)))
    for request in part:
        history_L = rows.history_RL[request]
        for item, label in zip(rows.target_RT[request], rows.label_RT[request], strict=True):
            made.append(
                [
                    request,
                    int(item),
                    int(rows.category(item)),
                    [int(label), 1 - int(label)],
                    history_L.tolist(),
                    rows.category(history_L).tolist(),
                ]
            )
    return np.asarray(made, dtype=object)


def write_paper(folder: Path, rows: Rows, batch_size: int, batches_a_file: int) -> str:
    """Files of the paper's code, each read whole by its loader once the last one is used up.

    Args:
        folder: where they go.
        rows: all of them.
        batch_size: rows a step.
        batches_a_file: so many, that each turn reads as much as it uses up.

    Returns:
        Their pattern, as its loader takes it.
    """
    folder.mkdir(parents=True)
    targets = rows.target_RT.shape[1]
    size = batch_size * batches_a_file
    waiting, number = np.zeros((0, 6), object), 0
    for first in range(0, len(rows.target_RT), step := max(1, size // targets)):
        waiting = np.concatenate([waiting, paper_rows(rows, slice(first, first + step))])
        last = first + step >= len(rows.target_RT)
        while len(waiting) >= size or (last and len(waiting)):
            number += 1
            part, waiting = waiting[:size], waiting[size:]
            np.save(folder / f"train_{number:04d}_{len(part)}.npy", part)
    return str(folder / "train_{}_{}.npy")


def write_fuxictr(folder: Path, rows: Rows, items: int) -> None:
    """The three files of FuxiCTR's long sequences: a user's history and an item are there once."""
    folder.mkdir(parents=True)
    requests, length = rows.history_RL.shape
    targets = rows.target_RT.shape[1]
    item = np.arange(items + 1)
    offsets = pa.array(np.arange(requests + 1) * length)
    history = pa.LargeListArray.from_arrays(offsets, pa.array(rows.history_RL.ravel()))
    pq.write_table(pa.table({"full_item_seq": history}), folder / "user_info.parquet")
    pq.write_table(
        pa.table({"item_index": item, "item_id": item, "cate_id": rows.category(item)}),
        folder / "item_info.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "label": rows.label_RT.ravel(),
                "user_index": np.repeat(np.arange(requests), targets),
                "item_index": rows.target_RT.ravel(),
                "seq_len": np.full(requests * targets, length),
            }
        ),
        folder / "train.parquet",
    )


def digest(parts: Iterable[tuple[Array, Array, Array]]) -> str:
    """A number that is equal where the rows are, in whatever order they come.

    Args:
        parts: items and categories, [N, L + 1] each, history oldest first and then the target, and
            labels, [N].
    """
    total, count = 0, 0
    for item_NL, category_NL, label_N in parts:
        numbers = np.concatenate([item_NL, category_NL, label_N[:, None]], axis=1).astype(np.uint64)
        factors = np.random.default_rng(7).integers(1, 2**63, numbers.shape[1], np.uint64)
        row_N = (numbers * factors).sum(1, dtype=np.uint64)
        row_N = (row_N ^ (row_N >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
        total += int((row_N ^ (row_N >> np.uint64(32))).sum(dtype=np.uint64))
        count += len(label_N)
    return f"{count} rows {total % 2**64:016x}"


def digest_of(rows: Rows) -> str:
    """The digest of rows as they were drawn."""
    item_NL = np.concatenate(
        [
            np.repeat(rows.history_RL, rows.target_RT.shape[1], axis=0),
            rows.target_RT.reshape(-1, 1),
        ],
        axis=1,
    )
    return digest([(item_NL, rows.category(item_NL), rows.label_RT.ravel())])
