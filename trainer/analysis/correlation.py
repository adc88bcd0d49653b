"""How alike two maps are. NumPy's own Pearson, and Spearman with the mean rank for ties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def correlations(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Correlations of maps, each with its counterpart, over the cells that both have.

    Args:
        one: a map each, [maps, ...]; NaN where a cell is not known.
        other: the same shape.

    Returns:
        `pearson` and `spearman`, means over the maps that have one, and `..._by_map`; NaN where
        all values of a map are equal.
    """
    pearson, spearman = [], []
    for left, right in zip(one, other, strict=True):
        both = np.isfinite(left) & np.isfinite(right)
        pearson.append(_pearson(left[both], right[both]))
        spearman.append(_pearson(_mean_ranks(left[both]), _mean_ranks(right[both])))
    return {
        "pearson": _mean(pearson),
        "spearman": _mean(spearman),
        "pearson_by_map": pearson,
        "spearman_by_map": spearman,
    }


def _pearson(left: np.ndarray, right: np.ndarray) -> float:
    if left.size < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return math.nan
    return float(np.corrcoef(left, right)[0, 1])


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks


def _mean(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
