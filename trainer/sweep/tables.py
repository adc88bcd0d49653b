"""The tables of a sweep, laid out as Table 1 of arXiv:2410.02604: models by data and settings."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Sequence

from trainer.report.headline import format_bytes, format_seconds
from trainer.sweep.cells import (
    COMPARED,
    FIGURES,
    LOWER_IS_BETTER,
    Cell,
    Difference,
    Spread,
    over_presets,
)
from trainer.sweep.grid import Grid, Setting

MODEL_NAMES = {
    "dare": "DARE",
    "dare_no_tr": "DARE (w/o TR)",
    "twin": "TWIN",
    "twin_hard": "TWIN (hard)",
    "twin_proj": "TWIN (w/ proj.)",
    "twin_no_tr": "TWIN (w/o TR)",
    "twin_4e": "TWIN-4E",
    "twin_v2": "TWIN-V2",
    "din": "DIN",
    "eta": "ETA",
    "sdim": "SDIM",
    "mirrn": "MIRRN",
}
"""As the paper calls them; others go by the name of their preset."""

_METRIC_NAMES = {"auc": "AUC", "gauc": "GAUC", "logloss": "log loss", "ne": "NE"}
_MISSING = "-"
_ESCAPES = str.maketrans(
    {c: f"\\{c}" for c in "_%&#${}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


def model_name(preset: str) -> str:
    """What tables call a preset."""
    return MODEL_NAMES.get(preset, preset)


def column_name(grid: Grid, setting: Setting) -> str:
    """`taobao, width 16`."""
    varied = [f"{axis.label} {v}" for axis, v in zip(grid.axes, setting.values, strict=True)]
    return ", ".join([setting.dataset, *varied])


def markdown_table(grid: Grid, cells: Sequence[Cell], metric: str = "auc") -> str:
    """Mean ± standard deviation of a metric; the best of each column is bold."""
    rows = _rows(grid, cells, metric, _MISSING, _markdown_number, "**{}**".format)
    columns = cells[: len(grid.columns())]
    oracle = [over_presets(cells, cell, "oracle_auc") for cell in columns]
    if metric == "auc" and any(oracle):
        rows.append(
            ["best possible", *(f"{best.mean:.5f}" if best else _MISSING for best in oracle)]
        )
    heads = ["model", *(column_name(grid, cell.setting) for cell in columns)]
    return _markdown([heads, *rows])


def grid_tables(grid: Grid, cells: Sequence[Cell], metric: str = "auc") -> str:
    """Two varied fields as a grid, the first down and the second across, for each model and data.

    As Fig. 17 of the paper lays out widths of attention and of representation.

    Returns:
        Markdown; empty where other than two fields take several values.
    """
    varied = [place for place, axis in enumerate(grid.axes) if len(axis.values) > 1]
    if len(varied) != 2:
        return ""
    down, across = (grid.axes[place] for place in varied)
    parts = []
    for preset, dataset in itertools.product(grid.presets, grid.datasets):
        found = {
            tuple(cell.setting.values[place] for place in varied): cell.spread(metric)
            for cell in cells
            if (cell.setting.preset, cell.setting.dataset) == (preset, dataset.label)
        }
        rows = [[f"{down.label} \\ {across.label}", *across.values]]
        for value in down.values:
            row = [found[value, other] for other in across.values]
            rows.append([value, *(_text(one, grid, _MISSING, _markdown_number) for one in row)])
        parts.append(f"\n{model_name(preset)}, {dataset.label}:\n\n{_markdown(rows)}")
    return "".join(parts)


def latex_table(grid: Grid, cells: Sequence[Cell], metric: str = "auc") -> str:
    r"""The same as `.92568 (.00025)` for LaTeX; needs `\usepackage{booktabs}`."""
    levels = [(axis.label, axis.values) for axis in grid.axes]
    levels.append(("model", tuple(dataset.label for dataset in grid.datasets)))
    total, repeats = len(grid.columns()), 1
    lines = [rf"\begin{{tabular}}{{l{'c' * total}}}", r"\toprule"]
    for label, values in levels:
        span = total // repeats // len(values)
        names = [value.translate(_ESCAPES) for value in values] * repeats
        heads = [rf"\multicolumn{{{span}}}{{c}}{{{name}}}" if span > 1 else name for name in names]
        lines.append(_latex_row([label.translate(_ESCAPES), *heads]))
        repeats *= len(values)
    lines.append(r"\midrule")
    bold = r"\textbf{{{}}}".format
    for name, *numbers in _rows(grid, cells, metric, "--", _latex_number, bold):
        lines.append(_latex_row([name.translate(_ESCAPES), *numbers]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def csv_table(grid: Grid, cells: Sequence[Cell]) -> str:
    """A row a model and setting: every figure's mean and standard deviation over its seeds."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    figures = [f"{name}_{end}" for name in FIGURES for end in ("mean", "std")]
    labels = [axis.label for axis in grid.axes]
    writer.writerow(["model", "dataset", *labels, "runs", "runs_missing", *figures])
    for cell in cells:
        setting, runs = cell.setting, len(cell.results)
        row = [setting.preset, setting.dataset, *setting.values, runs, len(grid.seeds) - runs]
        for name in FIGURES:
            found = cell.spread(name)
            row += [found.mean, found.std] if found else ["", ""]
        writer.writerow(row)
    return stream.getvalue()


