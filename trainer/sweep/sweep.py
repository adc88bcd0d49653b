"""`dare sweep`: many runs of one recipe, to one table of means and deviations."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.embedding import UsesConfig
from trainer.reliability.lock import locked
from trainer.sweep.cells import Cell
from trainer.sweep.grid import (
    Dataset,
    Grid,
    Setting,
    parse_datasets,
    parse_presets,
    parse_seeds,
    parse_vary,
)
from trainer.sweep.launch import HERE, Runner, make_runner
from trainer.sweep.report import Report, draw_report, write_report
from trainer.sweep.runs import Ended, Keep, Run, read_options, read_run, run_all
from trainer.sweep.tables import markdown_table
from trainer.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)


def sweep(
    *,
    config: str,
    presets: str = "",
    seeds: str = "3",
    vary: Sequence[str] = (),
    data: str = "",
    out: str = "runs/sweep",
    launcher: str = "",
    keep: Keep = "best",
    options: Sequence[str] = (),
) -> tuple[str, int]:
    """Train each preset with each seed on each dataset with each combination of varied fields.

    Each run is a process of its own, so that one that is killed does not end the sweep and its
    peak of memory is its own; that costs about four seconds a run, which `here` saves.

    Args:
        config: base recipe.
        presets: as `parse_presets` reads them; empty for the recipe's own.
        seeds: as `parse_seeds` reads them.
        vary: as `parse_vary` reads them.
        data: folders of prepared datasets; empty for the recipe's own.
        out: folder of the runs and of the tables.
        launcher: as `make_runner` reads it.
        keep: which checkpoints of a finished run stay.
        options: more options of `dare train`.

    Returns:
        Path of the table, and how many runs failed.

    Raises:
        ValueError: something asked for cannot be, or another sweep holds the folder; nothing was
            started.
    """
    folder, runner = Path(out), make_runner(launcher)
    if not config:
        raise ValueError("--config is needed: a recipe, such as launch/recipes/taobao_dare.yaml")
    _check_options(options, data)
    counted, axes = parse_seeds(seeds), parse_vary(vary)
    base = [f"--config={config}", *options]
    recipe, _ = read_options(base)
    own = Dataset(Path(recipe.data.schema).parent.name or "data", "")
    models = parse_presets(presets) if presets else (recipe.model.preset,)
    grid = Grid(models, counted, axes, parse_datasets(data) if data else (own,))
    runs = _plan(grid, base, launcher)
    configure_logging(0)
    with locked(folder, "give another --out"):
        report = _run(grid, runs, folder, runner, keep, config=config, options=options)
    return str(folder / "sweep.md"), len(report.failed)


def _check_options(options: Sequence[str], data: str) -> None:
    """Refuse options for the runs of which the sweep's own would say something else.

    Raises:
        ValueError: one is given.
    """
    given = {option.partition("=")[0] for option in options}
    if "--model.preset" in given:
        raise ValueError("--model.preset is given; give --presets, whose names may be one or many")
    places = [f"--data.{name}" for name in ("train", "val", "test", "schema")]
    both = [place for place in places if place in given] if data else []
    if both:
        raise ValueError(
            f"{', '.join(both)} and --data are given, whose folders say where all splits are; "
            "give the one or the other"
        )


def _run(
    grid: Grid,
    runs: Mapping[tuple[Setting, int], Run],
    folder: Path,
    runner: Runner,
    keep: Keep,
    *,
    config: str,
    options: Sequence[str],
) -> Report:
    """Make all runs that are not there, and write the report after each."""
    places = {run.name: place for place, run in runs.items()}
    found: dict[Setting, dict[int, dict[str, Any]]] = {setting: {} for setting in grid.settings()}
    failed: list[Ended] = []
    cells = [Cell(setting, results) for setting, results in found.items()]
    report = Report(grid, config, options, cells, failed)
    for ended in run_all(list(runs.values()), folder / "runs", runner, keep):
        setting, seed = places[ended.run.name]
        if ended.result is None:
            failed.append(ended)
        else:
            found[setting][seed] = ended.result
        write_report(report, folder)
    draw_report(report, folder / "sweep.png")
    logger.info("AUC of the %s split\n%s", report.split, markdown_table(grid, cells))
    return report


def _plan(grid: Grid, base: Sequence[str], launcher: str) -> dict[tuple[Setting, int], Run]:
    """All runs, the first seed of every setting first; all mistakes before anything starts.

    Raises:
        ValueError: a setting cannot be, a line each.
    """
    uses: dict[str, UsesConfig] = {}
    read: dict[Setting, tuple[list[str], dict[str, Any]]] = {}
    problems: list[str] = []
    for setting in grid.settings():
        given = [*base, f"--model.preset={setting.preset}"]
        try:
            if setting.preset not in uses:
                uses[setting.preset] = read_options(given)[0].model.embeddings.uses
            fields = grid.field_options(setting, uses[setting.preset])
            given += [f"--{name}={value}" for name, value in fields.items()]
            read[setting] = given, read_run(given)
        except ValueError as error:
            problems += [f"{setting.preset}: {line}" for line in str(error).splitlines()]
    names = [grid.run_name(setting, grid.seeds[0]) for setting in grid.settings()]
    problems += [f"--vary: two runs would be called {n}" for n in names if names.count(n) > 1]
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))
    runs = {}
    for seed in grid.seeds:
        for setting, (given, asked) in read.items():
            asked = {**asked, "seed": seed, "launcher": "" if launcher == HERE else launcher}
            name = grid.run_name(setting, seed)
            runs[setting, seed] = Run(name, (*given, f"--seed={seed}"), asked)
    return runs
