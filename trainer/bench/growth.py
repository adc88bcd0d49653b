"""How training grows: with the length of histories, the rows of a table, the number of ranks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import psutil
import torch

from trainer.bench.floor import copy_speed
from trainer.bench.lanes import Lane, measure_in_turn, open_lane
from trainer.bench.series import Series, ratio
from trainer.bench.setting import DataShape, Effort, TrainSetting
from trainer.bench.step_floor import step_floor
from trainer.report.headline import format_bytes

logger = logging.getLogger(__name__)

_PROFILED_STEPS = 5
_ROOM = 1.25
"""Memory that has to be free, against the bytes that must be held."""


def history_settings(
    lengths: Sequence[int], items: int, behaviours: int = 120_000
) -> list[TrainSetting]:
    """Trainings on histories of some lengths, all with about as many behaviours a step.

    Args:
        lengths: of all histories, behaviours.
        items: rows of the item table.
        behaviours: of a step at most, in whole histories.

    Raises:
        ValueError: a length that cannot be.
    """
    return [
        TrainSetting(
            data=DataShape(items=items, history_length=length),
            top_k=max(1, min(TrainSetting.top_k, length)),
            batch_size=DataShape.targets * max(1, behaviours // max(1, length)),
        )
        for length in lengths
    ]


def measure_history(settings: Sequence[TrainSetting], effort: Effort) -> dict[str, Any]:
    """Behaviours a second at a fixed number a step, against the length of a history.

    Args:
        settings: of `history_settings`.
        effort: of all together.

    Returns:
        `cells`: of each length its figures, and what the first length's rate is over its.
    """
    cells = _measure(settings, [1] * len(settings), effort, "history length")
    for cell, setting in zip(cells, settings, strict=True):
        length, targets = setting.data.history_length, setting.data.targets
        cell |= {
            "history_length": length,
            "requests": setting.requests,
            "behaviours_per_s": round(cell["samples_per_s"] * length / targets),
        }
    first = settings[0].data
    return {"items": first.items, "targets": first.targets, "cells": cells}


def measure_items(rows: Sequence[int], base: TrainSetting, effort: Effort) -> dict[str, Any]:
    """Time of a step against the rows of the item table, with row-wise AdaGrad.

    Args:
        rows: of the item table.
        base: all else.
        effort: of all together.

    Returns:
        `cells`: of each number of rows its figures; `left_out`: numbers that do not fit in memory.
    """
    settings = [
        replace(base, data=replace(base.data, items=number), sparse_optimizer="rowwise_adagrad")
        for number in rows
    ]
    fit, left_out, room = [], [], _free_bytes()
    for setting in settings:
        needed = round(_ROOM * step_floor(setting).held_bytes)
        if needed > room:
            logger.warning(
                "%s rows left out: they need about %s, %s are free",
                f"{setting.data.items:,}",
                format_bytes(needed),
                format_bytes(room),
            )
            left_out.append(setting.data.items)
        else:
            room -= needed
            fit.append(setting)
    cells = _measure(fit, [1] * len(fit), effort, "items")
    for cell, setting in zip(cells, fit, strict=True):
        cell["items"] = setting.data.items
    return {"cells": cells, "left_out": left_out}


def measure_ranks(ranks: Sequence[int], base: TrainSetting, effort: Effort) -> dict[str, Any]:
    """Samples a second of several ranks on this machine, each with a batch of its own.

    On a CPU the ranks share its cores, so that the best is the rate of one; on GPUs each has one.

    Args:
        ranks: numbers of processes.
        base: what each trains.
        effort: of all together.

    Returns:
        `cells`: of each number its figures, efficiency, and the share of a step in which ranks
        exchanged something; `left_out`: more ranks than GPUs.
    """
    gpus = torch.cuda.device_count()
    fit = [number for number in ranks if number <= gpus or not gpus]
    cells = _measure([base] * len(fit), fit, effort, "ranks")
    for cell, number in zip(cells, fit, strict=True):
        cell["ranks"] = number
        share = cell["samples_per_s"] / cells[0]["samples_per_s"]
        cell["efficiency"] = round(share * fit[0] / number if gpus else share, 3)
    return {"cells": cells, "left_out": [number for number in ranks if number not in fit]}


def _measure(
    settings: Sequence[TrainSetting], ranks: Sequence[int], effort: Effort, name: str
) -> list[dict[str, Any]]:
    """Figures of settings that are measured in turn, memory and exchange of each."""
    copied_per_s = copy_speed(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    with ExitStack() as stack:
        lanes = []
        for place, (setting, number) in enumerate(zip(settings, ranks, strict=True)):
            logger.info("%s: setting %d of %d begins", name, place + 1, len(settings))
            lanes.append(stack.enter_context(open_lane(setting, number)))
        found = measure_in_turn(lanes, effort, name)
        return [
            _cell(lane, setting, series, found[0], copied_per_s)
            for lane, setting, series in zip(lanes, settings, found, strict=True)
        ]


def _cell(
    lane: Lane, setting: TrainSetting, series: Series, first: Series, copied_per_s: float
) -> dict[str, Any]:
    floor, own = step_floor(setting), lane.ready.peak_bytes - lane.ready.before_bytes
    return {
        **series.figures(),
        **{f"first_{name}": value for name, value in ratio(first.rates, series.rates).items()},
        "floor_share": round(floor.moved_bytes / copied_per_s / series.step_s, 4),
        "peak_memory_bytes": lane.ready.peak_bytes,
        "before_memory_bytes": lane.ready.before_bytes,
        "held_bytes": floor.held_bytes // lane.ranks,
        "memory_over_held": round(own * lane.ranks / floor.held_bytes, 2),
        "exchange_share": _exchange_share(lane),
    }


def _exchange_share(lane: Lane) -> float:
    """Of the time of a step, that in which rank 0 sent or waited for something."""
    if lane.ranks == 1:
        return 0.0
    shares = {one.name: one.share for one in lane.profile(_PROFILED_STEPS)}
    return round(shares.get("exchange", 0.0), 3)


def _free_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)
