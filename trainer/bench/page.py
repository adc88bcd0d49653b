"""The page of `dare bench all`: Markdown, from its figures alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainer.bench.exchange import format_cells
from trainer.bench.search_report import format_search
from trainer.bench.serve_report import format_serve
from trainer.report.headline import format_bytes

Figures = Mapping[str, Any]


def format_page(result: Figures) -> str:
    """All sections that are there, and what they were measured on.

    Args:
        result: of `bench_all`.
    """
    machine, setting = result["machine"], result["setting"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    device = machine["gpu"] or f"{machine['machine']}, {machine['threads']} threads"
    lines = [
        "# Benchmarks",
        "",
        f"`{result['command']}` wrote this page at commit {machine['commit']} on {device}; "
        f"{versions}. Figures are medians of {setting['repeats']} repeats, of about "
        f"{setting['seconds']:g} s for a training, with the least and the most in parentheses. "
        "What is compared was measured in turns, repeat by repeat, and a "
        "ratio is that of repeats beside each other: read ratios, bare rates are this machine's. "
        f"Unless said otherwise: DARE, {setting['items']:,} items, 200 behaviours, 20 kept, "
        "16 numbers a feature, 2,048 targets a step, 3 a request, auxiliary loss on, lazy Adam; "
        "uniform ids and full histories, the hardest case for tables and caches.",
    ]
    for name, (title, text) in _SECTIONS.items():
        if name in result["sections"]:
            lines += ["", f"## {title}", "", *text(result["sections"][name])]
    return "\n".join(lines) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(headings)} |",
        "| --- |" + " ---: |" * (len(headings) - 1),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _rate(cell: Figures) -> str:
    least, most = cell["samples_per_s_min"], cell["samples_per_s_max"]
    return f"{cell['samples_per_s']:,.0f} ({least:,.0f} to {most:,.0f})"


def _ratio(cell: Figures, prefix: str = "") -> str:
    least, most = cell[f"{prefix}ratio_min"], cell[f"{prefix}ratio_max"]
    return f"{cell[f'{prefix}ratio']:.2f} ({least:.2f} to {most:.2f})"


def _step(found: Figures) -> list[str]:
    floor, step_ms = found["floor"], found["step_ms"]
    moved, operations = format_bytes(floor["moved_bytes"]), floor["operations"]
    floors = [
        ("a copy", moved, f"{found['copy_bytes_per_s'] / 1e9:.1f} GB/s", found["copy_ms"]),
        (
            "gathering rows at random",
            moved,
            f"{found['gather_bytes_per_s'] / 1e9:.1f} GB/s",
            found["gather_ms"],
        ),
        (
            "a large matrix product",
            f"{operations / 1e9:.2f} G operations",
            f"{found['product_operations_per_s'] / 1e9:.0f} G/s",
            found["product_ms"],
        ),
    ]
    return [
        f"{_rate(found)} samples/s, a step of {step_ms:.1f} ms, of which it waits for data "
        f"{found['data_wait_share']:.1%}.",
        "",
        "What a step cannot do without: each table row that the batch names, read once "
        f"({format_bytes(floor['read_bytes'])}), and read and written once more with its optimizer "
        f"state ({format_bytes(floor['update_bytes'])}), its ids "
        f"({format_bytes(floor['id_bytes'])}), and its matrix products.",
        "",
        *_table(
            ["at the speed of", "of a step", "this machine", "ms", "share of the step"],
            [
                [name, size, speed, f"{taken:.1f}", f"{taken / step_ms:.0%}"]
                for name, size, speed, taken in floors
            ],
        ),
        "",
        f"Memory at most {format_bytes(found['peak_memory_bytes'])}, of which "
        f"{format_bytes(found['before_memory_bytes'])} before there is a model; tables, optimizer "
        "state and a batch's attention rows with their gradient are "
        f"{format_bytes(floor['held_bytes'])}.",
        "",
        "Operators by their own time, from PyTorch's profiler:",
        "",
        *_table(
            ["operator", "share of the step", "calls a step"],
            [
                [f"`{one['name']}`", f"{one['share']:.1%}", f"{one['calls']:g}"]
                for one in found["operators"]
            ],
        ),
    ]


def _levers(found: Figures) -> list[str]:
    rows = [
        [c["lever"], _rate(c), f"{c['base_samples_per_s']:,.0f}", _ratio(c)] for c in found["cells"]
    ]
    return [
        "One thing changed, everything else as above.",
        "",
        *_table(["changed", "samples/s", "as above", "as above is so many times faster"], rows),
    ]


def _history(found: Figures) -> list[str]:
    cells = found["cells"]
    rows = [
        [
            f"{cell['history_length']:,}",
            f"{cell['requests']:,}",
            _rate(cell),
            f"{cell['behaviours_per_s']:,}",
            f"{cell['behaviours_per_s'] / cells[0]['behaviours_per_s']:.2f}",
            f"{cell['floor_share']:.1%}",
            *_memory(cell),
        ]
        for cell in cells
    ]
    return [
        "![Behaviours a second against history length](history.png)",
        "",
        "120,000 behaviours a step, or what whole histories leave of them, "
        f"{found['targets']} targets a request, {found['items']:,} items.",
        "",
        *_table(
            [
                "history",
                "requests a step",
                "samples/s",
                "behaviours/s",
                f"against {cells[0]['history_length']:,}",
                "floor of a copy / step",
                *_MEMORY_HEADINGS,
            ],
            rows,
        ),
        "",
        _MEMORY_TEXT,
    ]


def _items(found: Figures) -> list[str]:
    rows = [
        [
            f"{cell['items']:,}",
            _rate(cell),
            f"{cell['step_ms']:.1f}",
            _ratio(cell, "first_"),
            *_memory(cell),
        ]
        for cell in found["cells"]
    ]
    first = f"{found['cells'][0]['items']:,}" if found["cells"] else "the first"
    left = ", ".join(f"{number:,}" for number in found["left_out"])
    return [
        "With row-wise AdaGrad, which keeps one number a row.",
        "",
        *_table(
            ["items", "samples/s", "step, ms", f"step against {first}", *_MEMORY_HEADINGS], rows
        ),
        "",
        _MEMORY_TEXT,
        *([f"Left out for want of memory: {left}."] if left else []),
    ]


def _ranks(found: Figures) -> list[str]:
    rows = [
        [
            str(cell["ranks"]),
            _rate(cell),
            f"{cell['efficiency']:.0%}",
            f"{cell['exchange_share']:.0%}",
            f"{cell['step_ms']:.1f}",
            format_bytes(cell["peak_memory_bytes"]),
        ]
        for cell in found["cells"]
    ]
    left = ", ".join(map(str, found["left_out"]))
    return [
        "Ranks on this machine, each with a batch of its own and the tables sharded among them. On "
        "CPUs they share its cores: the best is the rate of one rank. *Exchange*: share of rank "
        "0's step in which something was being sent or waited for.",
        "",
        *_table(
            ["ranks", "samples/s", "efficiency", "exchange", "step, ms", "memory of rank 0"], rows
        ),
        *(["", f"Left out, more than there are GPUs: {left}."] if left else []),
    ]


def _reading(found: Figures) -> list[str]:
    rows = [[c["part"], _rate(c), f"{c['over_step']:.2f}"] for c in found["cells"]]
    return [
        "Parquet to batches, alone; and the step alone, over batches that are in memory.",
        "",
        *_table(["", "samples/s", "times the step"], rows),
    ]


_MEMORY_HEADINGS = ("memory of the training", "must be held", "ratio")
_MEMORY_TEXT = (
    "*Memory of the training*: peak, less what the process held before there was a model. *Must be "
    "held*: tables, optimizer state, attention rows of a batch and their gradient."
)


def _memory(cell: Figures) -> list[str]:
    own = cell["peak_memory_bytes"] - cell["before_memory_bytes"]
    return [format_bytes(own), format_bytes(cell["held_bytes"]), f"{cell['memory_over_held']:.2f}"]


_SECTIONS: dict[str, tuple[str, Callable[[Figures], list[str]]]] = {
    "step": ("A step and its floor", _step),
    "levers": ("What each choice is worth", _levers),
    "history": ("Growth with the history", _history),
    "items": ("Growth with the tables", _items),
    "ranks": ("Growth with the ranks", _ranks),
    "reading": ("Reading", _reading),
    "search": ("The search alone", lambda found: [format_search(found)]),
    "serve": ("The search of one request", lambda found: [format_serve(found)]),
    "exchange": ("Bytes between ranks", lambda found: [format_cells(found["cells"])]),
}