def figures_table(grid: Grid, cells: Sequence[Cell]) -> str:
    """All that matters of every cell, a row each, in Markdown."""
    heads = ["model", "of", "runs", *_METRIC_NAMES.values(), "of possible", "training", "memory"]
    rows = []
    for cell in cells:
        row = [model_name(cell.setting.preset), column_name(grid, cell.setting)]
        row.append(f"{len(cell.results)} of {len(grid.seeds)}")
        row += [
            _markdown_number(found) if (found := cell.spread(m)) else _MISSING for m in COMPARED
        ]
        for name, form in (
            ("of_possible", "{:.1%}".format),
            ("seconds", format_seconds),
            ("peak_memory_bytes", format_bytes),
        ):
            found = cell.spread(name)
            row.append(form(found.mean) if found else _MISSING)
        rows.append(row)
    return _markdown([heads, *rows])


def differences_table(grid: Grid, found: Sequence[Difference], metric: str = "auc") -> str:
    """Each model less the reference, seed by seed, in Markdown."""
    rows = [["model", "of", "difference", "seeds won", "p"]]
    for one in found:
        if one.metric == metric:
            number = f"{one.mean:+.5f} ± {one.std:.5f}" if one.seeds > 1 else f"{one.mean:+.5f}"
            p = _MISSING if one.p is None else f"{one.p:.2g}"
            won = f"{one.won} of {one.seeds}"
            name, column = model_name(one.setting.preset), column_name(grid, one.setting)
            rows.append([name, column, number, won, p])
    return _markdown(rows)


def _rows(
    grid: Grid,
    cells: Sequence[Cell],
    metric: str,
    missing: str,
    form: Callable[[Spread], str],
    emphasise: Callable[[str], str],
) -> list[list[str]]:
    """A row a preset: its name and its cells as text, the best of each column emphasised."""
    width = len(grid.columns())
    by_preset = [cells[first : first + width] for first in range(0, len(cells), width)]
    found = [[cell.spread(metric) for cell in row] for row in by_preset]
    choose = min if metric in LOWER_IS_BETTER else max
    best = [
        choose((_shown(one) for one in column if one), default=None)
        for column in zip(*found, strict=True)
    ]
    rows = []
    for preset, row in zip(grid.presets, found, strict=True):
        texts = [model_name(preset)]
        for one, top in zip(row, best, strict=True):
            text = _text(one, grid, missing, form)
            alone = len(grid.presets) == 1
            texts.append(emphasise(text) if one and _shown(one) == top and not alone else text)
        rows.append(texts)
    return rows


def _text(one: Spread | None, grid: Grid, missing: str, form: Callable[[Spread], str]) -> str:
    """A cell, with how many of its runs there are where some are not."""
    if one is None:
        return missing
    there = f" ({one.count} of {len(grid.seeds)})" if one.count < len(grid.seeds) else ""
    return form(one) + there


def _shown(found: Spread) -> float:
    """The mean as far as it is printed: what looks equal is."""
    return round(found.mean, 5)


def _markdown_number(found: Spread) -> str:
    return f"{found.mean:.5f} ± {found.std:.5f}" if found.count > 1 else f"{found.mean:.5f}"


def _latex_number(found: Spread) -> str:
    """`.92568 (.00025)`, without the zero before the point."""
    mean, std = (f"{value:.5f}".removeprefix("0") for value in (found.mean, found.std))
    return f"{mean} ({std})" if found.count > 1 else mean


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    heads, *rest = rows
    lines = [heads, ["---"] * len(heads), *rest]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _latex_row(parts: Sequence[str]) -> str:
    return f"{' & '.join(parts)} \\\\"
