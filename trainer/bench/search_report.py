"""The table and the plot of `dare bench search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.json_files import write_json
from trainer.sweep.figures import Line, Panel, draw_lines

Cell = Mapping[str, Any]


def write_search(figures: Mapping[str, Any], folder: Path) -> None:
    """Write `search.json`, `search.md` and `search.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "search.json", figures)
    (folder / "search.md").write_text(format_search(figures))
    titles = {
        "search": "search (dashed: floor)",
        "jagged": "search by kernels (dashed: floor)",
        "lookup": "lookup of the rows (dashed: floor)",
    }
    panels = [
        Panel(title=title, lines=lines)
        for name, title in titles.items()
        if (lines := _lines(figures["cells"], name))
    ]
    draw_lines(
        panels,
        folder / "search.png",
        x_label="width of each feature in attention",
        y_label="milliseconds",
        scale="log",
    )


def format_search(figures: Mapping[str, Any]) -> str:
    """The cells as a Markdown table, with a line on what was run."""
    copy, product = figures["copy_bytes_per_s"] / 1e9, figures["product_flops_per_s"] / 1e9
    lines = [
        f"`{figures['preset']}`, {figures['requests']} requests of {figures['targets']} targets at "
        f"once, {figures['top_k']} kept, {figures['rows']:,} items; milliseconds for all together, "
        f"median (least to most) of {figures['repeats']}. *Of widest*: of the time at the largest "
        f"width. Floors: {copy:.1f} GB/s of a copy, {product:.0f} GFLOP/s of a matrix product.",
        "",
        "| history | width | search | of widest | floor | times floor | lookup | floor |",
        "|" + " ---: |" * 8,
    ]
    cells: Sequence[Cell] = figures["cells"]
    for cell in cells:
        same = [c for c in cells if c["history_length"] == cell["history_length"]]
        widest = max(same, key=lambda c: c["width"])
        floor = cell["search_floor_s"]
        row = [
            f"{cell['history_length']:,}",
            str(cell["width"]),
            _spread(cell, "search"),
            f"{cell['search_s'] / widest['search_s']:.0%}",
            _ms(floor) if floor else "-",
            f"{cell['search_s'] / floor:.1f}" if floor else "-",
            _spread(cell, "lookup"),
            _ms(cell["lookup_floor_s"]),
        ]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, *_jagged(cells)]) + "\n"


def _jagged(cells: Sequence[Cell]) -> list[str]:
    """A table of the search by kernels, where there is one."""
    found = [cell for cell in cells if "jagged_s" in cell]
    if not found:
        return []
    return [
        "",
        "By kernels over jagged histories, which write no scores down. *Of floor*: the floor's "
        "share of the time.",
        "",
        "| history | width | torch | kernels | torch over kernels | floor | of floor |",
        "|" + " ---: |" * 7,
        *(
            f"| {cell['history_length']:,} | {cell['width']} | {_ms(cell['search_s'])} | "
            f"{_spread(cell, 'jagged')} | {cell['search_s'] / cell['jagged_s']:.1f} | "
            f"{_ms(cell['jagged_floor_s'])} | {cell['jagged_floor_s'] / cell['jagged_s']:.0%} |"
            for cell in found
        ),
    ]


def _ms(seconds: float) -> str:
    """Milliseconds with three digits that count."""
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:,.0f}"


def _spread(cell: Cell, name: str) -> str:
    least, most = (_ms(cell[f"{name}_s_{end}"]) for end in ("min", "max"))
    return f"{_ms(cell[f'{name}_s'])} ({least} to {most})"


def _lines(cells: Sequence[Cell], name: str) -> list[Line]:
    """A line a history length, and its floor where it is known."""
    lines: list[Line] = []
    for length in dict.fromkeys(cell["history_length"] for cell in cells):
        mine = [c for c in cells if c["history_length"] == length and f"{name}_s" in c]
        if not mine:
            continue
        widths, middle = [c["width"] for c in mine], [c[f"{name}_s"] * 1e3 for c in mine]
        colour = f"C{len({line.colour for line in lines})}"
        lines.append(Line(label=f"{length:,} behaviours", x=widths, y=middle, colour=colour))
        if mine[0][f"{name}_floor_s"]:
            floor = [c[f"{name}_floor_s"] * 1e3 for c in mine]
            # Names with a first _ are left out of the legend.
            lines.append(Line(label="_floor", x=widths, y=floor, colour=colour, dashed=True))
    return lines
