"""`dare compare`: TWIN against DARE where one table is enough, and where it is not."""

from __future__ import annotations

import inspect
import json
import logging
import math
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import yaml
from matplotlib.figure import Figure

from modules.model_config import Preset
from pipelines.schema import load_schema
from pipelines.synthetic import prepare_synthetic
from trainer.arguments import parse_run, run_parser
from trainer.distributed import RunContext, run_context
from trainer.loop import Trainer
from trainer.telemetry import configure_logging

logger = logging.getLogger(__name__)

_COLOURS = {"dare": "#0b6e4f", "twin": "#b3541e"}


@dataclass(frozen=True)
class Cell:
    """Test AUC of one model at one agreement, over the seeds."""

    agreement: float
    preset: str
    auc: list[float]
    oracle_auc: list[float]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.auc)

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the seeds; 0 for one."""
        return statistics.stdev(self.auc) if len(self.auc) > 1 else 0.0

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
    presets: tuple[Preset, ...] = ("twin", "dare"),
    agreements: tuple[float, ...] = (1.0, 0.5, 0.0),
    seeds: tuple[int, ...] = (1, 2, 3),
    users: int = 0,
    options: tuple[str, ...] = (),
) -> str:
    """Train models on synthetic logs of falling agreement and write a table and a plot.

    At agreement 1 what makes a behaviour matter is what it then means, and one shared table is
    enough; at 0 the two are independent. Called again, it goes on: logs and runs that are what is
    asked for now are kept, those of other options are made anew.

    Args:
        out: folder of data, runs, `compare.json`, `compare.md` and `compare.png`.
        config: the run, all but its data, preset and seed.
        presets: models to compare.
        agreements: of the logs.
        seeds: of log and run alike.
        users: users of each log; 0 takes the default of `dare prepare synthetic`.
        options: more options of `dare train`, such as `--loop.epochs=1`.

    Returns:
        Path of the table.
    """
    folder = Path(out)
    cells = []
    # A mistake in them must not wait for the first log to be made.
    given_config, *_ = parse_run(run_parser("dare compare", ""), [f"--config={config}", *options])
    if given_config.checkpoint.folder:
        raise ValueError(
            f"checkpoint.folder is {given_config.checkpoint.folder}; the runs of a comparison keep "
            "their checkpoints in their own folders: leave it empty"
        )
    with run_context() as context:
        configure_logging(context.rank)
        for agreement in agreements:
            found: dict[str, list[dict[str, Any]]] = {preset: [] for preset in presets}
            for seed in seeds:
                log = f"agreement-{agreement:g}-seed-{seed}"
                data = folder / "data" / log
                _prepare(folder, log, _asked(agreement, seed, users), context)
                for preset in presets:
                    name = f"{preset}-{log}"
                    given = [f"--config={config}", *options, *_run_options(data, folder, name)]
                    found[preset].append(
                        _train([*given, f"--model.preset={preset}", f"--seed={seed}"], context)
                    )
            cells += [
                Cell(
                    agreement,
                    preset,
                    [result["auc"] for result in results],
                    [result["oracle_auc"] for result in results],
                )
                for preset, results in found.items()
            ]
        if context.is_main:
            _write(cells, folder)
    return str(folder / "compare.md")


def _asked(agreement: float, seed: int, users: int) -> dict[str, Any]:
    """All options of the log that is asked for, but its folder."""
    parameters = inspect.signature(prepare_synthetic).parameters
    options = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    return {**options, "agreement": agreement, "seed": seed, **({"users": users} if users else {})}


def _prepare(folder: Path, log: str, asked: dict[str, Any], context: RunContext) -> None:
    """Make a log, unless it is there as asked; a collective."""
    data = folder / "data" / log
    if context.is_main:
        held = load_schema(str(data / "schema.json")) if (data / "schema.json").exists() else None
        if held is None or held.protocol != asked:
            # Its runs first: none may be left of a log that is no longer there.
            for stale in [*folder.glob(f"runs/*-{log}"), *folder.glob(f"data/{log}")]:
                logger.info("%s is of a log with other options or unfinished; made anew", stale)
                shutil.rmtree(stale)
            prepare_synthetic(out=str(data), **asked)
    context.wait()


def _run_options(data: Path, folder: Path, name: str) -> list[str]:
    splits = [f"--data.{split}={data / split}" for split in ("train", "val", "test")]
    return [
        *splits,
        f"--data.schema={data / 'schema.json'}",
        f"--out_dir={folder / 'runs'}",
        f"--name={name}",
    ]


def _train(arguments: list[str], context: RunContext) -> dict[str, Any]:
    config, text, _ = parse_run(run_parser("dare compare", ""), arguments)
    folder = Path(config.out_dir) / config.name
    _drop_other(folder, text, context)
    finished = folder / "result.json"
    if finished.exists():
        result: dict[str, Any] = json.loads(finished.read_text())
    else:
        result = Trainer(config, context, text).train(resume=True)
    logger.info(
        "%s: AUC %.5f, best possible %.5f", config.name, result["auc"], result["oracle_auc"]
    )
    return result


def _drop_other(folder: Path, text: str, context: RunContext) -> None:
    """Delete a run of another config than the one that is asked for; a collective."""
    held = folder / "config.yaml"
    if context.is_main and held.exists():
        before, now = _decisive(held.read_text()), _decisive(text)
        other = sorted(name for name in before.keys() | now if before.get(name) != now.get(name))
        if other:
            logger.info("%s was run with another %s; run anew", folder, ", ".join(other))
            shutil.rmtree(folder)
    context.wait()


def _decisive(text: str) -> dict[str, Any]:
    """The fields of a run's config that decide its result, by dotted name: no paths, no logging."""
    paths = ("out_dir", *(f"data.{name}" for name in ("train", "val", "test", "schema")))
    return {
        name: value
        for name, value in _flat(yaml.safe_load(text))
        if name not in paths and not name.startswith("telemetry.")
    }


