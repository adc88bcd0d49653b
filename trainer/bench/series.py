"""Repeats of a measurement: the median with the least and the most, and ratios repeat by repeat."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer.bench.training import Measured


def spread(rates: Sequence[float]) -> dict[str, float]:
    """Samples a second as they are written down.

    Args:
        rates: one a repeat.
    """
    return {
        "samples_per_s": round(statistics.median(rates), 1),
        "samples_per_s_min": round(min(rates), 1),
        "samples_per_s_max": round(max(rates), 1),
    }


def ratio(rates: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Rates over those of another, whose repeats were beside them.

    Args:
        rates: one a repeat.
        others: as many.
    """
    pairs = [one / other for one, other in zip(rates, others, strict=True)]
    return {
        "ratio": round(statistics.median(pairs), 3),
        "ratio_min": round(min(pairs), 3),
        "ratio_max": round(max(pairs), 3),
    }


@dataclass(frozen=True)
class Series:
    """Repeats of some training steps."""

    repeats: Sequence[Measured]
    steps: int
    """Of each."""

    @property
    def rates(self) -> list[float]:
        """Samples a second."""
        return [one.samples / one.seconds for one in self.repeats]

    @property
    def step_s(self) -> float:
        """Seconds of a step, median."""
        return statistics.median(one.seconds for one in self.repeats) / self.steps

    def figures(self) -> dict[str, Any]:
        """As they are written down."""
        waits = [one.waited_s / one.seconds for one in self.repeats]
        return {
            **spread(self.rates),
            "step_ms": round(1e3 * self.step_s, 2),
            "data_wait_share": round(statistics.median(waits), 4),
            "steps": self.steps,
        }
