"""Weights & Biases: its own variables say where to, `WANDB_MODE=offline` leaves files only."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from trainer.telemetry.flat import numbers

_PROJECT = "dare"
_GOOD = {"finished", "stopped", "interrupted"}


class WandbTracker:
    """Config, scalars by step, the newest checkpoint and the result in the summary.

    Files go to `wandb/` in the run's folder. A resumed run goes on with the same id; offline each
    part is a folder of its own, which `wandb sync` joins by the id. The project is that of
    `WANDB_PROJECT`, else `dare`.
    """

    def __init__(self) -> None:
        self._run: Any = None
        self._id = secrets.token_hex(4)

    def begin(self, run_id: str, config: Mapping[str, Any], folder: Path) -> str:
        """Begin a run, or go on with the one of that id."""
        offline = os.environ.get("WANDB_MODE") == "offline"
        self._id = run_id or self._id
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=str(config.get("name", folder.name)),
            id=self._id,
            resume=None if offline else "allow",
            dir=str(folder),
            config=dict(config),
            settings=wandb.Settings(console="off", silent=True),
        )
        return self._id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log values; W&B itself passes over steps that it has."""
        self._run.log(dict(values), step=step)

    def checkpoint(self, path: str, step: int) -> None:
        """Set `checkpoint` and `checkpoint_step` in the summary."""
        self._run.summary.update({"checkpoint": path, "checkpoint_step": step})

    def end(self, state: str, result: Mapping[str, Any]) -> None:
        """Put the result into the summary as `result/...`, and finish the run."""
        told = {f"result/{name}": value for name, value in numbers(result).items()}
        self._run.summary.update({"state": state, **told})
        if result.get("reason"):
            self._run.summary.update({"reason": str(result["reason"])})
        self._run.finish(exit_code=0 if state in _GOOD else 1)
