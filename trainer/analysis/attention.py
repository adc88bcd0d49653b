"""`dare analyze attention`: learned attention beside mutual information (Fig. 8 and 20).

A map belongs to one category of targets: behaviours by category (rows) and position (columns), for
the categories that most targets have. What was planted, where that is known, is told as shares of
the behaviours that the model sees (`data.history_length`), like its own attention. A search that
only orders behaviours (hard, by hashes) has no map of its score. Letters: A categories,
P positions, T targets, L behaviours.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.search import SearchConfig
from trainer.analysis.attention_figure import draw_attention
from trainer.analysis.correlation import correlations
from trainer.analysis.information import CellSpace, SplitLog, count_cells, count_targets
from trainer.analysis.options import Findings, Job, ModelOptions
from trainer.analysis.scoring import (
    OpenedRun,
    Searched,
    open_run,
    planted_weights,
    searched_batches,
)
from trainer.analysis.tables import table_scores
from trainer.analysis.truth import cell_information

INFORMATION, PLANTED = "mutual information", "planted attention"
SCORE, WEIGHT, TABLES = "search score", "attention", "tables only"


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(ModelOptions):
    """Options of `dare analyze attention`."""

    categories: int = 10
    """Categories that are looked at, those with most train targets."""
    positions: int = 10
    """Positions that are looked at, from the newest."""
    min_cell: int = 20
    """Behaviours that a cell needs in the split, else what is learned of it is not told."""
    pictured: int = 4
    """Categories of targets that are drawn."""

    def __post_init__(self) -> None:
        self.check_least(categories=1, positions=1, min_cell=1, pictured=1)


class CellMeans:
    """Means of what a model and the truth say of each cell.

    Args:
        category_A: categories that are looked at.
        positions: P.
    """

    def __init__(self, category_A: np.ndarray, positions: int) -> None:
        self._sorted_A, self._place_A = np.sort(category_A), np.argsort(category_A)
        self._shape = (len(category_A), len(category_A), positions)
        self.count = np.zeros(self._shape, np.int64)
        self._sums: dict[str, np.ndarray] = {}

    def add(self, searched: Searched, values: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            searched: its targets and behaviours.
            values: of each behaviour, by name, [T, L]; the same names each time.
        """
        positions = self._shape[2]
        category_TL = searched.category_TL[:, :positions].numpy()
        target_T, behaviour_TL = self._places(searched.target_T.numpy()), self._places(category_TL)
        target_T1, column_L = target_T[:, None], np.arange(category_TL.shape[1])
        seen_TL = searched.valid_TL[:, :positions].numpy() & (target_T1 >= 0) & (behaviour_TL >= 0)
        cell_TL = (target_T1 * len(self._sorted_A) + behaviour_TL) * positions + column_L
        cell_E, cells = cell_TL[seen_TL], self.count.size
        self.count += np.bincount(cell_E, minlength=cells).reshape(self._shape)
        for name, value_TL in values.items():
            value_E = value_TL[:, :positions].double().numpy()[seen_TL]
            total = np.bincount(cell_E, value_E, cells).reshape(self._shape)
            self._sums[name] = self._sums.get(name, 0.0) + total

    def means(self, min_cell: int) -> dict[str, np.ndarray]:
        """Means by name, [A, A, P]: target, behaviour, position; NaN where few behaviours are."""
        known = self.count >= min_cell
        return {
            name: np.divide(total, self.count, out=np.full(self._shape, np.nan), where=known)
            for name, total in self._sums.items()
        }

    def _places(self, category: np.ndarray) -> np.ndarray:
        """Place of each category among those looked at, -1 for others."""
        near = np.minimum(np.searchsorted(self._sorted_A, category), len(self._sorted_A) - 1)
        return np.where(self._sorted_A[near] == category, self._place_A[near], -1)


