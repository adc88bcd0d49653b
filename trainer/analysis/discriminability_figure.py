"""Curves of `dare analyze discriminability`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from trainer.analysis.pictures import label, new_figure, series_style, styled

_KINDS = {
    "head input": "the whole head's input (released code)",
    "history * target": "sum of w (e * v), target-aware (paper's text)",
    "[target, history]": "[v, sum of w e], no target awareness",
}


def draw_discriminability(runs: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw what clusters tell about the label, by their number.

    Args:
        runs: content of the analysis by run. Of one all vectors are drawn in two panels, as it is
            and less what chance gives; of several each kind of vector has its panel.
    """
    with styled():
        if len(runs) == 1:
            ((name, content),) = runs.items()
            figure = new_figure(9.4, 4.4)
            panels = figure.subplots(1, 2, sharex=True)
            for axes, score, title in (
                (panels[0], "nmi", "normalised by the mean entropy (paper)"),
                (panels[1], "adjusted", "the same, less what chance alone gives"),
            ):
                for number, (kind, kind_name) in enumerate(_KINDS.items()):
                    _curve(axes, content, kind, score, kind_name, number)
                _finish(axes, title, content["options"]["clusters"])
            what = f"{name}, {content['targets']:,} targets of {content['split']}"
        else:
            figure = new_figure(4.6 * len(_KINDS), 4.4)
            panels = figure.subplots(1, len(_KINDS), sharex=True)
            for axes, (kind, kind_name) in zip(panels, _KINDS.items(), strict=True):
                for number, (run, content) in enumerate(runs.items()):
                    _curve(axes, content, kind, "nmi", run, number)
                _finish(axes, kind_name, next(iter(runs.values()))["options"]["clusters"])
            what = "several runs"
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(handles)))
        figure.suptitle(f"What clusters of representations tell about the click: {what}")
    return figure


def _curve(
    axes: Axes, content: Mapping[str, Any], kind: str, score: str, name: str, number: int
) -> None:
    """A mean over seeds, with a band of one standard deviation."""
    found = content["vectors"][kind]
    mean, deviation = (np.asarray(found[key], float) for key in (score, f"{score}_deviation"))
    clusters, style = content["options"]["clusters"], series_style(number)
    axes.plot(clusters, mean, label=name, **style)
    axes.fill_between(
        clusters, mean - deviation, mean + deviation, color=style["color"], alpha=0.15, linewidth=0
    )


def _finish(axes: Axes, title: str, clusters: list[int]) -> None:
    label(axes, title=title, x="clusters", y="NMI of cluster and label")
    axes.set_xscale("log")
    axes.set_xticks(clusters, [str(number) for number in clusters])
    axes.xaxis.set_minor_locator(NullLocator())
