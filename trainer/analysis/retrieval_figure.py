"""Curves and cases of `dare analyze retrieval`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.analysis.pictures import (
    MUTED,
    draw_map,
    label,
    new_figure,
    scaled,
    series_style,
    styled,
)

_ORDERS = {
    "search": "the model's search",
    "tables only": "category and position tables only",
    "newest first": "newest first",
    "any order": "any order (mean)",
}


def draw_retrieval(
    content: Mapping[str, Any], title: str, others: Mapping[str, Mapping[str, Any]]
) -> Figure:
    """Draw quality by k for each truth, and the cases below.

    Args:
        content: `curves` and `cases` of the analysis.
        title: of the run.
        others: content of the same analysis of other runs, whose searches are drawn too.
    """
    gains, cases = list(content["curves"]), content["cases"]
    with styled():
        figure = new_figure(4.4 * (len(gains) + 1), 4.4 + (2.4 if cases else 0))
        rows = [4.2, 2.2][: 2 if cases else 1]
        above, *below = figure.subfigures(len(rows), 1, height_ratios=rows, squeeze=False)[:, 0]
        panels = above.subplots(1, len(gains) + 1, squeeze=False)[0]
        for axes, gain in zip(panels, gains, strict=False):
            _curves(axes, content["curves"][gain], gain)
            _others(axes, others, gain, "ndcg")
        _hits(panels[-1], content["curves"][gains[0]], gains[0])
        _others(panels[-1], others, gains[0], "hit_rate")
        handles, names = panels[0].get_legend_handles_labels()
        above.legend(handles, names, loc="outside lower center", ncols=min(5, len(handles)))
        if below:
            _cases(below[0], cases)
        figure.suptitle(
            f"What the search of {title} finds, {content['targets']['judged']:,} targets",
            fontsize=11,
        )
    return figure


def _curves(axes: Axes, curves: Mapping[str, Any], gain: str) -> None:
    for number, (order, name) in enumerate(_ORDERS.items()):
        if order in curves:
            rank = np.arange(1, len(curves[order]["ndcg"]) + 1)
            style = series_style(number)
            axes.plot(rank, curves[order]["ndcg"], label=name, markevery=3, **style)
            if order in ("search", "tables only"):
                dashed = {"color": style["color"], "linestyle": (0, (4, 3))}
                axes.plot(rank, curves[order]["published"], **dashed)
    depth = len(curves["search"]["ndcg"])
    paper = f"dashed: the paper's curve, DCG@k over the best DCG@{depth}"
    axes.plot([], [], color=MUTED, linestyle=(0, (4, 3)), label=paper)
    label(axes, title=f"gain: {gain}", x="behaviours retrieved (k)", y="NDCG@k")
    _from_none_to_all(axes)


def _hits(axes: Axes, curves: Mapping[str, Any], gain: str) -> None:
    for number, order in enumerate(_ORDERS):
        if order in curves and order != "any order":  # Of equals, hits take the newest.
            rank = np.arange(1, len(curves[order]["hit_rate"]) + 1)
            axes.plot(rank, curves[order]["hit_rate"], markevery=3, **series_style(number))
    label(
        axes,
        title=f"hits: share of the k best by {gain}",
        x="behaviours retrieved (k)",
        y="hit rate at k",
    )
    _from_none_to_all(axes)


def _others(axes: Axes, others: Mapping[str, Mapping[str, Any]], gain: str, measure: str) -> None:
    for number, (name, content) in enumerate(others.items(), start=len(_ORDERS)):
        if gain in content["curves"]:
            values = content["curves"][gain]["search"][measure]
            rank = np.arange(1, len(values) + 1)
            axes.plot(rank, values, label=name, markevery=3, **series_style(number))


def _from_none_to_all(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    axes.set_ylim(0, 1.02)


def _cases(below: Any, cases: list[Mapping[str, Any]]) -> None:
    """Behaviours of each case from the newest on; scores as powers of e, as in the paper."""
    for axes, case in zip(below.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        rows = [
            name for name in ("mutual information", "planted attention", "search") if name in case
        ]
        values = [np.asarray(case[name], np.float64) for name in rows]
        values = [
            scaled(np.exp(value - value.max()) if name == "search" else value)
            for name, value in zip(rows, values, strict=True)
        ]
        draw_map(axes, np.stack(values), rows=rows, columns=case["categories"])
        axes.set_title(
            f"target {case['target']:,}, category {case['target_category']}", fontsize=8.5
        )
        axes.set_xlabel("category of the behaviour, newest left", fontsize=8, color=MUTED)
        if axes is not below.axes[0]:
            axes.set_yticklabels([])
    below.suptitle("Targets drawn by chance; each row scaled from 0 to 1", fontsize=9)
