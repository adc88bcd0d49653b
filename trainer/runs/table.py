"""The list of runs: an aligned table for a terminal, JSON for machines."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from trainer.runs.state import STATES, Run, State, printable

Sort = Literal["path", "name", "state", "step", "auc", "written"]
_MISSING = "-"
_NUMBERS = {"step", "AUC val", "AUC test", "ranks"}
_KEYS: dict[Sort, Callable[[Run], Any]] = {
    "path": lambda run: run.path,
    "name": lambda run: run.name,
    "state": lambda run: STATES.index(run.state),
    "step": lambda run: -(run.step or 0),
    "auc": lambda run: -(run.val_auc or 0),
    "written": lambda run: -(run.written or 0),
}


def parse_states(text: str) -> tuple[State, ...]:
    """States between commas; all of them for none.

    Raises:
        ValueError: one is none.
    """
    asked = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in asked if name not in STATES]
    if unknown:
        raise ValueError(f"--state is {', '.join(unknown)}; states are {', '.join(STATES)}")
    return tuple(state for state in STATES if not asked or state in asked)


def sort_runs(runs: Sequence[Run], by: Sort) -> list[Run]:
    """Names by the alphabet, states from running to empty, the best, farthest and newest first."""
    return sorted(runs, key=lambda run: (_KEYS[by](run), run.path))


def as_table(runs: Sequence[Run]) -> str:
    """A line each below a line of heads; notes come last, where there are any."""
    rows = [_cells(run) for run in runs]
    heads = [head for head in rows[0] if head != "note" or any(row["note"] for row in rows)]
    widths = {head: max(len(head), *(len(row[head]) for row in rows)) for head in heads}
    lines = [{head: head for head in heads}, *rows]
    return "\n".join(
        "  ".join(
            line[head].rjust(widths[head]) if head in _NUMBERS else line[head].ljust(widths[head])
            for head in heads
        ).rstrip()
        for line in lines
    )


def as_json(runs: Sequence[Run]) -> str:
    """An array of objects; `written` is in UTC, null is what is not known."""
    rows = [dataclasses.asdict(run) for run in runs]
    for row in rows:
        row["written"] = row["written"] and _moment(row["written"]).isoformat(timespec="seconds")
    return json.dumps(rows, indent=1)


def _cells(run: Run) -> dict[str, str]:
    step = _MISSING if run.step is None else f"{run.step:,}"
    of = f" of {run.total_steps:,}" if run.total_steps is not None and run.step is not None else ""
    written = _moment(run.written).astimezone() if run.written else None
    return {
        "name": printable(run.name),
        "state": run.state,
        "step": step + of,
        "AUC val": _MISSING if run.val_auc is None else f"{run.val_auc:.5f}",
        "AUC test": _MISSING if run.test_auc is None else f"{run.test_auc:.5f}",
        "preset": printable(run.preset or _MISSING),
        "ranks": _MISSING if run.ranks is None else str(run.ranks),
        "written": f"{written:%Y-%m-%d %H:%M}" if written else _MISSING,
        "path": printable(run.path),
        "note": run.note,
    }


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
