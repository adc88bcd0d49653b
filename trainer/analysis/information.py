"""What a behaviour tells about a click: mutual information of cells with the label, from counts.

A cell is (category of the target, category of a behaviour, position of the behaviour; newest 1).
Among all targets of the first category it says of each whether such a behaviour stands at such a
place, and the mutual information of that with the label is the paper's measure of how much the
behaviour matters (arXiv:2410.02604).
Letters: C categories, E cells, T targets, L behaviours of a history.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.loader import Split, make_dataset
from pipelines.parquet import read_requests
from pipelines.ragged import backward_ranges
from pipelines.requests import Requests
from pipelines.schema import DatasetSchema
from trainer.analysis.progress import told
from trainer.config import TrainConfig

_PAIRS = 1 << 22
"""Targets times behaviours at most that are spread out at a time."""
_FRESH = 1 << 24
"""Cells that are collected before they are merged with those known."""


@dataclass(frozen=True)
class CellSpace:
    """Packs a cell into one number.

    Raises:
        ValueError: there are more cells than int64 can number twice, for either label.
    """

    categories: int
    """Rows of the category table."""
    positions: int
    """Positions that are looked at, from the newest."""

    def __post_init__(self) -> None:
        # `count_cells` numbers each cell without a click and with one.
        if 2 * self.categories**2 * self.positions - 1 > np.iinfo(np.int64).max:
            raise ValueError(
                f"{self.categories:,} categories squared times {self.positions:,} positions are "
                "more cells than 64 bits can number with a bit for the label; use a smaller "
                "category table"
            )

    def keys(self, target: np.ndarray, behaviour: np.ndarray, column: np.ndarray) -> np.ndarray:
        """The numbers of cells, int64, in their common shape.

        Args:
            target: categories of targets.
            behaviour: categories of behaviours.
            column: their positions less one.
        """
        keys: np.ndarray = (target * self.categories + behaviour) * self.positions + column
        return keys

    def target(self, keys: np.ndarray) -> np.ndarray:
        """Categories of the targets of cells."""
        category: np.ndarray = keys // (self.categories * self.positions)
        return category


class SplitLog:
    """The requests of a split, read anew on each pass, in the order of the files.

    Args:
        config: of the run.
        split: which.
        schema: of the data.

    Raises:
        ValueError: no file is there, or columns do not fit the layout.
    """

    def __init__(self, config: TrainConfig, split: Split, schema: DatasetSchema) -> None:
        self._data, self._split = config.data, split
        self._dataset = make_dataset(config.data, split, schema, seed=0, rank=0, world=1)
        self.categories = config.data.rows(schema)["category"]

    def __iter__(self) -> Iterator[Requests]:
        groups = self._dataset.groups
        for rows in told(groups, f"row groups of {self._split}", len(groups)):
            yield read_requests(
                rows,
                layout=self._data.layout,
                history_length=self._data.history_length,
                ids=self._dataset.config.ids,
            )


def mutual_information(
    with_C: np.ndarray, with_N: np.ndarray, clicks: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """Mutual information of two yes-or-no questions, in bits.

    `I = sum_xy P(x, y) log2(P(x, y) / (P(x) P(y)))`, where 0 log 0 is 0; the paper's code avoids
    that by putting 1e-5 in the place of zeros.

    Args:
        with_C: clicked targets with such a behaviour.
        with_N: targets with such a behaviour that were not clicked.
        clicks: clicked targets in all.
        others: targets in all that were not clicked.

    Returns:
        Bits, float64, in the common shape; 0 where there is no target at all.
    """
    joint = np.stack(np.broadcast_arrays(with_C, with_N, clicks - with_C, others - with_N))
    table = joint.reshape(2, 2, *joint.shape[1:]).astype(np.float64)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
    total = np.maximum(table.sum((0, 1)), 1)
    occurs = table > 0
    ratio = np.divide(table * total, expected, out=np.ones_like(table), where=occurs)
    bits: np.ndarray = (table / total * np.log2(ratio)).sum((0, 1))
    return np.maximum(bits, 0.0)


def count_targets(log: SplitLog) -> np.ndarray:
    """Targets of each category, not clicked and clicked: [C, 2]."""
    count = np.zeros(2 * log.categories, np.int64)
    for requests in log:
        key = 2 * requests.target["category"] + (requests.label > 0.5)
        count += np.bincount(key, minlength=count.size)
    return count.reshape(-1, 2)


def find_cells(log: SplitLog, space: CellSpace, wanted_C: np.ndarray) -> np.ndarray:
    """The cells that occur in a split.

    Args:
        log: the split.
        space: of the cells.
        wanted_C: True for the categories of targets that are looked at.

    Returns:
        Their keys, increasing and different, [E].
    """
    known, fresh = np.zeros(0, np.int64), [np.zeros(0, np.int64)]
    for requests in log:
        for key, _ in _pairs(requests, space, wanted_C):
            fresh.append(np.unique(key))
            if sum(map(len, fresh)) > max(_FRESH, len(known)):
                known, fresh = np.unique(np.concatenate([known, *fresh])), []
    return np.unique(np.concatenate([known, *fresh]))


def count_cells(
    log: SplitLog, space: CellSpace, wanted_C: np.ndarray, key_E: np.ndarray
) -> np.ndarray:
    """Targets of each cell, not clicked and clicked: [E, 2].

    Args:
        log: the split to count in.
        space: of the cells.
        wanted_C: True for the categories of targets that are looked at.
        key_E: which cells, increasing and different; all others are passed over.
    """
    count_E2 = np.zeros((len(key_E), 2), np.int64)
    for requests in log:
        for key, clicked in _pairs(requests, space, wanted_C):
            both, times = np.unique(2 * key + clicked, return_counts=True)
            place, found = look_up(key_E, both >> 1)
            count_E2[place[found], both[found] & 1] += times[found]
    return count_E2


def look_up(key_E: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of keys among known ones; and where they are known, same shape."""
    if len(key_E) == 0:
        return np.zeros(key.shape, np.int64), np.zeros(key.shape, bool)
    place = np.minimum(np.searchsorted(key_E, key), len(key_E) - 1)
    return place, key_E[place] == key


def _pairs(
    requests: Requests, space: CellSpace, wanted_C: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cells of all pairs of a target and a behaviour of its history, and whether it was clicked."""
    every = np.arange(len(requests))
    owner = np.repeat(every, requests.targets_of(every))
    chosen = np.flatnonzero(wanted_C[requests.target["category"]])
    length = np.minimum(requests.behaviours_of(owner[chosen]), space.positions)
    piece = (np.cumsum(length) - length) // _PAIRS
    for some in np.split(np.arange(len(chosen)), np.flatnonzero(np.diff(piece)) + 1):
        target, many = chosen[some], length[some]
        history = backward_ranges(requests.end[owner[target]], many)
        column = np.arange(len(history)) - np.repeat(np.cumsum(many) - many, many)
        key = space.keys(
            np.repeat(requests.target["category"][target], many),
            requests.history["category"][history],
            column,
        )
        yield key, np.repeat(requests.label[target] > 0.5, many)
