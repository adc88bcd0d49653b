"""`dare analyze convergence`: validation metrics by step of one run or several (Fig. 11 a, b)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.analysis.options import BesideOptions, Findings, Job, run_names
from trainer.analysis.pictures import MUTED, label, new_figure, series_style, styled
from trainer.telemetry.metrics_file import METRICS_FILE, read_metrics

METRICS = {"accuracy": "accuracy", "auc": "AUC", "logloss": "log loss (nats)"}
Curves = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]
"""By metric and run: steps, and values there."""


@dataclass(frozen=True, kw_only=True)
class ConvergenceOptions(BesideOptions):
    """Options of `dare analyze convergence`."""

    beside: tuple[str, ...] = ()
    """Folders of other runs to compare with."""
    reach_accuracy: tuple[float, ...] = ()
    """Accuracies whose step is asked for, such as 0.9; empty for the best that all runs reach."""
    reach_auc: tuple[float, ...] = ()
    """AUCs whose step is asked for; empty for the best that all runs reach."""


def convergence(job: Job, options: ConvergenceOptions) -> Findings:
    """Compare how fast runs learn.

    Raises:
        ValueError: a run has no evaluation on `data.val` yet.
    """
    folders = [job.folder, *map(Path, options.beside)]
    names = run_names(folders)
    curves: dict[str, dict[str, list[list[float]]]] = {metric: {} for metric in METRICS}
    for name, folder in zip(names, folders, strict=True):
        found = read_curves(folder)
        if not any(steps for steps, _ in found.values()):
            raise ValueError(
                f"{folder / METRICS_FILE} holds no evaluation; train with loop.evaluate_every"
            )
        for metric, curve in found.items():
            if curve[0]:  # Runs of older versions have no accuracy.
                curves[metric][name] = curve
    asked = {"accuracy": options.reach_accuracy, "auc": options.reach_auc}
    reached = {
        metric: first_steps(curves[metric], levels or reached_by_all(curves[metric]))
        for metric, levels in asked.items()
    }
    content = {
        "options": asdict(options),
        "curves": {
            metric: {name: {"step": xs, "value": ys} for name, (xs, ys) in of_metric.items()}
            for metric, of_metric in curves.items()
        },
        "steps_to_reach": reached,
    }
    return Findings(content, _draw(curves, reached))


def read_curves(folder: Path) -> dict[str, list[list[float]]]:
    """Steps and values of each metric on the validation split, as far as the run has been."""
    rows = read_metrics(folder)
    found: dict[str, list[list[float]]] = {}
    for metric in METRICS:
        points = [(row["step"], row.get(f"eval/{metric}")) for row in rows]
        known = [(step, value) for step, value in points if value is not None]
        found[metric] = [[step for step, _ in known], [value for _, value in known]]
    return found


def first_steps(
    curves: Mapping[str, Sequence[Sequence[float]]], levels: Sequence[float]
) -> list[dict[str, Any]]:
    """The first evaluated step at which each run has reached each level; None where it has not.

    Args:
        curves: steps and values by run, of a metric that is better when larger.
        levels: of the metric.
    """
    return [
        {
            "level": level,
            "steps": {
                name: next((s for s, v in zip(*curve, strict=True) if v >= level), None)
                for name, curve in curves.items()
            },
        }
        for level in levels
    ]


def reached_by_all(curves: Mapping[str, Sequence[Sequence[float]]]) -> list[float]:
    """The best level that every run reaches at some step."""
    least = min((max(values) for _, values in curves.values()), default=math.nan)
    return [least] if math.isfinite(least) else []


def _draw(curves: Curves, reached: Mapping[str, list[dict[str, Any]]]) -> Figure:
    shown = [metric for metric in METRICS if curves[metric]]
    with styled():
        figure = new_figure(4.3 * len(shown), 4.2)
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        names = list(dict.fromkeys(name for metric in shown for name in curves[metric]))
        for axes, metric in zip(panels, shown, strict=True):
            for name, (steps, values) in curves[metric].items():
                axes.plot(steps, values, label=name, **series_style(names.index(name)))
            title = f"validation {METRICS[metric]}"
            for mark in reached.get(metric, []):
                axes.axhline(mark["level"], color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
                steps_to = (
                    "never" if (step := mark["steps"].get(name)) is None else f"{step:,}"
                    for name in names
                )
                title += f"\n{mark['level']:.4g} (dotted) at step {' / '.join(steps_to)}"
            label(axes, title=title, x="step", y=METRICS[metric])
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        handles, labels = panels[-1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(handles)))
        figure.suptitle("How fast runs learn")
    return figure
