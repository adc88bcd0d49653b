"""What a report shows; here no plot is drawn, so that ranks that draw none need no matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.report.headline import History


@dataclass(frozen=True)
class AttentionSummary:
    """Where the model looks; planted values are known for synthetic data only.

    They too are shares of the behaviours that the model sees.
    """

    position_weight: list[float]
    """Mean attention of the k-th newest behaviour, the newest first."""
    target_categories: list[int]
    """Rows of `category_weight`."""
    history_categories: list[int]
    """Columns of `category_weight`."""
    category_weight: list[list[float]]
    """Mean attention of a behaviour by the category of the target and its own."""
    planted_position_weight: list[float] | None = None
    planted_category_weight: list[list[float]] | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows; what is missing or NaN is left out of the page."""

    name: str
    result: dict[str, Any]
    """Final numbers: `auc gauc gauc_users ne logloss calibration oracle_auc` of `split`, and of
    training `samples_per_s samples steps best_step seconds peak_memory_bytes ranks device`. The
    first may also be nested by split or named `test/auc`, where test goes before eval before val.
    Throughput, steps and memory fall back to what the history tells."""
    history: History
    """Rows of `metrics.jsonl`: `step`, `time`, and scalars such as `train/loss`, `eval/auc`."""
    calibration: dict[str, list[float]]
    """`predicted`, `observed` and `count` a bin, as `SplitMetrics.calibration_curve` returns."""
    attention: AttentionSummary | None
    plan: list[dict[str, str | int | float]]
    """Rows of the sharding plan's table; `bytes` and `..._bytes` are shown as MiB or GiB."""
    config_yaml: str
    memory: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Bytes of the plan by table and rank."""
