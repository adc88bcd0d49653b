"""Heat maps of `dare analyze attention`: a row a category of targets, a column a map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.analysis.pictures import draw_map, new_figure, scaled, styled

_TITLES = {
    "mutual information": "mutual information with the click",
    "planted attention": "planted attention (of what is seen)",
    "search score": "learned: search score",
    "attention": "learned: attention of the kept",
    "tables only": "learned: tables only (paper's map)",
}


def draw_attention(
    content: Mapping[str, Any], maps: Mapping[str, np.ndarray], title: str
) -> Figure:
    """Draw the maps of the most frequent categories of targets.

    Args:
        content: `categories`, `train_targets`, `correlations` and `options` of the analysis.
        maps: values by name, [A, A, P]; scores after a softmax over cells.
        title: of the figure.
    """
    names = [name for name in _TITLES if name in maps]
    shown = min(content["options"]["pictured"], len(content["categories"]))
    with styled():
        figure = new_figure(2.1 + 2.35 * len(names), 1.2 + 2.35 * shown)
        grid = figure.subplots(shown, len(names), squeeze=False, sharex=True, sharey=True)
        categories = [int(category) for category in content["categories"]]
        for row, column in np.ndindex(shown, len(names)):
            axes, name = cast(Axes, grid[row, column]), names[column]
            positions = range(1, maps[name].shape[2] + 1)
            image = draw_map(axes, scaled(maps[name][row]), rows=categories, columns=positions)
            heading = f"{_TITLES[name]}\n" if row == 0 else ""
            axes.set_title(heading + _agreement(content, name, row), fontsize=8)
            if row == shown - 1:
                axes.set_xlabel("position (1: newest)")
            if column == 0:
                _stress(axes, row)
                samples = f"{int(content['train_targets'][row]):,} train targets"
                axes.set_ylabel(
                    f"target category {categories[row]}\n{samples}\n\ncategory of the behaviour"
                )
        figure.colorbar(
            image,
            ax=grid,
            label="each map scaled from its least (0) to its largest (1); grey: too few behaviours",
            shrink=0.7 if shown > 1 else 1.0,
            pad=0.01,
        )
        figure.suptitle(
            f"What {title} attends to, beside what tells about clicks (r: correlation of a map's "
            "cells)",
            fontsize=11,
        )
    return figure


def _stress(axes: Axes, row: int) -> None:
    """Write the label of a row in bold, if it has one: of many rows only some do."""
    for at, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if at == row else "normal")


def _agreement(content: Mapping[str, Any], name: str, row: int) -> str:
    """How a map correlates with each truth, a line each."""
    lines = []
    for truth, of_truth in content["correlations"].items():
        if name in of_truth:
            found = of_truth[name]
            pearson, spearman = found["pearson_by_map"][row], found["spearman_by_map"][row]
            short = truth.removesuffix(" attention")
            lines.append(f"{short}: r {pearson:.2f}, by rank {spearman:.2f}")
    return "\n".join(lines) or "\N{ZERO WIDTH SPACE}"
