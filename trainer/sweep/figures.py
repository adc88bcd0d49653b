"""Plots of what several runs came to: lines with error bars, and heat-maps, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PRESET_COLOURS = {"dare": "#0b6e4f", "twin": "#b3541e", "twin_4e": "#5b4b8a"}
"""Of the models that are drawn most; others take the next colour."""
_STYLE: Any = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}
_DPI = 150
Scale = Literal["linear", "log", "log_x"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """Means over x with their spread."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] = ()
    colour: str = ""
    """Empty for the next one."""
    dashed: bool = False
    """Without marks, such as a bound."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Lines over one axis."""

    lines: Sequence[Line]
    title: str = ""
    y_label: str = ""
    """Where it is not that of all panels."""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """A number for each pair of values."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]] = field(default_factory=list)
    """NaN leaves a cell empty."""


def draw_lines(
    panels: Sequence[Panel], path: Path, *, x_label: str, y_label: str, scale: Scale = "linear"
) -> None:
    """Draw panels side by side, each with its own legend.

    Args:
        panels: what to draw.
        path: of the PNG.
        x_label: what x is.
        y_label: what y is.
        scale: `linear` or `log`, of both axes, or `log_x` for a logarithmic x alone.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7 * len(panels), 4.2), layout="constrained")
        for axes, panel in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            for line in panel.lines:
                _draw_line(axes, line)
            axes.set_xscale("linear" if scale == "linear" else "log")
            axes.set_yscale("log" if scale == "log" else "linear")
            if scale != "linear":
                points = sorted({x for line in panel.lines for x in line.x})
                axes.set_xticks(points, [f"{x:g}" for x in points], minor=False)
                axes.minorticks_off()
            axes.set_title(panel.title)
            axes.set_xlabel(x_label)
            axes.set_ylabel(panel.y_label or y_label)
            axes.grid(alpha=0.25)
            axes.legend(frameon=False)
        figure.savefig(path, dpi=_DPI)


def _draw_line(axes: Axes, line: Line) -> None:
    order = np.argsort(line.x, kind="stable")
    x, y = np.asarray(line.x)[order], np.asarray(line.y)[order]
    if line.dashed:
        axes.plot(x, y, "--", color=line.colour or "#777", label=line.label)
        return
    error = np.asarray(line.error)[order] if line.error else None
    axes.errorbar(
        x, y, yerr=error, marker="o", capsize=4, color=line.colour or None, label=line.label
    )


def draw_heat_maps(maps: Sequence[HeatMap], path: Path, *, x_label: str, y_label: str) -> None:
    """Draw heat-maps side by side, the number in each cell.

    Args:
        maps: what to draw.
        path: of the PNG.
        x_label: what columns are.
        y_label: what rows are.
    """
    with mpl.rc_context({"font.size": 11}):
        figure = Figure(figsize=(6 * len(maps), 4.8), layout="constrained")
        row = figure.subplots(1, len(maps), squeeze=False)[0]
        for axes, one in zip(row, maps, strict=True):
            values = np.asarray(one.values, dtype=np.float64)
            axes.imshow(values, cmap="Greens", aspect="auto")
            axes.set_xticks(range(len(one.columns)), one.columns)
            axes.set_yticks(range(len(one.rows)), one.rows)
            middle = (np.nanmin(values) + np.nanmax(values)) / 2
            for place, column in np.argwhere(np.isfinite(values)):
                number = values[place, column]
                colour = "white" if number > middle else "black"
                axes.text(column, place, f"{number:.4f}", ha="center", va="center", color=colour)
            axes.set_title(one.title)
            axes.set_xlabel(x_label)
            axes.set_ylabel(y_label)
        figure.savefig(path, dpi=_DPI)
