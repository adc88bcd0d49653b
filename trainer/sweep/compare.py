"""`dare compare`: one table against two and four, where one is enough and where it is not."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.model_config import Preset
from pipelines.schema import load_schema
from pipelines.synthetic import prepare_synthetic
from trainer.analysis.command import analyze_run
from trainer.json_files import read_object, write_json
from trainer.reliability.lock import locked
from trainer.sweep.cells import spread
from trainer.sweep.figures import PRESET_COLOURS, Line, Panel, draw_lines
from trainer.sweep.grid import Dataset, each_once
from trainer.sweep.launch import HERE, make_runner
from trainer.sweep.runs import Ended, Run, read_options, read_run, run_all
from trainer.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """Test AUC and attention of one model at one agreement, over the seeds."""

    agreement: float
    preset: str
    auc: list[float]
    oracle_auc: list[float]
    attention: list[float | None]
    """Correlation of the learned attention with the planted one, over pairs of categories and
    positions (`dare analyze attention`); None where the log is too small to tell."""

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.auc)

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the seeds; 0 for one."""
        found = spread(self.auc)
        return 0.0 if found is None else found.std

    @property
    def of_possible(self) -> float:
        """How far from 0.5 to the best possible AUC, from 0 to 1; mean over the seeds."""
        return statistics.fmean(
            (auc - 0.5) / (best - 0.5) for auc, best in zip(self.auc, self.oracle_auc, strict=True)
        )


def compare(
    *,
    out: str = "runs/compare",
    config: str = "launch/recipes/synthetic_dare.yaml",
    presets: tuple[Preset, ...] = ("twin", "twin_4e", "dare"),
    agreements: tuple[float, ...] = (1.0, 0.5, 0.0),
    seeds: tuple[int, ...] = (1, 2, 3),
    users: int = 0,
    launcher: str = HERE,
    options: tuple[str, ...] = (),
) -> tuple[str, int]:
    """Train models on synthetic logs of falling agreement; leave a table and a plot.

    At agreement 1 what makes a behaviour matter is what it then means, and one shared table is
    enough; at 0 the two are independent. Told are the AUC and how near the learned attention comes
    to the planted one. Called again, it goes on: logs and runs that are what is
    asked for now are kept, those of other options are made anew.

    Args:
        out: folder of data, runs, `compare.json`, `compare.md` and `compare.png`.
        config: the run, all but its data, preset and seed.
        presets: models to compare.
        agreements: of the logs.
        seeds: of log and run alike.
        users: users of each log; 0 takes the default of `dare prepare synthetic`.
        launcher: as of `dare sweep`; `here` trains in this process, which a process of its own
            for each run would make a third slower.
        options: more options of `dare train`, such as `--loop.epochs=1`.

    Returns:
        Path of the table, and how many runs failed.

    Raises:
        ValueError: something asked for cannot be, or another process holds the folder.
    """
    each_once("--presets", presets)
    each_once("--agreements", [f"{agreement:g}" for agreement in agreements])
    each_once("--seeds", list(map(str, seeds)))
    folder, runner = Path(out), make_runner(launcher)
    base = [f"--config={config}", *options]
    read_options(base)  # A mistake in them must not wait for the first log to be made.
    configure_logging(0)
    cells = {(a, preset): Cell(a, preset, [], [], []) for a in agreements for preset in presets}
    runs: dict[str, tuple[Run, Cell]] = {}
    with locked(folder, "give another --out"):
        for agreement, seed in itertools.product(agreements, seeds):
            log = f"agreement-{agreement:g}-seed-{seed}"
            _prepare(folder, log, _asked(agreement, seed, users))
            for run in _runs_on(log, folder, base, presets, seed):
                runs[run.name] = run, cells[agreement, run.asked["model.preset"]]
        failed = 0
        for ended in run_all([run for run, _ in runs.values()], folder / "runs", runner):
            failed += not _note(ended, runs[ended.run.name][1], folder / "runs" / ended.run.name)
        _write([cell for cell in cells.values() if cell.auc], folder)
    return str(folder / "compare.md"), failed


def _runs_on(
    log: str, folder: Path, base: Sequence[str], presets: Sequence[Preset], seed: int
) -> Iterator[Run]:
    """The runs of a log, one a preset."""
    data = Dataset(log, str(folder / "data" / log)).options()
    for preset in presets:
        fields = {**data, "model.preset": preset, "seed": seed}
        given = [*base, *(f"--{name}={value}" for name, value in fields.items())]
        yield Run(f"{preset}-{log}", tuple(given), read_run(given))


