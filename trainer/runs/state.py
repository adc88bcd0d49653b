"""What a run is doing, or how it ended, as its folder tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from trainer.checkpoints.manifest import Manifest
from trainer.reliability.ending import NOTE_FILE
from trainer.reliability.lock import LOCK_FILE, holder
from trainer.runs.files import CONFIG, LOG, RESULT, RunFiles, number, value_at
from trainer.sweep.launch import last_error
from trainer.telemetry.metrics_file import METRICS_FILE

State = Literal["running", "finished", "stopped", "interrupted", "failed", "empty"]
STATES: tuple[State, ...] = get_args(State)
_ENDS = ("stopped", "interrupted", "failed")
_SLACK_S = 5.0
"""A note of how a run ended is of an earlier part of it where metrics are this much newer."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row of the listing; None for what is not known."""

    name: str
    """Of its folder."""
    state: State
    """`running`: its folder is held. `finished`: it has left its result. `stopped`: it has
    checkpoints to go on from; `interrupted` the same, by Ctrl-C. `failed`: an error ended it, or it
    ended before its first checkpoint. `empty`: it has not begun."""
    step: int | None
    total_steps: int | None
    val_auc: float | None
    """Best on the validation split."""
    test_auc: float | None
    """Of the checkpoint that is best by it, once finished."""
    preset: str | None
    ranks: int | None
    written: float | None
    """When its files were last written, in seconds of the epoch."""
    path: str
    note: str
    """Who holds it, why it ended, and what of its folder could not be read."""


def read_run(folder: Path, *, remote: bool = False) -> Run:
    """Read one run; whatever is damaged ends up in its note.

    Args:
        folder: of the run.
        remote: look at checkpoints that are not on a disk of this machine too.
    """
    files = RunFiles(folder, remote=remote)
    config, result, row = files.config(), files.object(RESULT), files.last_row()
    kept = value_at(config, "checkpoint.folder")
    complete, manifests = files.checkpoints(kept if isinstance(kept, str) else "")
    newest = manifests[-1] if manifests else None
    if result and number(result, "steps") is None:
        files.problems.append(f"{RESULT} is damaged")
        result = {}
    state, reason = _state(files, result, row, complete, newest)
    steps = [number(result, "steps"), number(row, "step"), newest.step if newest else None]
    preset = value_at(config, "model.preset") or result.get("preset")
    finished = state == "finished"
    total = number(result, "steps") if finished else number(row, "total_steps")
    on_test = finished and result.get("split") == "test"
    return Run(
        name=folder.name,
        state=state,
        step=_whole(max((step for step in steps if step is not None), default=None)),
        total_steps=_whole(total),
        val_auc=_best_auc(result, row, manifests),
        test_auc=number(result, "auc") if on_test else None,
        preset=preset if isinstance(preset, str) else None,
        ranks=_whole(number(result, "ranks") or (newest.world if newest else None)),
        written=files.written(),
        path=str(folder),
        note=printable("; ".join(dict.fromkeys([*filter(None, [reason]), *files.problems]))),
    )


def _state(
    files: RunFiles,
    result: dict[str, Any],
    row: dict[str, Any],
    checkpoints: int,
    newest: Manifest | None,
) -> tuple[State, str]:
    """What the folder tells, and why."""
    try:
        held = holder(files.folder)
    except OSError as error:
        files.problems.append(f"{LOCK_FILE} cannot be read: {error.strerror}")
        held = None
    if held:
        return "running", f"process {held}"
    ended = _note_of_end(files, row)
    finished = bool(result) and result["steps"] >= (newest.step if newest else 0)
    if finished and not (ended and files.time_of(NOTE_FILE) > files.time_of(RESULT)):
        return "finished", ""
    if ended:
        return ended["state"], f"{ended.get('reason') or 'no reason told'}"
    if checkpoints:
        left = files.text(LOCK_FILE).strip()
        return "stopped", f"process {left} ended without a word: killed?" if left else ""
    if any((files.folder / name).exists() for name in (CONFIG, METRICS_FILE, LOG)):
        log = files.folder / LOG
        told = last_error(log, 0) if files.text(LOG).strip() else ""
        return "failed", told or "ended before its first checkpoint"
    return "empty", ""


def _note_of_end(files: RunFiles, row: dict[str, Any]) -> dict[str, Any]:
    """How the run ended otherwise than by finishing; empty where it did not, or has gone on."""
    ended = files.object(NOTE_FILE)
    if not ended:
        return {}
    if ended.get("state") not in _ENDS:
        files.problems.append(f"{NOTE_FILE} is damaged")
        return {}
    later = (number(row, "step") or 0) > (number(ended, "step") or 0)
    newer = files.time_of(METRICS_FILE) > files.time_of(NOTE_FILE) + _SLACK_S
    return {} if later or newer else ended


def _best_auc(
    result: dict[str, Any], row: dict[str, Any], manifests: Sequence[Manifest]
) -> float | None:
    known = [number(result, "val_auc"), number(row, "eval/auc")]
    known += [number(manifest.metrics, "auc") for manifest in manifests]
    return max((auc for auc in known if auc is not None), default=None)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def printable(text: str) -> str:
    """In one line, without what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
