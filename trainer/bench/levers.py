"""What one choice costs or saves: a training beside the same with one thing changed."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch

from trainer.bench.lanes import measure_in_turn, open_lane
from trainer.bench.series import ratio
from trainer.bench.setting import Effort, TrainSetting

logger = logging.getLogger(__name__)


def levers(base: TrainSetting) -> dict[str, TrainSetting]:
    """Settings that differ from one in one thing, by what it is.

    Args:
        base: the setting.
    """
    found = {
        "one target a request": replace(base, data=replace(base.data, targets=1)),
        "auxiliary loss off": replace(base, auxiliary=False),
        "representation not pooled at its table": replace(base, representation_lookup="unpooled"),
        "row-wise AdaGrad": replace(base, sparse_optimizer="rowwise_adagrad"),
        "one shared table (TWIN)": replace(base, preset="twin"),
    }
    if not torch.cuda.is_available():  # FBGEMM has no such kernel there.
        found["dense Adam, as the paper"] = replace(base, sparse_optimizer="dense_adam")
    return found


def measure_levers(base: TrainSetting, effort: Effort) -> dict[str, Any]:
    """Rates of a setting and of each lever beside it.

    Args:
        base: the setting.
        effort: of each pair.

    Returns:
        `cells`: of each lever its figures, the setting's beside it, and how many times faster the
        setting is.
    """
    cells = []
    with open_lane(base) as lane:
        for name, setting in levers(base).items():
            with open_lane(setting) as changed:
                ours, theirs = measure_in_turn([lane, changed], effort, name)
            cells.append(
                {
                    "lever": name,
                    **theirs.figures(),
                    "base_samples_per_s": ours.figures()["samples_per_s"],
                    **ratio(ours.rates, theirs.rates),
                }
            )
    return {"cells": cells}
