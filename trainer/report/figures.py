"""Figures of the run report as inline SVG: text as text, colours as CSS variables of the page."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

Colour = Literal[
    "ink", "muted", "rule", "surface",
    "series-1", "series-2", "series-3", "series-4", "series-5", "series-6",
]  # fmt: skip
_HEX: dict[Colour, str] = {
    "ink": "#101001",
    "muted": "#101002",
    "rule": "#101003",
    "surface": "#101004",
    "series-1": "#101005",
    "series-2": "#101006",
    "series-3": "#101007",
    "series-4": "#101008",
    "series-5": "#101009",
    "series-6": "#10100a",
}
"""Stand-ins that matplotlib draws with; each becomes `var(--name)`, so that a theme can set it."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dare",
    "text.parse_math": False,
    "font.size": 9,
    "axes.edgecolor": _HEX["rule"],
    "axes.labelcolor": _HEX["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _HEX["rule"],
    "grid.linewidth": 0.6,
    "xtick.color": _HEX["rule"],
    "ytick.color": _HEX["rule"],
    "xtick.labelcolor": _HEX["muted"],
    "ytick.labelcolor": _HEX["muted"],
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": _HEX["ink"],
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}
_PAPER: dict[Colour, str] = {
    "ink": "#14140f",
    "muted": "#5b5a54",
    "rule": "#dedcd4",
    "surface": "#ffffff",
    "series-1": "#2266c4",
    "series-2": "#c2570c",
    "series-3": "#0d8468",
    "series-4": "#b0307c",
    "series-5": "#6f52c8",
    "series-6": "#857000",
}
"""Colours of a file of its own: the page's, by day."""
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes"))
Memory = Mapping[str, Sequence[float]]
"""Bytes by table and rank."""
_POINTS = 400
_LABELLED_CELLS = 12
_LEGEND_COLUMNS = 6


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a figure; y may hold NaN, which leaves a gap."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: Colour = "series-1"
    dashed: bool = False
    dots: bool = False


