"""What a run leaves behind as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.loader import Split
from trainer.config import TrainConfig
from trainer.distributed import RunContext
from trainer.manifest import Manifest
from trainer.telemetry import peak_memory_bytes

RESULT_METRICS = ("auc", "gauc", "gauc_users", "ne", "logloss", "calibration")


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
            **{name: metrics[name] for name in RESULT_METRICS},
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


def finite(result: dict[str, Any]) -> dict[str, Any]:
    """The same with None for numbers that JSON does not know."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in result.items()
    }


def write_json(path: Path, content: Any) -> None:
    """Write a file of one JSON value."""
    path.write_text(json.dumps(content, indent=1) + "\n")
