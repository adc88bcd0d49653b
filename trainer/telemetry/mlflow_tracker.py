"""MLflow: where `MLFLOW_TRACKING_URI` says, else `mlruns/` beside the runs' folders."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from trainer.telemetry.flat import flat, numbers

_EXPERIMENT = "dare"
_STATUS = {"finished": "FINISHED", "failed": "FAILED"}
"""Others are KILLED, as MLflow calls what was ended from outside; a resume sets it to RUNNING."""
_LONGEST = 6000
_BATCH = 100
"""Characters of a value, and parameters of a call, that MLflow takes."""


class MLflowTracker:
    """Config as parameters, scalars as metrics by step, the newest checkpoint as a tag.

    A resumed run goes on with the same MLflow run; scalars of steps that it has are not told twice.
    The experiment is that of `MLFLOW_EXPERIMENT_NAME`, else `dare`.
    """

    def __init__(self) -> None:
        # MLflow asks for a word where no server is given; and waits minutes for one that is away.
        for name, value in (
            ("MLFLOW_ALLOW_FILE_STORE", "true"),
            ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"),
            ("MLFLOW_HTTP_REQUEST_TIMEOUT", "20"),
        ):
            os.environ.setdefault(name, value)
        self._client: MlflowClient = None
        self._run = ""
        self._known_steps: dict[str, int] = {}
        self._goes_on = False

    def begin(self, run_id: str, config: Mapping[str, Any], folder: Path) -> str:
        """Create the run, or go on with it, and tell its config."""
        beside = (folder.parent / "mlruns").as_uri()
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or beside)
        found = self._find(self._run or run_id)
        if found is None:
            tags = {"dare.folder": str(folder)}
            found = self._client.create_run(
                self._experiment(), run_name=str(config.get("name", folder.name)), tags=tags
            )
        else:
            self._client.update_run(found.info.run_id, status="RUNNING")
            self._goes_on = True
        self._run = found.info.run_id
        texts = {name: _text(value) for name, value in flat(config).items()}
        known = found.data.params
        new = [Param(name, text) for name, text in texts.items() if name not in known and text]
        for first in range(0, len(new), _BATCH):
            self._client.log_batch(self._run, params=new[first : first + _BATCH])
        for name, text in texts.items():  # MLflow changes no parameter.
            if known.get(name, text) != text:
                self._client.set_tag(self._run, f"resumed.{name}", text)
        self._client.log_dict(self._run, dict(config), "config.yaml")
        return self._run

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics."""
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, step)
            for name, value in values.items()
            if not self._goes_on or step > self._last_step(name)
        ]
        if metrics:
            self._client.log_batch(self._run, metrics=metrics)

    def checkpoint(self, path: str, step: int) -> None:
        """Set the tags `checkpoint` and `checkpoint_step`."""
        self._client.set_tag(self._run, "checkpoint", path)
        self._client.set_tag(self._run, "checkpoint_step", str(step))

    def end(self, state: str, result: Mapping[str, Any]) -> None:
        """Log the result as metrics `result/...` and as `result.json`, and end the run."""
        self._client.set_tag(self._run, "state", state)
        if state == "finished":
            now, step = int(time.time() * 1000), int(result.get("steps", 0))
            metrics = [
                Metric(f"result/{name}", value, now, step)
                for name, value in numbers(result).items()
            ]
            self._client.log_batch(self._run, metrics=metrics)
            self._client.log_dict(self._run, dict(result), "result.json")
        elif result.get("reason"):
            self._client.set_tag(self._run, "reason", str(result["reason"]))
        self._client.set_terminated(self._run, _STATUS.get(state, "KILLED"))

    def _find(self, run_id: str) -> Any:
        """The run of that id; None where this server has none."""
        if not run_id:
            return None
        try:
            found = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return found if found.info.lifecycle_stage == "active" else None

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # Another run has made it meanwhile, or it cannot be made.
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _last_step(self, name: str) -> int:
        """The newest step of a metric; asked of MLflow once each."""
        if name not in self._known_steps:
            history = self._client.get_metric_history(self._run, name)
            self._known_steps[name] = max((metric.step for metric in history), default=-1)
        return self._known_steps[name]


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text[:_LONGEST]
