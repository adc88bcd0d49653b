"""What a run leaves behind: what it is, its result and its report."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.loader import Split
from trainer.checkpoints.manifest import Manifest
from trainer.config import TrainConfig
from trainer.distributed import RunContext
from trainer.evaluate import Evaluation
from trainer.json_files import write_json
from trainer.planner.job import Placement
from trainer.released_metrics import RELEASED_METRICS
from trainer.report.data import ReportData
from trainer.telemetry.memory import peak_memory_bytes
from trainer.telemetry.metrics_file import read_metrics

logger = logging.getLogger(__name__)

RESULT_METRICS = (
    *("auc", "gauc", "gauc_unweighted", "gauc_users"),
    *("ne", "logloss", "accuracy", "calibration"),
)


def told(metrics: Mapping[str, float], prefix: str = "") -> dict[str, float]:
    """Of an evaluation's metrics, those a reader of results wants, with this before their names."""
    names = (*RESULT_METRICS, *RELEASED_METRICS)
    return {prefix + name: metrics[name] for name in names if name in metrics}


def leave_description(folder: Path, config_yaml: str, placement: Placement) -> None:
    """Write `config.yaml` and `plan.json` of a run.

    Args:
        folder: of the run.
        config_yaml: the whole config.
        placement: of the tables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config_yaml)
    write_json(folder / "plan.json", placement.rows)


def make_result(
    config: TrainConfig,
    context: RunContext,
    split: Split,
    metrics: Mapping[str, float],
    *,
    oracle_auc: float | None,
    best: Manifest | None,
    step: int,
    samples: float,
    seconds: float,
) -> dict[str, Any]:
    """What `result.json` holds.

    Args:
        config: of the run.
        context: of this process.
        split: that was scored.
        metrics: of that split.
        oracle_auc: best possible, where it is known.
        best: of the checkpoint that was scored.
        step: steps of training.
        samples: targets trained, over all ranks.
        seconds: spent training.
    """
    return finite(
        {
            "name": config.name,
            "preset": config.model.preset,
            "split": split,
            **told(metrics),
            "oracle_auc": oracle_auc,
            "val_auc": best.metrics.get("auc", math.nan) if best else math.nan,
            "best_step": best.step if best else step,
            "steps": step,
            "samples": int(samples),
            "seconds": round(seconds, 3),
            "samples_per_s": round(samples / max(seconds, 1e-9), 1),
            "peak_memory_bytes": int(peak_memory_bytes(context.device)),
            "ranks": context.world,
            "device": context.device.type,
        }
    )


def leave_result(
    folder: Path,
    result: dict[str, Any],
    evaluation: Evaluation,
    placement: Placement,
    *,
    config_yaml: str,
) -> None:
    """Write `result.json` and `report.html` of a run.

    Args:
        folder: of the run.
        result: of `make_result`.
        evaluation: what it tells of.
        placement: of the tables.
        config_yaml: the whole config.
    """
    from trainer.report.report import write_report  # Not on ranks that draw nothing: matplotlib.

    write_json(folder / "result.json", result)
    write_report(
        ReportData(
            name=result["name"],
            result=result,
            history=read_metrics(folder),
            calibration=evaluation.calibration,
            attention=evaluation.attention,
            plan=placement.rows,
            memory=placement.figures.memory,
            config_yaml=config_yaml,
        ),
        folder / "report.html",
    )
    logger.info("report: %s", folder / "report.html")


def finite(result: dict[str, Any]) -> dict[str, Any]:
    """The same with None for numbers that JSON does not know."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in result.items()
    }
