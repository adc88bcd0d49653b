"""One training step: where its time goes, and how far that is from what it cannot do without."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

import torch

from trainer.bench.floor import copy_speed, product_speed
from trainer.bench.lanes import measure_in_turn, open_lane
from trainer.bench.setting import Effort, TrainSetting
from trainer.bench.step_floor import gather_speed, step_floor

_PROFILED_STEPS = 10
_OPERATORS = 15


def measure_step(base: TrainSetting, effort: Effort) -> dict[str, Any]:
    """Rate, floors, operators and memory of a setting.

    Args:
        base: the setting.
        effort: of the rate, and of each of the machine's speeds.

    Returns:
        Figures of the training; `floor`: bytes and operations of a step; speeds of a copy, of
        gathering rows at random and of a large product, with the seconds that a step's bytes or
        operations take at each; `operators`, the longest first.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with open_lane(base) as lane:
        series = measure_in_turn([lane], effort, "step")[0]
        operations, operators = lane.operations(), lane.profile(_PROFILED_STEPS)
        ready = lane.ready
    floor = step_floor(base)

    def median(speed: Any) -> float:
        return statistics.median(speed() for _ in range(effort.repeats))

    copied = median(lambda: copy_speed(device))
    gathered = median(lambda: gather_speed(base.data.items + 1, base.width, device))
    multiplied = median(lambda: product_speed(device))
    return {
        **series.figures(),
        "floor": {**asdict(floor), "moved_bytes": floor.moved_bytes, "operations": operations},
        "copy_bytes_per_s": round(copied),
        "gather_bytes_per_s": round(gathered),
        "product_operations_per_s": round(multiplied),
        "copy_ms": round(1e3 * floor.moved_bytes / copied, 3),
        "gather_ms": round(1e3 * floor.moved_bytes / gathered, 3),
        "product_ms": round(1e3 * operations / multiplied, 3),
        "operators": [
            {"name": one.name, "share": round(one.share, 4), "calls": round(one.calls, 1)}
            for one in operators[:_OPERATORS]
        ],
        "peak_memory_bytes": ready.peak_bytes,
        "before_memory_bytes": ready.before_bytes,
        "table_bytes": ready.table_bytes,
    }