def _note(ended: Ended, cell: Cell, run: Path) -> bool:
    """Add a run's figures to its cell, if it has an AUC; False where it failed."""
    if ended.result is None:
        return False
    auc, best = ended.result["auc"], ended.result["oracle_auc"]
    if auc is None or best is None:
        logger.warning(
            "%s is left out: its test split has no AUC, as all its labels are alike; give more "
            "--users",
            ended.run.name,
        )
        return True
    cell.auc.append(auc)
    cell.oracle_auc.append(best)
    cell.attention.append(_closeness(run))
    return True


def _closeness(run: Path) -> float | None:
    """Correlation of a run's attention with what was planted; analysed if it was not since then.

    None where it is not known, as with `data.ids hash`, whose rows are not the planted categories.
    """
    found = run / "analysis" / "attention.json"
    result = run / "result.json"
    content = read_object(found)
    if content is None or found.stat().st_mtime_ns < result.stat().st_mtime_ns:
        analyze_run("attention", [f"--config={run / 'config.yaml'}"])
        content = read_object(found) or {}
    planted = content.get("correlations", {}).get("planted attention")
    pearson: float | None = planted and planted["attention"]["pearson"]
    return pearson


def _asked(agreement: float, seed: int, users: int) -> dict[str, Any]:
    """All options of the log that is asked for, but its folder."""
    parameters = inspect.signature(prepare_synthetic).parameters
    options = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    return {**options, "agreement": agreement, "seed": seed, **({"users": users} if users else {})}


def _prepare(folder: Path, log: str, asked: dict[str, Any]) -> None:
    """Make a log, unless it is there as asked."""
    data = folder / "data" / log
    with contextlib.suppress(ValueError):  # It is not there, or not whole.
        if load_schema(str(data / "schema.json")).protocol == asked:
            return
    # Its runs first: none may be left of a log that is no longer there.
    for stale in [*folder.glob(f"runs/*-{log}"), *folder.glob(f"data/{log}")]:
        logger.info("%s is of a log with other options or unfinished; made anew", stale)
        shutil.rmtree(stale)
    prepare_synthetic(out=str(data), **asked)


def _write(cells: list[Cell], folder: Path) -> None:
    content = [
        {
            **vars(cell),
            "mean": cell.mean,
            "deviation": cell.deviation,
            "of_possible": cell.of_possible,
        }
        for cell in cells
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "compare.json", content)
    (folder / "compare.md").write_text(format_table(cells))
    draw(cells, folder / "compare.png")


def format_table(cells: list[Cell]) -> str:
    """The comparison as a Markdown table: a row an agreement, three columns a model."""
    presets = list(dict.fromkeys(cell.preset for cell in cells))
    parts_of = ("AUC", "of possible", "attention")
    heads = [f"{name.upper()} {part}" for name in presets for part in parts_of]
    lines = [
        "| agreement | best possible | " + " | ".join(heads) + " |",
        "| --- " * (2 + len(heads)) + "|",
    ]
    for agreement in dict.fromkeys(cell.agreement for cell in cells):
        row = {cell.preset: cell for cell in cells if cell.agreement == agreement}
        best = statistics.fmean(next(iter(row.values())).oracle_auc)
        parts = [f"{agreement:g}", f"{best:.4f}"]
        for preset in presets:
            cell = row.get(preset)
            if cell is None:
                parts += ["-"] * len(parts_of)
            else:
                parts += [f"{cell.mean:.4f} ± {cell.deviation:.4f}", f"{cell.of_possible:.1%}"]
                known = [near for near in cell.attention if near is not None]
                parts.append(f"{statistics.fmean(known):.2f}" if known else "-")
        lines.append("| " + " | ".join(parts) + " |")
    return "\n".join(lines) + "\n"


def draw(cells: list[Cell], path: Path) -> None:
    """Draw AUC and attention against agreement, one line a model, below the best possible."""
    oracle = {cell.agreement: statistics.fmean(cell.oracle_auc) for cell in cells}
    best = Line(label="best possible", x=list(oracle), y=list(oracle.values()), dashed=True)
    lines: dict[str, list[Line]] = {"auc": [best], "attention": []}
    for preset in dict.fromkeys(cell.preset for cell in cells):
        mine = [cell for cell in cells if cell.preset == preset]
        for what, panel in lines.items():
            found = {
                cell.agreement: spread([v for v in getattr(cell, what) if v is not None])
                for cell in mine
            }
            known = {agreement: values for agreement, values in found.items() if values is not None}
            panel.append(
                Line(
                    label=preset.upper(),
                    x=list(known),
                    y=[values.mean for values in known.values()],
                    error=[values.std for values in known.values()],
                    colour=PRESET_COLOURS.get(preset, ""),
                )
            )
    draw_lines(
        [
            Panel(lines=lines["auc"]),
            Panel(lines=lines["attention"], y_label="correlation with the planted attention"),
        ],
        path,
        x_label="agreement of what matters and what it means (1: one table is enough)",
        y_label="test AUC",
    )
