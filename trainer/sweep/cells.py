"""What the runs of a sweep come to: mean and spread over seeds, and differences seed by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.outcome import RESULT_METRICS
from trainer.sweep.grid import Setting

LOWER_IS_BETTER = ("ne", "logloss")
COMPARED = ("auc", "gauc", "logloss", "ne")
"""Metrics whose differences are given."""
FIGURES = (
    *RESULT_METRICS,
    *("oracle_auc", "of_possible", "seconds", "samples_per_s", "peak_memory_bytes"),
)
"""All figures of a cell, by the names of `result.json`; `of_possible` is the way from 0.5 to the
best possible AUC, 1 for all of it."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of some values."""

    mean: float
    std: float
    """0 for one value."""
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    """Of the values; None where there is none."""
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return Spread(statistics.fmean(values), std, len(values))


@dataclass(frozen=True)
class Cell:
    """One setting and the results of its runs."""

    setting: Setting
    results: Mapping[int, Mapping[str, Any]]
    """By seed, of those that did not fail."""

    def by_seed(self, name: str) -> dict[int, float]:
        """A figure of each run that has it."""
        found = {seed: _figure(result, name) for seed, result in self.results.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def spread(self, name: str) -> Spread | None:
        """Mean and spread of a figure; None where no run has it."""
        return spread(list(self.by_seed(name).values()))


def _figure(result: Mapping[str, Any], name: str) -> float | None:
    if name != "of_possible":
        value: float | None = result.get(name)
        return value
    auc, best = result.get("auc"), result.get("oracle_auc")
    return None if auc is None or not best or best <= 0.5 else (auc - 0.5) / (best - 0.5)


def over_presets(cells: Sequence[Cell], like: Cell, name: str) -> Spread | None:
    """A figure of all models with the values and on the dataset of one of them."""
    column = (like.setting.values, like.setting.dataset)
    same = [cell for cell in cells if (cell.setting.values, cell.setting.dataset) == column]
    return spread([value for cell in same for value in cell.by_seed(name).values()])


@dataclass(frozen=True)
class Difference:
    """A preset less a reference, over the seeds that both have."""

    setting: Setting
    reference: str
    metric: str
    mean: float
    std: float
    seeds: int
    won: int
    """Seeds where the preset is better than the reference."""
    p: float | None
    """Of a two-sided paired t-test; None for fewer than two seeds, or where all differ alike."""


def differences(cells: Sequence[Cell], reference: str) -> Iterator[Difference]:
    """Each preset's difference to the reference in the same column, seed by seed."""
    found = {cell.setting: cell for cell in cells}
    for cell in cells:
        setting = cell.setting
        if setting.preset == reference:
            continue
        other = found[Setting(reference, setting.values, setting.dataset)]
        for metric in COMPARED:
            theirs = other.by_seed(metric)
            paired = [v - theirs[s] for s, v in cell.by_seed(metric).items() if s in theirs]
            all_of_them = spread(paired)
            if all_of_them is not None:
                sign = -1 if metric in LOWER_IS_BETTER else 1
                won = sum(sign * difference > 0 for difference in paired)
                mean, std, count = all_of_them.mean, all_of_them.std, all_of_them.count
                p = paired_p(mean, std, count)
                yield Difference(setting, reference, metric, mean, std, count, won, p)


def choose_reference(presets: Sequence[str]) -> str:
    """What the others are compared with: `dare` where it is among them, else the first."""
    return "dare" if "dare" in presets else presets[0]


def paired_p(mean: float, std: float, count: int) -> float | None:
    """Two-sided p of Student's t-test that paired differences have mean 0.

    Args:
        mean: of the differences.
        std: sample standard deviation.
        count: of pairs.

    Returns:
        The probability, None where it is not defined. Of t with a whole number of degrees of
        freedom, by Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    if count < 2 or std == 0:
        return None
    freedom = count - 1
    angle = math.atan(abs(mean) / (std / math.sqrt(count)) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for step in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * step / (step + 1)
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1 - inside))