def line_figure(
    name: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    percent: bool = False,
    from_zero: bool = False,
    log_x: bool = False,
) -> str:
    """Lines over a common axis, as an SVG element.

    Args:
        name: start of every id in the figure, unique in the page.
        series: what to draw; a legend appears with the second.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit.
        alt: what the figure shows, for readers who do not see it.
        percent: y is a share of 1, shown in percent.
        from_zero: start the y axis at 0.
        log_x: space x logarithmically.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.8, 2.6), layout="constrained")
        axes = figure.add_subplot()
        for one in series:
            stride = max(1, math.ceil(len(one.x) / _POINTS))
            axes.plot(
                one.x[::-1][::stride][::-1],
                one.y[::-1][::stride][::-1],
                color=_HEX[one.colour],
                linestyle=(0, (4, 3)) if one.dashed else "-",
                marker="o" if one.dots else None,
                markersize=4,
                label=one.label,
            )
        if log_x:
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(PercentFormatter(1) if percent else FuncFormatter(_short))
        if from_zero:
            axes.set_ylim(bottom=0)
        _label(axes, x_label, y_label)
        if len(series) > 1:
            columns = min(len(series), _LEGEND_COLUMNS)
            figure.legend(loc="outside upper left", ncols=columns, borderaxespad=0)
        return _svg(figure, name, alt)


def calibration_figure(name: str, predicted: list[float], observed: list[float], alt: str) -> str:
    """Observed over predicted rate, beside the diagonal of a perfect model, as an SVG element."""
    top = 1.05 * max([*predicted, *observed, 1e-6])
    perfect = Series(label="perfect", x=[0, top], y=[0, top], colour="muted", dashed=True)
    model = Series(label="model", x=predicted, y=observed, dots=True)
    return line_figure(
        name,
        [model, perfect],
        x_label="predicted rate",
        y_label="observed rate",
        alt=alt,
        from_zero=True,
    )


def heatmap_figure(
    name: str, weights: list[list[float]], rows: list[int], columns: list[int], alt: str
) -> str:
    """Mean attention by target category (rows) and behaviour category (columns), as an SVG element.

    A cell has the series colour at an opacity in proportion to its weight; NaN leaves it empty.
    """
    values = np.asarray(weights, dtype=np.float64).reshape(len(rows), len(columns))
    largest = float(np.nan_to_num(values).max(initial=1e-12))
    with mpl.rc_context({**_STYLE, "axes.grid": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(3.8, 3.2), layout="constrained")
        axes = figure.add_subplot()
        colours = np.empty((*values.shape, 4))
        colours[..., :3] = mpl.colors.to_rgb(_HEX["series-1"])
        colours[..., 3] = np.nan_to_num(values / largest).clip(0, 1)
        mesh = axes.pcolormesh(values, edgecolor=_HEX["surface"], linewidth=1.5)
        mesh.set_array(None)
        mesh.set_facecolor([tuple(colour) for colour in colours.reshape(-1, 4)])
        axes.invert_yaxis()
        _tick_categories(axes, rows, columns)
        if max(values.shape) <= _LABELLED_CELLS:
            for row, column in np.argwhere(np.isfinite(values)):
                value = float(values[row, column])
                # Where a cell gets this strong, ink reads worse than the surface on both themes.
                colour: Colour = "surface" if value > 0.75 * largest else "ink"
                axes.text(
                    column + 0.5,
                    row + 0.5,
                    f"{100 * value:.1f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color=_HEX[colour],
                )
        _label(axes, "category of the behaviour", "category of the target")
        return _svg(figure, name, alt)


def memory_figure(name: str, memory: Memory, alt: str) -> str:
    """Memory of the ranks by table, on top of each other, as an SVG element.

    Args:
        name: start of every id in the figure, unique in the page.
        memory: bytes by table and rank.
        alt: what the figure shows, for readers who do not see it.
    """
    with mpl.rc_context(_STYLE):
        return _svg(_memory(memory, _HEX), name, alt)


def save_memory_figure(path: str, memory: Memory, *, title: str) -> None:
    """The same as a file of its own, SVG or PNG by its ending.

    Raises:
        ValueError: another ending.
    """
    if not path.endswith((".svg", ".png")):
        raise ValueError(f"--picture is {path}; it must end in .svg or .png")
    paper = {value: _PAPER[colour] for colour, value in _HEX.items()}
    style = {key: paper.get(value, value) for key, value in _STYLE.items()}
    with mpl.rc_context(style):
        figure = _memory(memory, _PAPER)
        figure.suptitle(title, fontsize=9, color=_PAPER["ink"])
        figure.savefig(path, dpi=160)


def _memory(memory: Memory, colours: dict[Colour, str]) -> Figure:
    figure = Figure(figsize=(5.4, 3.0), layout="constrained")
    axes = figure.add_subplot()
    ranks = len(next(iter(memory.values())))
    edges, below = np.arange(ranks + 1) - 0.5, np.zeros(ranks)
    most = max(sum(values) for values in zip(*memory.values(), strict=True))
    size, unit = next((s, u) for s, u in _UNITS if most >= s or s == 1)
    for number, (table, values) in enumerate(memory.items()):
        above = below + np.asarray(values) / size
        colour: Colour = ("series-1", "series-2")[number % 2]
        alpha = 1 / (1 + number // 2)
        axes.stairs(above, edges, baseline=below, fill=True, color=colours[colour], alpha=alpha,
                    label=table)  # fmt: skip
        below = above
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.set_xlim(-0.5, ranks - 0.5)
    axes.set_ylim(bottom=0)
    _label(axes, "rank", f"memory of tables, {unit}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _tick_categories(axes: Axes, rows: list[int], columns: list[int]) -> None:
    for axis, ids in ((axes.xaxis, columns), (axes.yaxis, rows)):
        stride = max(1, math.ceil(len(ids) / _LABELLED_CELLS))
        axis.set_ticks(np.arange(len(ids))[::stride] + 0.5, [str(i) for i in ids[::stride]])
        axis.set_tick_params(length=0)


def _label(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    # Above the axis and upright: a turned label is hard to read and costs width on a phone.
    axes.set_title(y_label, loc="left", fontsize=9, color=_HEX["muted"])


def _short(value: float, _: float) -> str:
    """Axis numbers: 1.5M, 200k, 20,000, 0.65."""
    for size, least, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e3, 1e5, "k")):
        if abs(value) >= least:
            return f"{value / size:g}{unit}"
    return f"{value:,.0f}" if abs(value) >= 1e3 else f"{value:g}"


def _svg(figure: Figure, name: str, alt: str) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    text = re.sub(r"(font: [^;\"]*?\d+px) [^;\"]*", r"\1 system-ui, sans-serif", text)
    for colour, value in _HEX.items():
        text = text.replace(value, f"var(--{colour})")
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    label = html.escape(alt, quote=True)
    opening = f'<svg {view.group()} role="img" aria-label="{label}">'
    return opening + text[text.index(">") + 1 :]
