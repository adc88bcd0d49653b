"""What the head gets from the tables: the targets' rows, and sums of their behaviours' rows.

Letters: R requests, T targets, M targets of the fullest request, L behaviours of the longest
history, K kept, C sums a request, N jagged total, D width of item and category together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modules.attention import pool_all, pool_kept
from modules.embedding import Embeddings, Lookups
from modules.history import RequestGrid
from modules.pooled import Pooled


class Kept(NamedTuple):
    """What a search has kept of each target's history."""

    index_RMK: Tensor
    """Columns of the kept behaviours."""
    valid_RMK: Tensor
    """False where a history has fewer than K."""
    weight_RMK: Tensor
    """Their attention; 0 where not valid."""


class Represented(NamedTuple):
    """The head's view of a batch, without positions."""

    target_TD: Tensor
    """Rows of the targets."""
    history_RCD: Tensor
    """Sums of behaviours: C a request, or one in each target's cell [R, M, D]."""


class UnpooledReader:
    """Sums rows that were looked up one a behaviour.

    Args:
        embeddings: their tables.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self._view = embeddings.view

    def whole(self, lookups: Lookups, grid: RequestGrid, weight_RCL: Tensor) -> Represented:
        """Sum whole histories."""
        value_ND = self._view(lookups, "representation_history")
        target_TD = self._view(lookups, "representation_target")
        return Represented(target_TD, pool_all(weight_RCL, grid.history(value_ND)))

    def kept(self, lookups: Lookups, grid: RequestGrid, kept: Kept) -> Represented:
        """Sum what the search has kept."""
        value_ND = self._view(lookups, "representation_history")
        target_TD = self._view(lookups, "representation_target")
        row_RMKD = grid.kept_rows(value_ND, kept.index_RMK)
        return Represented(target_TD, pool_kept(kept.weight_RMK, row_RMKD))


class PooledReader:
    """Lets the tables' shards sum their rows.

    Args:
        embeddings: their tables.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings
        config = embeddings.config
        self._target_pooled = config.space("representation_target") == config.pooled_space

    def whole(self, lookups: Lookups, grid: RequestGrid, weight_RCL: Tensor) -> Represented:  # noqa: ARG002
        """Sum whole histories; over ranks a collective."""
        pooled = self._embeddings.pool(lookups).whole(weight_RCL)
        return Represented(self._target(lookups, pooled), _history(pooled))

    def kept(self, lookups: Lookups, grid: RequestGrid, kept: Kept) -> Represented:
        """Sum what the search has kept; over ranks a collective."""
        behaviour_RMK = kept.index_RMK + grid.history_offset_R1[:-1, None, None]
        pooled = self._embeddings.pool(lookups).kept(
            grid.from_targets(behaviour_RMK),
            grid.from_targets(kept.valid_RMK),
            grid.from_targets(kept.weight_RMK),
        )
        history_TD = _history(pooled).squeeze(1)
        return Represented(self._target(lookups, pooled), grid.targets(history_TD))

    def _target(self, lookups: Lookups, pooled: list[Pooled]) -> Tensor:
        if not self._target_pooled:
            return self._embeddings.view(lookups, "representation_target")
        return torch.cat([table.target_TD for table in pooled], dim=1)


def _history(pooled: list[Pooled]) -> Tensor:
    """Item and category side by side, [G, C, D]."""
    return torch.cat([table.history_GCD for table in pooled], dim=2)


def make_reader(embeddings: Embeddings) -> UnpooledReader | PooledReader:
    """The reader that a model's tables need."""
    if embeddings.config.pooled_space is None:
        return UnpooledReader(embeddings)
    return PooledReader(embeddings)
