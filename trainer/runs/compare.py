"""`dare runs compare`: one page of how runs differ, which opens without a network."""

from __future__ import annotations

import os
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.report.headline import History, number
from trainer.report.page import render_page
from trainer.runs.curves import COLOURS, MOST_RUNS, draw_figures
from trainer.runs.differences import config_rows, result_rows
from trainer.runs.files import CONFIG, RESULT, RunFiles, parsed
from trainer.runs.state import Run, read_run
from trainer.telemetry.metrics_file import METRICS_FILE

_TEMPLATE = Path(__file__).with_name("compare.html.j2")
_FILES = ("report.html", RESULT, CONFIG, "plan.json", METRICS_FILE, "log.txt", "ended.json")

_NAMED = 3
"""Runs at most whose names are the title."""


@dataclass(frozen=True)
class _Compared:
    """One run on the page."""

    letter: str
    colour: str
    dashed: bool
    run: Run
    config: dict[str, Any]
    history: History
    figures: dict[str, float | None]
    """Of its result, as far as there is one."""
    links: list[tuple[str, str]]
    """Names of its files, and where they are from the page."""


def write_comparison(folders: Sequence[Path], out: Path) -> None:
    """Write the page.

    Args:
        folders: of the runs, the one that others are measured against first.
        out: the HTML file; its folder is made.

    Raises:
        ValueError: too few runs, too many, one twice, or one without a config that can be read.
        OSError: the page cannot be written.
    """
    if len({path.resolve() for path in folders}) < len(folders):
        raise ValueError("a run is given twice; give runs that differ")
    if not 2 <= len(folders) <= MOST_RUNS:
        raise ValueError(f"runs given: {len(folders)}; a page compares 2 to {MOST_RUNS} of them")
    runs = [_read(path, place, out) for place, path in enumerate(folders)]
    letters, names = [one.letter for one in runs], [one.run.name for one in runs]
    page = render_page(
        _TEMPLATE,
        runs=runs,
        title=" · ".join(names) if len(names) <= _NAMED else f"{len(names)} runs",
        splits=_splits(runs),
        config=config_rows([one.config for one in runs]),
        results=result_rows([one.figures for one in runs]),
        figures=draw_figures(letters, [one.history for one in runs]),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")


def _read(folder: Path, place: int, out: Path) -> _Compared:
    files = RunFiles(folder)
    config, result = files.config(), files.object(RESULT)
    if not config:
        problem = "; ".join(files.problems) or f"it has no {CONFIG}"
        raise ValueError(f"{folder} cannot be compared: {problem}")
    rows = (parsed(line) for line in files.text(METRICS_FILE).splitlines())
    history = [row for row in rows if "step" in row]
    run = read_run(folder)
    names = ("auc", "gauc", "ne", "logloss", "calibration", "oracle_auc", "samples_per_s")
    sizes = ("seconds", "peak_memory_bytes", "samples", "best_step", "ranks")
    figures = {name: number(result, history, name) for name in (*names, *sizes)}
    figures |= {"val_auc": run.val_auc, "steps": run.step}
    here = out.parent.resolve()
    links = [
        (name, Path(os.path.relpath(folder.resolve() / name, here)).as_posix())
        for name in _FILES
        if (folder / name).exists()
    ]
    colour, dashed = COLOURS[place % len(COLOURS)], place >= len(COLOURS)
    return _Compared(
        string.ascii_uppercase[place], colour, dashed, run, config, history, figures, links
    )


def _splits(runs: Sequence[_Compared]) -> str:
    """What the metrics of results are of, in words."""
    finished = [one.letter for one in runs if one.figures["auc"] is not None]
    if not finished:
        return "No run has finished, so none was scored on its test split."
    left = [one.letter for one in runs if one.letter not in finished]
    unfinished = f" {', '.join(left)} has not finished." if left else ""
    return (
        f"Metrics are of each run's test split, or of validation where there is none.{unfinished}"
    )
