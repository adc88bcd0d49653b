"""TorchX: a job that `torchx run` has started records itself with the trackers it was given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchx.tracker import AppRun, app_run_from_env

from trainer.telemetry.flat import numbers


class TorchXTracker:
    """Name, folder, config and result as metadata of the job; each checkpoint as an artifact.

    The trackers are those of `[torchx:tracker]` in `.torchxconfig`, as `torchx run` tells the job.
    Every name is written once, since TorchX's own tracker reads files in no order: the newest
    scalars go with a checkpoint, not to a name of their own. A run that another job resumes has
    the job before as its source.
    """

    def __init__(self) -> None:
        self._job: AppRun | None = None
        self._newest: dict[str, float] = {}
        self._step = 0

    def begin(self, run_id: str, config: Mapping[str, Any], folder: Path) -> str:
        """Record what the run is; its id is the job's."""
        if not os.environ.get("TORCHX_JOB_ID"):
            raise RuntimeError("TORCHX_JOB_ID is not set: `torchx run` has not started this run")
        job = app_run_from_env()
        if not job.backends:
            raise RuntimeError(
                "TORCHX_TRACKERS names no tracker: give one under [torchx:tracker] in .torchxconfig"
            )
        if run_id and run_id != job.id:
            job.add_source(run_id, artifact_name="resumed")
        job.add_metadata(
            name=str(config.get("name", folder.name)), folder=str(folder), config=dict(config)
        )
        self._job = job
        return str(job.id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the newest, for the next checkpoint."""
        self._step = step
        self._newest.update(values)

    def checkpoint(self, path: str, step: int) -> None:
        """Record a checkpoint with the newest scalars beside it."""
        assert self._job is not None
        told = {"step": step, "metrics": dict(self._newest)}
        self._job.add_artifact(f"checkpoint-{step:08d}", path, told)

    def end(self, state: str, result: Mapping[str, Any]) -> None:
        """Record the result; of a run that has not finished, at which step it ended and why."""
        assert self._job is not None
        if state == "finished":
            figures = {f"result/{name}": value for name, value in numbers(result).items()}
            self._job.add_metadata(state=state, **figures)
        else:
            step, reason = result.get("step", self._step), result.get("reason", "")
            text = f"{state}: {reason}" if reason else state
            self._job.add_metadata(**{f"ended_at_step_{step}": text})