def attention(job: Job, options: AttentionOptions) -> Findings:
    """Compare what a model attends to with what tells about clicks."""
    opened = open_run(job.config, job.text, job.context, options.at)
    positions = min(options.positions, job.config.data.history_length)
    category_A, samples_A, bits = information_maps(
        opened.log("train"), categories=options.categories, positions=positions
    )
    means = CellMeans(category_A, positions)
    planted, left_out = opened.planted, _left_out(job.config.model.search)
    for searched in searched_batches(opened, options.split):
        values = {WEIGHT: searched.weight_TL}
        if not left_out:
            values[SCORE] = searched.score_TL
        if planted is not None:
            values[PLANTED] = planted_weights(planted, searched)
        means.add(searched, values)
    maps = {INFORMATION: bits, **means.means(options.min_cell), **_of_tables(opened, category_A)}
    maps = {name: value[..., :positions] for name, value in maps.items()}
    compared = {
        name: softmax_of_cells(value) if name in (SCORE, TABLES) else value
        for name, value in maps.items()
    }
    content: dict[str, Any] = {
        "checkpoint": opened.checkpoint,
        "step": opened.step,
        "split": options.split,
        "options": asdict(options),
        "categories": category_A,
        "train_targets": samples_A,
        "behaviours": means.count,
        "maps": maps,
        "left_out": left_out,
        "correlations": _agreements(compared),
    }
    title = f"{job.title}, {opened.checkpoint}"
    return Findings(content, draw_attention(content, compared, title))


def information_maps(
    train: SplitLog, *, categories: int, positions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mutual information of all cells of the most frequent target categories.

    Returns:
        category_A, most frequent first; their train targets; and bits [A, A, P].
    """
    target_C2 = count_targets(train)
    samples_C = target_C2.sum(1)
    category_A = np.argsort(-samples_C, kind="stable")[:categories]
    category_A = category_A[samples_C[category_A] > 0]
    space = CellSpace(train.categories, positions)
    key = space.keys(
        category_A[:, None, None], category_A[None, :, None], np.arange(positions)[None, None]
    )
    wanted_C = np.zeros(train.categories, bool)
    wanted_C[category_A] = True
    key_E, place = np.unique(key, return_inverse=True)
    count_E2 = count_cells(train, space, wanted_C, key_E)
    bits = cell_information(space, key_E, count_E2, target_C2)[place].reshape(key.shape)
    return category_A, samples_C[category_A], bits


def softmax_of_cells(score: np.ndarray) -> np.ndarray:
    """Softmax over all cells of each map, so that scores compare with shares; NaN stays."""
    flat = score.reshape(len(score), -1)
    highest = np.max(flat, axis=1, initial=-np.inf, where=np.isfinite(flat), keepdims=True)
    power = np.exp(flat - highest)
    share: np.ndarray = power / np.nansum(power, axis=1, keepdims=True)
    return share.reshape(score.shape)


def _left_out(search: SearchConfig) -> dict[str, str]:
    """Why there is no map of the search's score, where there is none."""
    if search.by == "none":
        return {SCORE: "the model has no search"}
    if search.only_orders:
        return {SCORE: f"a search by {search.by} only puts behaviours in order"}
    return {}


def _of_tables(opened: OpenedRun, category_A: np.ndarray) -> dict[str, np.ndarray]:
    """The paper's own map, where the model has one."""
    tables = table_scores(opened)
    if tables is None:
        return {}
    place_A = torch.from_numpy(category_A)
    return {TABLES: tables.grid(place_A, place_A).double().numpy()}


def _agreements(maps: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Correlations of what is learned with each truth, and of the truths with each other."""
    truths = [name for name in (INFORMATION, PLANTED) if name in maps]
    learned = [name for name in maps if name not in truths]
    found: dict[str, Any] = {truth: {} for truth in truths}
    for truth, name in itertools.product(truths, learned):
        found[truth][name] = correlations(maps[name], maps[truth])
    if PLANTED in truths:
        found[INFORMATION][PLANTED] = correlations(maps[PLANTED], maps[INFORMATION])
    return found
