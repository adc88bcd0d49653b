"""The run report: one HTML page that opens without a network, for people who were not there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from trainer.report.data import AttentionSummary, ReportData
from trainer.report.figures import (
    Colour,
    Series,
    calibration_figure,
    heatmap_figure,
    line_figure,
    memory_figure,
)
from trainer.report.headline import (
    History,
    finite,
    format_bytes,
    headline,
    number,
    oracle_share,
    split_name,
)
from trainer.report.page import render_page

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_LINES: tuple[tuple[Colour, bool], ...] = (
    ("series-1", False),
    ("series-2", False),
    ("series-1", True),
    ("series-2", True),
)
_PLANTED = "planted (of what is seen)"
"""The truth, as shares of the behaviours that the model sees."""


@dataclass(frozen=True)
class Plot:
    """A figure with its heading and one sentence below."""

    title: str
    svg: Markup
    caption: str


def write_report(data: ReportData, path: Path) -> None:
    """Write the page.

    Args:
        data: what to show.
        path: the HTML file; its folder is made.
    """
    facts = headline(data.result, data.history)
    page = render_page(
        _TEMPLATE,
        name=data.name,
        lead=facts[0] if facts and facts[0].label == "AUC" else None,
        split=split_name(data.result),
        share=oracle_share(data.result, data.history),
        facts=[fact for fact in facts if fact.label != "AUC"],
        training=_training_plots(data),
        attention=_attention_plots(data.attention),
        plan_plots=_plan_plots(data),
        plan_columns=_columns(data.plan),
        plan=[{name: _cell(name, row.get(name, "")) for name in row} for row in data.plan],
        numeric={k for row in data.plan for k, v in row.items() if not isinstance(v, str)},
        config_yaml=data.config_yaml,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _series(history: History, name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one scalar; null becomes NaN, which leaves a gap in a line."""
    rows = [(row["step"], row[name]) for row in history if name in row]
    return [s for s, _ in rows], [math.nan if value is None else value for _, value in rows]


def _training_plots(data: ReportData) -> list[Plot]:
    history, oracle = data.history, number(data.result, data.history, "oracle_auc")
    plots: list[Plot | None] = []
    for key, title, y_label, caption, options in (
        ("loss", "Training loss", "loss, nats a target", "Mean of the steps between log points.",
         {}),
        ("samples_per_s", "Throughput", "samples/s, all ranks",
         "Targets trained a second, evaluations left out.", {"from_zero": True}),
        ("data_wait_share", "Waiting for data", "share of a step",
         "Time a step waits for its batch; near zero means the loader keeps up.",
         {"from_zero": True, "percent": True}),
    ):  # fmt: skip
        steps, values = _series(history, f"train/{key}")
        if len(finite(values)) < 2:
            continue
        series = [Series(label=title, x=steps, y=values)]
        alt = f"{title} over steps: from {values[0]:.4g} to {values[-1]:.4g} {y_label}."
        svg = line_figure(key, series, x_label="step", y_label=y_label, alt=alt, **options)
        plots.append(Plot(title, Markup(svg), caption))
    plots[1:1] = [
        _evaluation_plot(data, ("auc", "gauc"), "Ranking", "AUC", oracle),
        _evaluation_plot(data, ("ne",), "Normalized entropy", "NE", None),
        _calibration_plot(data),
    ]
    return [plot for plot in plots if plot]


def _evaluation_plot(
    data: ReportData, names: tuple[str, ...], title: str, y_label: str,
    oracle: float | None,
) -> Plot | None:  # fmt: skip
    history, split = data.history, split_name(data.result) or "this"
    keys = sorted({k for row in history for k in row if k.rpartition("/")[2] in names})
    series: list[Series] = []
    for key, (colour, dashed) in zip(keys, _LINES, strict=False):
        steps, values = _series(history, key)
        label = key.replace("/", " ").replace("gauc", "GAUC").replace("auc", "AUC")
        if finite(values):
            series.append(
                Series(label=label, x=steps, y=values, colour=colour, dashed=dashed, dots=True)
            )
    if not series:
        return None
    last = ", ".join(f"{one.label} {one.y[-1]:.4f}" for one in series)
    caption = "Exact, over the whole split."
    if oracle is not None:
        ends = [min(min(s.x) for s in series), max(max(s.x) for s in series)]
        series.append(Series(label="best possible", x=ends, y=[oracle] * 2, colour="muted"))
        caption += f" The grey line is the best any model can do on {split} data."
    alt = f"{title} over steps, at the end: {last}."
    svg = line_figure(title.split()[0].lower(), series, x_label="step", y_label=y_label, alt=alt)
    return Plot(title, Markup(svg), caption)


