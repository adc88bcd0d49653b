"""The tables and the plot of `dare bench serve`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.json_files import write_json
from trainer.sweep.figures import Line, Panel, draw_lines

Cell = Mapping[str, Any]


def write_serve(figures: Mapping[str, Any], folder: Path) -> None:
    """Write `serve.json`, `serve.md` and `serve.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "serve.json", figures)
    (folder / "serve.md").write_text(format_serve(figures))
    cells = figures["cells"]
    panels = []
    for number in _values(cells, "behaviours"):
        targets = _values(cells, "targets")[-2:][0]
        mine = [c for c in cells if (c["behaviours"], c["targets"]) == (number, targets)]
        lines = []
        for place, precision in enumerate(_values(mine, "precision")):
            of_it = [cell for cell in mine if cell["precision"] == precision]
            widths, colour = [cell["width"] for cell in of_it], f"C{place}"
            found = [cell["search_s"] * 1e6 for cell in of_it]
            floor = [cell["floor_s"] * 1e6 for cell in of_it]
            lines.append(Line(label=precision, x=widths, y=found, colour=colour))
            # Names with a first _ are left out of the legend.
            lines.append(Line(label="_floor", x=widths, y=floor, colour=colour, dashed=True))
        title = f"{number:,} behaviours, {targets} targets (dashed: floor)"
        panels.append(Panel(title=title, lines=lines))
    draw_lines(
        panels,
        folder / "serve.png",
        x_label="numbers of a vector",
        y_label="microseconds of a request",
        scale="log",
    )


def format_serve(figures: Mapping[str, Any]) -> str:
    """The cells as Markdown tables, one a number of behaviours, with a line on what was run."""
    cells: Sequence[Cell] = figures["cells"]
    precisions = _values(cells, "precision")
    rates = ", ".join(
        f"{figures[f'product_{precision}_per_s'] / 1e9:.0f} G/s {precision}"
        for precision in precisions
    )
    lines = [
        f"One request at a time, {figures['top_k']} kept, {figures['threads']} thread(s) on "
        f"{figures['device']}; microseconds of the {figures['clock']}'s time, median of "
        f"{figures['repeats']} interleaved repeats. *Half*: how many times faster than at twice "
        "the width. *Same*: share of the kept that fp32 keeps too. "
        f"Floors: {figures['copy_bytes_per_s'] / 1e9:.1f} GB/s of a copy; operations of a large "
        f"product: {rates}.",
    ]
    for number in _values(cells, "behaviours"):
        columns = [
            heading
            for precision in precisions
            for heading in (precision, "half", "times floor", *(["same"] * (precision != "fp32")))
        ]
        lines += [
            "",
            f"**{number:,} behaviours**",
            "",
            f"| targets | width | {' | '.join(columns)} |",
            "|" + " ---: |" * (2 + len(columns)),
        ]
        for targets in _values(cells, "targets"):
            lines += [
                f"| {targets} | {width} | "
                + " | ".join(
                    text
                    for precision in precisions
                    for text in _cell_columns(cells, (number, targets, width, precision))
                )
                + " |"
                for width in _values(cells, "width")
            ]
    lines += ["", *_choices(figures["choices"])]
    return "\n".join(lines) + "\n"


def _cell_columns(cells: Sequence[Cell], key: tuple[int, int, int, str]) -> list[str]:
    cell = _at(cells, key)
    assert cell is not None
    number, targets, width, precision = key
    wider = _at(cells, (number, targets, 2 * width, precision))
    columns = [
        _us(cell["search_s"]),
        f"{wider['search_s'] / cell['search_s']:.2f}" if wider else "-",
        f"{cell['search_s'] / cell['floor_s']:.1f}",
    ]
    return columns if precision == "fp32" else [*columns, f"{cell['same_as_fp32']:.1%}"]


def _choices(choices: Sequence[Cell]) -> list[str]:
    """The choice alone: ours, and a plain top-K."""
    rows = [
        f"| {one['behaviours']:,} | {one['targets']} | {_us(one['choice_s'])} | "
        f"{_us(one['topk_s'])} |"
        for one in choices
    ]
    return [
        "Choosing alone, from float32 scores:",
        "",
        "| behaviours | targets | folded | plain top-K |",
        "|" + " ---: |" * 4,
        *rows,
    ]


def _at(cells: Sequence[Cell], key: tuple[int, int, int, str]) -> Cell | None:
    names = ("behaviours", "targets", "width", "precision")
    return next((c for c in cells if tuple(c[name] for name in names) == key), None)


def _values(cells: Sequence[Cell], name: str) -> list[Any]:
    return list(dict.fromkeys(cell[name] for cell in cells))


def _us(seconds: float) -> str:
    """Microseconds with three digits that count."""
    return f"{seconds * 1e6:.3g}" if seconds < 1e-3 else f"{seconds * 1e6:,.0f}"
