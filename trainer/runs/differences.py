"""How runs differ in their config and in what they came to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trainer.report.headline import format_bytes, format_seconds
from trainer.telemetry.flat import flat

_MISSING = "-"
_PLACES = ("name", "out_dir")
"""Always different, and told at the head of the page."""


@dataclass(frozen=True)
class Cell:
    """What a table shows of one run."""

    text: str
    note: str = ""
    """Beside it, in small: how far it is from the first run's."""
    strong: bool = False
    """Best of its row, or unlike the first run's."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    cells: list[Cell]


def config_rows(configs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Fields that are not alike in all configs, in the order of the first that has them."""
    fields = [flat(config) for config in configs]
    rows = []
    for name in dict.fromkeys(name for one in fields for name in one if name not in _PLACES):
        texts = [_value(one[name]) if name in one else _MISSING for one in fields]
        if len(set(texts)) > 1:
            rows.append(Row(name, [Cell(text, strong=text != texts[0]) for text in texts]))
    return rows


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value or "''"
    return json.dumps(value, default=str)


@dataclass(frozen=True)
class Measure:
    """A figure of a run."""

    name: str
    key: str
    form: Callable[[float], str]
    best: Literal["highest", "lowest", "none"] = "none"
    apart: Literal["difference", "ratio", "none"] = "none"
    """How a run's is told beside the first's."""


_MEASURES = (
    Measure("Validation AUC, best", "val_auc", "{:.5f}".format, "highest", "difference"),
    Measure("AUC", "auc", "{:.5f}".format, "highest", "difference"),
    Measure("GAUC", "gauc", "{:.5f}".format, "highest", "difference"),
    Measure("Normalized entropy", "ne", "{:.5f}".format, "lowest", "difference"),
    Measure("Log loss", "logloss", "{:.5f}".format, "lowest", "difference"),
    Measure("Calibration", "calibration", "{:.3f}".format),
    Measure("Best possible AUC", "oracle_auc", "{:.5f}".format),
    Measure("Throughput, samples/s", "samples_per_s", "{:,.0f}".format, "highest", "ratio"),
    Measure("Training time", "seconds", format_seconds, "none", "ratio"),
    Measure("Peak memory, rank 0", "peak_memory_bytes", format_bytes, "lowest", "ratio"),
    Measure("Targets trained", "samples", "{:,.0f}".format),
    Measure("Steps", "steps", "{:,.0f}".format),
    Measure("Best step", "best_step", "{:,.0f}".format),
    Measure("Ranks", "ranks", "{:,.0f}".format),
)


def result_rows(results: Sequence[Mapping[str, float | None]]) -> list[Row]:
    """A row a measure that any run has, the best of each set off, and distances from the first."""
    rows = []
    for measure in _MEASURES:
        values = [result.get(measure.key) for result in results]
        if any(value is not None for value in values):
            rows.append(Row(measure.name, _cells(measure, values)))
    return rows


def _cells(measure: Measure, values: Sequence[float | None]) -> list[Cell]:
    texts = [_MISSING if value is None else measure.form(value) for value in values]
    known = [value for value in values if value is not None]
    best = max(known) if measure.best == "highest" else min(known)
    # What looks alike is: no winner by digits that are not shown.
    wins = measure.best != "none" and len({t for t in texts if t != _MISSING}) > 1
    return [
        Cell(text, _apart(measure, value, values[0]) if place else "",
             strong=wins and text == measure.form(best))
        for place, (text, value) in enumerate(zip(texts, values, strict=True))
    ]  # fmt: skip


def _apart(measure: Measure, value: float | None, first: float | None) -> str:
    if value is None or first is None or measure.apart == "none":
        return ""
    if measure.apart == "difference":
        return f"{value - first:+.5f}"
    return f"{value / first:.2f} x A" if first else ""
