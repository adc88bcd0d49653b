"""How the figures of all analyses look: one style, colours that colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

INK, MUTED, RULE = "#14140f", "#5b5a54", "#dedcd4"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d00", "#000000")
"""Okabe and Ito's, told apart with any kind of colour vision; yellow darkened to be seen on
white."""
MARKS = ("o", "s", "^", "D", "v", "P", "X")
"""Beside the colours, for prints without any."""

_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "text.parse_math": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}
_ABSENT = "#c9c9c4"


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of this project."""
    with mpl.rc_context(_STYLE):
        yield


def series_style(number: int) -> dict[str, Any]:
    """Colour and mark of the n-th line of a figure."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKS[number % len(MARKS)]}


def label(axes: Axes, *, title: str, x: str, y: str) -> None:
    """Title and axis labels, and a light grid."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True)


def draw_map(
    axes: Axes, values: np.ndarray, *, rows: Sequence[object], columns: Sequence[object]
) -> AxesImage:
    """A heat map of values from 0 to 1; NaN is grey.

    Args:
        axes: to draw in.
        values: [rows, columns].
        rows: names of the rows.
        columns: names of the columns.
    """
    colours = mpl.colormaps["viridis"].with_extremes(bad=_ABSENT)
    image = axes.imshow(values, cmap=colours, vmin=0, vmax=1, aspect="auto")
    _tick(axes, rows, columns)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    return image


def _tick(axes: Axes, rows: Sequence[object], columns: Sequence[object]) -> None:
    for axis, names in ((axes.yaxis, rows), (axes.xaxis, columns)):
        stride = max(1, -(-len(names) // 20))
        axis.set_ticks(range(0, len(names), stride), [str(name) for name in names[::stride]])
        axis.set_tick_params(length=0, labelsize=8)


def scaled(values: np.ndarray) -> np.ndarray:
    """The same stretched to 0 ... 1; NaN stays, equal values become 0."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.full(values.shape, np.nan)
    low, high = float(finite.min()), float(finite.max())
    return (values - low) / (high - low if high > low else 1.0)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches, that makes room for its labels."""
    return Figure(figsize=(width, height), layout="constrained")