def _flat(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


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
    (folder / "compare.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "compare.md").write_text(format_table(cells))
    draw(cells, folder / "compare.png")


def format_table(cells: list[Cell]) -> str:
    """The comparison as a Markdown table: a row an agreement, two columns a model."""
    presets = list(dict.fromkeys(cell.preset for cell in cells))
    heads = [part for name in presets for part in (f"{name.upper()} AUC", "of possible")]
    lines = [
        "| agreement | best possible | " + " | ".join(heads) + " |",
        "| --- " * (2 + len(heads)) + "|",
    ]
    for agreement in dict.fromkeys(cell.agreement for cell in cells):
        row = [cell for cell in cells if cell.agreement == agreement]
        parts = [f"{agreement:g}", f"{statistics.fmean(row[0].oracle_auc):.4f}"]
        for cell in row:
            parts += [f"{cell.mean:.4f} ± {cell.deviation:.4f}", f"{cell.of_possible:.1%}"]
        lines.append("| " + " | ".join(parts) + " |")
    return "\n".join(lines) + "\n"


def draw(cells: list[Cell], path: Path) -> None:
    """Draw AUC against agreement, one line a model, with the best possible above."""
    with mpl.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        agreements = sorted({cell.agreement for cell in cells})
        oracle = {cell.agreement: statistics.fmean(cell.oracle_auc) for cell in cells}
        axes.plot(
            agreements, [oracle[a] for a in agreements], "--", color="#777", label="best possible"
        )
        for preset in dict.fromkeys(cell.preset for cell in cells):
            mine = sorted((c for c in cells if c.preset == preset), key=lambda c: c.agreement)
            axes.errorbar(
                [cell.agreement for cell in mine],
                [cell.mean for cell in mine],
                yerr=[cell.deviation if math.isfinite(cell.deviation) else 0 for cell in mine],
                marker="o",
                capsize=4,
                color=_COLOURS.get(preset),
                label=preset.upper(),
            )
        axes.set_xlabel("agreement of what matters and what it means (1: one table is enough)")
        axes.set_ylabel("test AUC")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        figure.savefig(path, dpi=150)