def _calibration_plot(data: ReportData) -> Plot | None:
    predicted, observed = (data.calibration.get(k, []) for k in ("predicted", "observed"))
    if not predicted:
        return None
    alt = f"Observed over predicted rate in {len(predicted)} bins, beside the diagonal."
    svg = calibration_figure("calibration", predicted, observed, alt)
    caption = f"{len(predicted)} bins of equally many targets; on the dashed line is perfect."
    return Plot("Calibration", Markup(svg), caption)


def _attention_plots(attention: AttentionSummary | None) -> list[Plot]:
    if attention is None:
        return []
    learned, planted = attention.position_weight, attention.planted_position_weight
    places = list(range(1, len(learned) + 1))
    series = [Series(label="learned", x=places, y=learned)]
    caption = "Mean attention of the k-th newest behaviour."
    if planted is not None:
        planted = planted[: len(learned)]
        series.append(
            Series(
                label=_PLANTED,
                x=places[: len(planted)],
                y=planted,
                colour="series-2",
                dashed=True,
            )
        )
        caption += _agreement(learned[: len(planted)], planted)
    svg = line_figure(
        "position", series, x_label="behaviour, newest = 1", y_label="mean attention",
        alt=caption, from_zero=True, percent=True, log_x=len(learned) > 40,
    )  # fmt: skip
    plots = [Plot("Attention by position", Markup(svg), caption)]
    return plots + _category_plots(attention)


def _category_plots(attention: AttentionSummary) -> list[Plot]:
    learned, planted = attention.category_weight, attention.planted_category_weight
    rows, columns = attention.target_categories, attention.history_categories
    if not learned:
        return []
    caption = "Percent of attention; a row is the target's category, a column the behaviour's."
    svg = heatmap_figure("category", learned, rows, columns, f"Learned attention. {caption}")
    if planted is None:
        return [Plot("Attention by category", Markup(svg), caption)]
    agreement = _agreement(np.ravel(learned).tolist(), np.ravel(planted).tolist()).strip()
    other = heatmap_figure("planted", planted, rows, columns, f"Attention, {_PLANTED}. {caption}")
    return [
        Plot("Attention by category, learned", Markup(svg), caption),
        Plot(f"Attention by category, {_PLANTED}", Markup(other), agreement or caption),
    ]


def _plan_plots(data: ReportData) -> list[Plot]:
    if not data.memory:
        return []
    totals = [sum(values) for values in zip(*data.memory.values(), strict=True)]
    share = max(totals) * len(totals) / max(1.0, sum(totals))
    caption = (
        f"Tables with optimizer state and what they exchange, as planned: "
        f"{format_bytes(sum(totals))} on {len(totals)} rank{'s' * (len(totals) > 1)}, "
        f"the fullest {share:.2f} times the mean."
    )
    svg = memory_figure("memory", data.memory, caption)
    return [Plot("Memory by rank", Markup(svg), caption)]


def _agreement(learned: list[float], planted: list[float]) -> str:
    first, second = np.asarray(learned, np.float64), np.asarray(planted, np.float64)
    known = np.isfinite(first) & np.isfinite(second)
    first, second = first[known], second[known]
    if first.size < 2 or np.std(first) == 0 or np.std(second) == 0:
        return ""
    correlation = float(np.corrcoef(first, second)[0, 1])
    return f" Correlation of learned and planted: {correlation:.3f}."


def _columns(plan: list[dict[str, str | int | float]]) -> list[str]:
    return list(dict.fromkeys(name for row in plan for name in row))


def _cell(name: str, value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    if name == "bytes" or name.endswith("_bytes"):
        return format_bytes(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
