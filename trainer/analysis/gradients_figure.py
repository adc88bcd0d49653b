"""Panels of `dare analyze gradients`: size, direction and conflict, a row of panels a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from trainer.analysis.conflict import COSINE_EDGES, SHARE_EDGES
from trainer.analysis.pictures import COLOURS, MUTED, label, new_figure, styled

_ROLES = {"attention": COLOURS[0], "representation": COLOURS[1]}
_AGREE, _OPPOSE = COLOURS[4], COLOURS[3]


def draw_gradients(content: Mapping[str, Any], title: str) -> Figure:
    """Draw what became of each shared table's gradients.

    Args:
        content: of the analysis.
        title: of the run.
    """
    tables = content["tables"]
    with styled():
        figure = new_figure(14.5, 0.7 + 3.4 * len(tables))
        grid = figure.subplots(len(tables), 4, squeeze=False)
        for panels, (name, table) in zip(grid, tables.items(), strict=True):
            what = "category" if name.endswith("_category") else "position"
            _norms(panels[0], content, table, name)
            _sizes(panels[1], table, what)
            _cosines(panels[2], table, what)
            _rows(panels[3], table, what)
        figure.suptitle(
            f"Gradients of attention and of the representation where {title} shares tables: "
            f"{content['steps']:,} steps from {content['start']}; "
            f"attention's gradient {content['attention_gradient']}",
            fontsize=11,
        )
    return figure


def _norms(axes: Axes, content: Mapping[str, Any], table: Mapping[str, Any], name: str) -> None:
    steps = np.arange(content["steps"]) + content["first_step"]
    for role, colour in _ROLES.items():
        axes.plot(steps, table["by_step"][role], color=colour, label=role)
    ratio, published = table["corrected"]["ratio"], table["published"]["ratio"]
    told = f"{ratio:.1f} (as published {published:.1f})"
    if not table["corrected"]["attention"] > 0:
        told = "attention has no gradient"
    label(
        axes,
        title=f"{name}: representation over attention\n{told}",
        x="step",
        y="mean norm of a row's gradient",
    )
    axes.set_yscale(_scale(*(table["by_step"][role] for role in _ROLES)))
    axes.legend()


def _sizes(axes: Axes, table: Mapping[str, Any], what: str) -> None:
    rows = table["by_row"]
    attention, representation = (np.asarray(rows[role], float) for role in _ROLES)
    seen = (attention > 0) & (representation > 0)
    axes.scatter(
        attention[seen], representation[seen], s=9, color=COLOURS[2], alpha=0.7, linewidths=0
    )
    if seen.any():
        both = np.concatenate([attention[seen], representation[seen]])
        ends = [both.min() / 1.5, both.max() * 1.5]
        axes.plot(ends, ends, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    told = "no row has\nboth gradients"
    if seen.any():
        larger = float((representation[seen] > attention[seen]).mean())
        told = f"the representation's is\nlarger in {larger:.0%} of rows"
    label(
        axes,
        title=f"by {what}: {told}",
        x="attention: mean norm",
        y="representation: mean norm",
    )
    axes.set_xscale(_scale(attention[seen]))
    axes.set_yscale(_scale(representation[seen]))


def _scale(*values: ArrayLike) -> Literal["log", "linear"]:
    """Logarithmic where something can be drawn so; matplotlib fails where nothing can."""
    return "log" if any((np.asarray(some, float) > 0).any() for some in values) else "linear"


def _cosines(axes: Axes, table: Mapping[str, Any], what: str) -> None:
    share = np.asarray(table["cosines"], float)
    share = share / max(1.0, share.sum())
    middle = (COSINE_EDGES[1:] + COSINE_EDGES[:-1]) / 2
    colours = [_OPPOSE if at < 0 else _AGREE for at in middle]
    axes.bar(middle, share, width=np.diff(COSINE_EDGES), color=colours, edgecolor="white", lw=0.3)
    axes.axvline(0, color=MUTED, linewidth=0.9)
    conflict, published = table["corrected"]["conflict"], table["published"]["conflict"]
    label(
        axes,
        title=f"in conflict: {conflict:.1%} of {what} rows and steps\n"
        f"(as published, of steps by their mean: {published:.1%})",
        x="cosine of the two gradients",
        y="share",
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def _rows(axes: Axes, table: Mapping[str, Any], what: str) -> None:
    conflict = np.asarray(table["by_row"]["conflict"], float)
    conflict = conflict[np.isfinite(conflict)]
    count = np.histogram(conflict, SHARE_EDGES)[0] / max(1, conflict.size)
    middle = (SHARE_EDGES[1:] + SHARE_EDGES[:-1]) / 2
    colours = [_OPPOSE if at > 0.5 else _AGREE for at in middle]
    axes.bar(middle, count, width=np.diff(SHARE_EDGES), color=colours, edgecolor="white", lw=0.6)
    axes.axvline(0.5, color=MUTED, linewidth=0.9)
    above, published = (table[kind]["rows_in_conflict"] for kind in ("corrected", "published"))
    label(
        axes,
        title=f"in conflict in most of their steps: {above:.1%}\nof {what} rows "
        f"(as published {published:.1%})",
        x="share of its steps in conflict",
        y=f"share of {what} rows",
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1))
