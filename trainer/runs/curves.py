"""Curves of several runs on common axes, over steps, seconds and targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from trainer.report.figures import Colour, Series, line_figure
from trainer.report.headline import History, finite
from trainer.report.report import Plot

Axis = Literal["step", "seconds", "samples"]
COLOURS: tuple[Colour, ...] = (
    *("series-1", "series-2", "series-3", "series-4", "series-5", "series-6"),
)
MOST_RUNS = 2 * len(COLOURS)
"""Each colour solid, then each dashed."""
_AXES: dict[Axis, str] = {
    "step": "step",
    "seconds": "seconds of training",
    "samples": "targets trained",
}


@dataclass(frozen=True)
class _Scalar:
    """One scalar of `metrics.jsonl`, and how it is drawn."""

    key: str
    title: str
    y_label: str
    from_zero: bool = False
    percent: bool = False
    unit: float = 1.0


_FIRST = (
    _Scalar("train/loss", "Training loss", "loss, nats a target"),
    _Scalar("eval/auc", "Validation AUC", "AUC"),
    _Scalar("eval/gauc", "Validation GAUC", "GAUC"),
    _Scalar("eval/ne", "Validation normalized entropy", "NE"),
    _Scalar("eval/logloss", "Validation log loss", "nats a target"),
    _Scalar("train/samples_per_s", "Throughput", "samples/s, all ranks", from_zero=True),
    _Scalar("train/data_wait_share", "Waiting for data", "share of a step", True, percent=True),
    _Scalar("train/memory_bytes", "Peak memory", "MiB, rank 0", from_zero=True, unit=2**20),
)
_BY_TIME = ("train/loss", "eval/auc")


@dataclass(frozen=True)
class Figures:
    """All figures of the page."""

    steps: list[Plot]
    time: list[Plot]
    """Loss and AUC over seconds and over targets."""
    others: list[Plot]
    """Further scalars over steps."""
    constant: list[str]
    """Scalars that are one number in all runs throughout, in words."""


def draw_figures(letters: Sequence[str], histories: Sequence[History]) -> Figures:
    """Draw what the histories hold.

    Args:
        letters: what the runs are called in legends.
        histories: rows of their `metrics.jsonl`, oldest first.
    """
    known = {scalar.key: scalar for scalar in _FIRST}
    steps = [_draw(scalar, "step", letters, histories) for scalar in _FIRST]
    time = [
        _draw(known[key], axis, letters, histories)
        for axis in ("seconds", "samples")
        for key in _BY_TIME
    ]
    names = sorted({name for rows in histories for row in rows for name in row if "/" in name})
    others: list[Plot | None] = []
    constant: list[str] = []
    for name in names:
        values = {v for rows in histories for v in finite(row.get(name) for row in rows)}
        if name in known or not values:
            continue
        if len(values) == 1:
            constant.append(f"{name} {values.pop():.6g}")
        else:
            others.append(_draw(_Scalar(name, name, ""), "step", letters, histories))
    return Figures(_there(steps), _there(time), _there(others), constant)


def _there(plots: Sequence[Plot | None]) -> list[Plot]:
    return [plot for plot in plots if plot]


def _draw(
    scalar: _Scalar, axis: Axis, letters: Sequence[str], histories: Sequence[History]
) -> Plot | None:
    """A figure of one scalar with a line a run that has it; None where none has."""
    series = []
    for place, (letter, history) in enumerate(zip(letters, histories, strict=True)):
        rows = [row for row in history if finite([row.get(scalar.key)])]
        if not rows:
            continue
        x = _places(history, [row["step"] for row in rows], axis)
        if x is None:
            continue
        series.append(
            Series(
                label=letter,
                x=x,
                y=[row[scalar.key] / scalar.unit for row in rows],
                colour=COLOURS[place % len(COLOURS)],
                dashed=place >= len(COLOURS),
                dots=len(rows) < 20,
            )
        )
    if not series:
        return None
    ends = ", ".join(f"{one.label} {_told(one.y[-1], scalar)}" for one in series)
    svg = line_figure(
        f"{axis}-{scalar.key}".replace("/", "-"),
        series,
        x_label=_AXES[axis],
        y_label=scalar.y_label,
        alt=f"{scalar.title} over {_AXES[axis]}; last: {ends}.",
        from_zero=scalar.from_zero,
        percent=scalar.percent,
    )
    return Plot(scalar.title, Markup(svg), f"Last: {ends}." if len(series) <= len(COLOURS) else "")


def _told(value: float, scalar: _Scalar) -> str:
    if scalar.percent:
        return f"{value:.1%}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.5g}"


def _places(history: History, steps: Sequence[int], axis: Axis) -> Sequence[float] | None:
    """Where steps are on an axis; None where the rows do not tell.

    Seconds and targets are summed up from the rates between log points, so what a run spent on
    evaluations, checkpoints or not running at all is left out.
    """
    if axis == "step":
        return steps
    ends, sums, last, total = [0], [0.0], 0, 0.0
    for row in history:
        step, rate = row["step"], _rate(row, axis)
        if rate is not None and step > last:
            total += (step - last) * rate
            last = step
            ends.append(step)
            sums.append(total)
    return None if len(ends) == 1 else np.interp(steps, ends, sums).tolist()


def _rate(row: dict[str, Any], axis: Axis) -> float | None:
    """Seconds, or targets, of one step."""
    step_s, samples_per_s = row.get("train/step_s"), row.get("train/samples_per_s")
    if not finite([step_s]) or (axis == "samples" and not finite([samples_per_s])):
        return None
    assert isinstance(step_s, int | float)
    assert samples_per_s is not None or axis == "seconds"
    return float(step_s) * (float(samples_per_s or math.nan) if axis == "samples" else 1.0)
