"""`dare bench all`: every figure of the benchmark page, in one run."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from trainer.bench.exchange import bench_exchange
from trainer.bench.growth import history_settings, measure_history, measure_items, measure_ranks
from trainer.bench.levers import measure_levers
from trainer.bench.machine import machine
from trainer.bench.page import format_page
from trainer.bench.reading import measure_reading
from trainer.bench.search import bench_search
from trainer.bench.serve import bench_serve
from trainer.bench.setting import DataShape, Effort, TrainSetting, check_least
from trainer.bench.step import measure_step
from trainer.json_files import read_object, write_json
from trainer.report.headline import format_seconds
from trainer.sweep.figures import Line, Panel, draw_lines
from trainer.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)

Section = Literal[
    "step", "levers", "history", "items", "ranks", "reading", "search", "serve", "exchange"
]
SECTIONS: tuple[Section, ...] = get_args(Section)


def bench_all(
    *,
    sections: tuple[Section, ...] = SECTIONS,
    items: int = 4_068_790,
    history_lengths: tuple[int, ...] = (200, 1_000, 2_000, 10_000, 20_000),
    growth_items: int = 1_000_000,
    table_rows: tuple[int, ...] = (100_000, 1_000_000, 10_000_000, 100_000_000),
    ranks: tuple[int, ...] = (1, 2, 4),
    seconds: float = 3.0,
    repeats: int = 5,
    out: str = "runs/benchmarks",
) -> dict[str, Any]:
    """Measure training and search in all the ways that the page shows, and write the page.

    What is compared is measured in turns, so that what else the machine does meets all alike. Each
    section is written when it is done; figures of the same commit and machine that are in `out`
    already are kept unless their section is measured again.

    Args:
        sections: which; `step` is one step and its floor, `levers` what each choice is worth,
            `history`, `items` and `ranks` are growth.
        items: rows of the item table, but one, where it does not grow.
        history_lengths: of `history`.
        growth_items: the same for `history`, whose trainings are in memory together.
        table_rows: of `items`, but one; what does not fit in memory is left out.
        ranks: of `ranks`; with GPUs at most so many.
        seconds: of a repeat of one training, about.
        repeats: of what is measured in turns; medians count.
        out: folder of `benchmarks.json`, `benchmarks.md` and figures.

    Returns:
        The folder, and the sections in it.

    Raises:
        ValueError: a number that cannot be, or figures in `out` of another commit or machine.
    """
    effort = Effort(seconds=seconds, repeats=repeats)
    for name, values in (
        ("history_lengths", history_lengths),
        ("table_rows", table_rows),
        ("ranks", ranks),
        ("growth_items", [growth_items]),
    ):
        for value in values:
            check_least(name, value)
        if not values:
            raise ValueError(f"--{name} is empty; give numbers of at least 1")
    base = TrainSetting(data=DataShape(items=items))
    histories = history_settings(history_lengths, growth_items)
    configure_logging(0)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    page = _Page(folder, {"items": items, "seconds": seconds, "repeats": repeats})
    tasks: dict[Section, Callable[[], Mapping[str, Any]]] = {
        "step": lambda: measure_step(base, effort),
        "levers": lambda: measure_levers(base, effort),
        "history": lambda: measure_history(histories, effort),
        "items": lambda: measure_items(table_rows, base, effort),
        "ranks": lambda: measure_ranks(ranks, base, effort),
        "reading": lambda: measure_reading(base, effort),
        "search": lambda: bench_search(repeats=repeats, out=str(folder / "search")),
        "serve": lambda: bench_serve(repeats=repeats, out=str(folder / "serve")),
        "exchange": bench_exchange,
    }
    for number, section in enumerate(sections):
        logger.info("%s, section %d of %d", section, number + 1, len(sections))
        started = time.perf_counter()
        page.add(section, tasks[section]())
        logger.info("%s took %s", section, format_seconds(time.perf_counter() - started))
    return {"out": str(folder), "sections": list(page.result["sections"])}


class _Page:
    """What is known, and written again with each section.

    Args:
        folder: where.
        setting: of all sections.

    Raises:
        ValueError: what is there was measured elsewhere or otherwise.
    """

    def __init__(self, folder: Path, setting: Mapping[str, Any]) -> None:
        self._folder, self._file = folder, folder / "benchmarks.json"
        self.result: dict[str, Any] = {
            "command": "dare bench all",
            "machine": machine(),
            "setting": dict(setting),
            "sections": {},
        }
        known = read_object(self._file) if self._file.exists() else None
        if known is None:
            return
        for part in ("machine", "setting"):
            if known.get(part) != self.result[part]:
                raise ValueError(
                    f"{self._file} has figures of another {part}: {json.dumps(known.get(part))}, "
                    f"not {json.dumps(self.result[part])}; give another --out"
                )
        self.result["sections"] = known["sections"]

    def add(self, section: Section, figures: Mapping[str, Any]) -> None:
        """Write everything with one section more."""
        self.result["sections"][section] = figures
        write_json(self._file, self.result)
        if section == "history":
            _draw_history(figures, self._folder / "history.png")
        (self._folder / "benchmarks.md").write_text(format_page(self.result))


def _draw_history(figures: Mapping[str, Any], file: Path) -> None:
    cells = figures["cells"]
    lengths = [cell["history_length"] for cell in cells]
    rates = [cell["behaviours_per_s"] / 1e6 for cell in cells]
    lines = [
        Line(label="training", x=lengths, y=rates),
        Line(label="a third less", x=lengths, y=[rates[0] * 2 / 3] * len(rates), dashed=True),
    ]
    draw_lines(
        [Panel(lines=lines, title="120,000 behaviours a step")],
        file,
        x_label="behaviours of a history",
        y_label="million behaviours a second",
        scale="log_x",
    )
