"""What a sweep leaves: its tables as Markdown, CSV and LaTeX, all figures as JSON, a picture."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.json_files import write_json
from trainer.sweep.cells import (
    FIGURES,
    Cell,
    choose_reference,
    differences,
    over_presets,
)
from trainer.sweep.figures import (
    PRESET_COLOURS,
    HeatMap,
    Line,
    Panel,
    Scale,
    draw_heat_maps,
    draw_lines,
)
from trainer.sweep.grid import Axis, Grid
from trainer.sweep.runs import Ended
from trainer.sweep.tables import (
    csv_table,
    differences_table,
    figures_table,
    grid_tables,
    latex_table,
    markdown_table,
    model_name,
)

_MAGNITUDES = 20


@dataclass(frozen=True)
class Report:
    """What a sweep came to, so far."""

    grid: Grid
    config: str
    """The base recipe."""
    options: Sequence[str]
    """More options of all runs."""
    cells: Sequence[Cell]
    failed: Sequence[Ended]

    @property
    def split(self) -> str:
        """That was scored: `test`, or `val` where there is no other."""
        found = {result["split"] for cell in self.cells for result in cell.results.values()}
        return " or ".join(sorted(found)) or "test"


def write_report(report: Report, folder: Path) -> None:
    """Write `sweep.md`, `sweep.csv`, `sweep.tex` and `sweep.json`."""
    grid, cells = report.grid, report.cells
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.md").write_text(_markdown(report))
    (folder / "sweep.csv").write_text(csv_table(grid, cells))
    (folder / "sweep.tex").write_text(latex_table(grid, cells))
    write_json(folder / "sweep.json", _content(report))


def _markdown(report: Report) -> str:
    grid, cells = report.grid, report.cells
    seeds = ", ".join(map(str, grid.seeds))
    parts = [
        f"# Sweep of {report.config}\n\n",
        *(f"Options: `{shlex.join(report.options)}`\n\n" for _ in report.options[:1]),
        f"AUC of the {report.split} split, mean ± sample standard deviation over the seeds "
        f"{seeds}; the best of each column is bold.\n\n",
        markdown_table(grid, cells),
        grid_tables(grid, cells),
    ]
    if len(grid.presets) > 1:
        reference = choose_reference(grid.presets)
        parts += [
            f"\n## Less {model_name(reference)}, seed by seed\n\n",
            "AUC of a model less that with the same seed, mean ± sample standard deviation; p of a "
            "two-sided paired t-test.\n\n",
            differences_table(grid, list(differences(cells, reference))),
        ]
    parts += [
        "\n## All figures\n\nMeans over the seeds; *of possible* is the way from 0.5 to the best "
        "possible AUC; training and memory (peak) are rank 0's.\n\n",
        figures_table(grid, cells),
    ]
    if report.failed:
        parts.append("\n## Failed\n\n")
        parts += [f"* `{one.run.name}`: {one.error} (`{one.log}`)\n" for one in report.failed]
    return "".join(parts)


def _content(report: Report) -> dict[str, Any]:
    grid = report.grid
    return {
        "config": report.config,
        "options": list(report.options),
        "grid": dataclasses.asdict(grid),
        "cells": [
            {
                **_names(grid, cell),
                "results": {str(seed): dict(result) for seed, result in cell.results.items()},
                "figures": {
                    name: dataclasses.asdict(found)
                    for name in FIGURES
                    if (found := cell.spread(name)) is not None
                },
            }
            for cell in report.cells
        ],
        "differences": [
            {
                **{k: v for k, v in vars(one).items() if k != "setting"},
                **_names(grid, Cell(one.setting, {})),
            }
            for one in differences(report.cells, choose_reference(grid.presets))
        ],
        "failed": [
            {"run": one.run.name, "error": one.error, "log": str(one.log)} for one in report.failed
        ],
    }


def _names(grid: Grid, cell: Cell) -> dict[str, Any]:
    setting = cell.setting
    varied = {axis.label: v for axis, v in zip(grid.axes, setting.values, strict=True)}
    return {"preset": setting.preset, "dataset": setting.dataset, "varied": varied}


def draw_report(report: Report, path: Path) -> bool:
    """Draw AUC over one varied number, or over two of one preset; nothing else is drawn.

    Returns:
        Whether there is a picture.
    """
    grid = report.grid
    varied = [axis for axis in grid.axes if len(axis.values) > 1]
    if any(axis.numbers is None for axis in varied) or not any(c.results for c in report.cells):
        return False
    if len(varied) == 1:
        panels = [_panel(report, varied[0], dataset.label) for dataset in grid.datasets]
        x_label, y_label = varied[0].label, f"{report.split} AUC"
        draw_lines(panels, path, x_label=x_label, y_label=y_label, scale=_scale(varied[0]))
        return True
    if len(varied) == 2 and len(grid.presets) == 1:
        rows, columns = varied
        maps = [_heat_map(report, rows, columns, dataset.label) for dataset in grid.datasets]
        draw_heat_maps(maps, path, x_label=columns.label, y_label=rows.label)
        return True
    return False


def _scale(axis: Axis) -> Scale:
    """Numbers of several magnitudes, such as history lengths, are drawn by their logarithm."""
    numbers = axis.numbers or [0.0]
    return "log_x" if 0 < min(numbers) * _MAGNITUDES <= max(numbers) else "linear"


def _panel(report: Report, axis: Axis, dataset: str) -> Panel:
    lines, place = [], report.grid.axes.index(axis)
    here = [cell for cell in report.cells if cell.setting.dataset == dataset]
    first = [cell for cell in here if cell.setting.preset == report.grid.presets[0]]
    oracle = {_number(c, place): over_presets(here, c, "oracle_auc") for c in first}
    known = {x: found.mean for x, found in oracle.items() if found is not None}
    if known:
        lines.append(
            Line(label="best possible", x=list(known), y=list(known.values()), dashed=True)
        )
    for preset in report.grid.presets:
        found = {
            _number(cell, place): spread
            for cell in here
            if cell.setting.preset == preset and (spread := cell.spread("auc")) is not None
        }
        line = Line(
            label=model_name(preset),
            x=list(found),
            y=[one.mean for one in found.values()],
            error=[one.std for one in found.values()],
            colour=PRESET_COLOURS.get(preset, ""),
        )
        lines.append(line)
    return Panel(lines=lines, title=dataset)


def _number(cell: Cell, place: int) -> float:
    return float(cell.setting.values[place])


def _heat_map(report: Report, rows: Axis, columns: Axis, dataset: str) -> HeatMap:
    down, across = (report.grid.axes.index(axis) for axis in (rows, columns))
    values = [[math.nan] * len(columns.values) for _ in rows.values]
    for cell in report.cells:
        found = cell.spread("auc")
        if cell.setting.dataset == dataset and found is not None:
            row = rows.values.index(cell.setting.values[down])
            values[row][columns.values.index(cell.setting.values[across])] = found.mean
    title = f"{report.split} AUC of {model_name(report.grid.presets[0])}, {dataset}"
    return HeatMap(title=title, rows=rows.values, columns=columns.values, values=values)
