"""The least that a training step has to read, write and hold, whatever the code is like.

Counted are the rows of the two large tables that a batch names, each once however often it is
named, and the batch's ids. Position tables, dense parameters and everything between lookup and loss
could stay in a cache, so they are not. With uniform ids a batch of `n` ids names
`V (1 - (1 - 1/V)^n)` of a table's `V` rows on average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from trainer.bench.floor import seconds_a_call
from trainer.bench.setting import CATEGORIES, TrainSetting
from trainer.optim import SparseOptimizer

_NUMBER, _ID = 4, 8
"""Bytes."""
_GATHERED_ROWS = 1 << 17


@dataclass(frozen=True, kw_only=True)
class StepFloor:
    """Of one step of one rank that holds all tables."""

    read_bytes: int
    """Rows read for the forward pass."""
    update_bytes: int
    """Rows and their optimizer state, read and written once each after the backward pass."""
    id_bytes: int
    """Ids read: histories and targets, 8 bytes each."""
    held_bytes: int
    """In memory at once: tables, their optimizer state, the attention rows of a batch's behaviours
    and their gradient."""

    @property
    def moved_bytes(self) -> int:
        """All that is read and written."""
        return self.read_bytes + self.update_bytes + self.id_bytes


def step_floor(setting: TrainSetting) -> StepFloor:
    """What a step of DARE cannot do without.

    Args:
        setting: of the training; its optimizer touches only rows that a batch names.

    Raises:
        ValueError: another preset or an optimizer that touches whole tables.
    """
    if setting.preset != "dare" or setting.sparse_optimizer == "dense_adam":
        raise ValueError(
            f"a floor of {setting.preset} with {setting.sparse_optimizer} is not known; it is of "
            "dare with an optimizer that touches named rows only"
        )
    shown = setting.requests * setting.data.targets
    kept = setting.behaviours if setting.auxiliary else shown * setting.top_k
    named = [
        distinct(ids + shown, rows)
        for ids in (setting.behaviours, kept)  # Attention, representation.
        for rows in (setting.data.items, CATEGORIES)
    ]
    row, state = setting.width * _NUMBER, state_numbers(setting.sparse_optimizer, setting.width)
    tables = 2 * (setting.data.items + CATEGORIES)
    vectors = 3 * setting.width * _NUMBER * setting.behaviours  # Item, category, position.
    return StepFloor(
        read_bytes=round(sum(named) * row),
        update_bytes=round(sum(named) * 2 * (row + state * _NUMBER)),
        id_bytes=2 * _ID * (setting.behaviours + shown),
        held_bytes=tables * (row + state * _NUMBER) + 2 * vectors,
    )


def distinct(ids: int, rows: int) -> float:
    """How many of a table's rows some uniform ids name, on average."""
    return float(rows) if rows == 1 else -rows * math.expm1(ids * math.log1p(-1 / rows))


def state_numbers(optimizer: SparseOptimizer, width: int) -> int:
    """Numbers that an optimizer keeps for a row of a table."""
    kept = {"sgd": 0, "rowwise_adagrad": 1, "partial_rowwise_adam": width + 1}
    return kept.get(optimizer, 2 * width)


def gather_speed(rows: int, width: int, device: torch.device) -> float:
    """Bytes a second, those read and those written, of gathering rows at random.

    Args:
        rows: of the table.
        width: numbers of a row.
        device: where.
    """
    table = torch.ones(rows, width, device=device)  # Touched.
    ids = torch.randint(rows, (_GATHERED_ROWS,), device=device)
    gathered = torch.ones(_GATHERED_ROWS, width, device=device)
    taken = seconds_a_call(lambda: torch.index_select(table, 0, ids, out=gathered), device)
    return 2 * _GATHERED_ROWS * width * _NUMBER / taken
