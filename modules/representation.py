"""From tables to what search and head see: dot products, targets' rows, sums of behaviours' rows.

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
from modules.pooled import Rows, dense_groups


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
        target_TD, value_ND = self._rows(lookups)
        return Represented(target_TD, pool_all(weight_RCL, grid.history(value_ND)))

    def kept(self, lookups: Lookups, grid: RequestGrid, kept: Kept) -> Represented:
        """Sum what the search has kept."""
        target_TD, value_ND = self._rows(lookups)
        row_RMKD = grid.kept_rows(value_ND, kept.index_RMK)
        return Represented(target_TD, pool_kept(kept.weight_RMK, row_RMKD))

    def _rows(self, lookups: Lookups) -> tuple[Tensor, Tensor]:
        """Rows of the targets and of the behaviours."""
        return (
            self._view(lookups, "representation_target"),
            self._view(lookups, "representation_history"),
        )


class PooledReader:
    """Lets the tables' shards sum their rows; over ranks a collective.

    Args:
        embeddings: their tables.
        space: that is pooled.
    """

    def __init__(self, embeddings: Embeddings, space: str) -> None:
        self._embeddings, self._space = embeddings, space
        self._target_too = embeddings.config.space("representation_target") == space

    def whole(self, lookups: Lookups, _grid: RequestGrid, weight_RCL: Tensor) -> Represented:
        """Sum whole histories."""
        rows = self._embeddings.rows(lookups, self._space)
        return Represented(self._target(lookups, rows), torch.cat(rows.sums(weight_RCL), dim=2))

    def kept(self, lookups: Lookups, grid: RequestGrid, kept: Kept) -> Represented:
        """Sum what the search has kept."""
        behaviour_RMK = kept.index_RMK + grid.history_offset_R1[:-1, None, None]
        valid_TK = grid.from_targets(kept.valid_RMK)
        searched = self._embeddings.searched(lookups, self._space)
        rows = searched.kept(grid.from_targets(behaviour_RMK), valid_TK)
        weight_E1 = grid.from_targets(kept.weight_RMK)[valid_TK].unsqueeze(1)
        weight_TK1 = dense_groups(weight_E1, valid_TK.sum(1), valid_TK.size(1))
        history_TD = torch.cat(rows.sums(weight_TK1.transpose(1, 2)), dim=2).squeeze(1)
        return Represented(self._target(lookups, rows), grid.targets(history_TD))

    def _target(self, lookups: Lookups, rows: Rows) -> Tensor:
        if not self._target_too:
            return self._embeddings.view(lookups, "representation_target")
        return torch.cat(rows.targets(), dim=1)


class UnpooledDots:
    """Multiplies rows that were looked up one a behaviour.

    Args:
        embeddings: their tables.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self._view = embeddings.view

    def __call__(self, lookups: Lookups, grid: RequestGrid) -> Tensor:
        """Dot products of targets and behaviours, dot_RML; 0 on padding."""
        target_RMD = grid.targets(self._view(lookups, "attention_target"))
        history_RLD = grid.history(self._view(lookups, "attention_history"))
        # In this order the gradient of the history, the largest tensor here, needs no transpose.
        return (history_RLD @ target_RMD.transpose(1, 2)).transpose(1, 2).contiguous()


class ShardDots:
    """Lets the tables' shards multiply their rows; over ranks a collective.

    Args:
        embeddings: their tables.
        space: of the behaviours.
    """

    def __init__(self, embeddings: Embeddings, space: str) -> None:
        self._embeddings, self._space = embeddings, space
        self._target_too = embeddings.config.space("attention_target") == space

    def __call__(self, lookups: Lookups, grid: RequestGrid) -> Tensor:
        """As `UnpooledDots`."""
        rows = self._embeddings.rows(lookups, self._space)
        if self._target_too:
            targets = rows.targets()
        else:
            target_TD = self._embeddings.view(lookups, "attention_target")
            targets = self._embeddings.by_table(target_TD, self._space)
        return rows.dots([grid.targets(target_TD) for target_TD in targets], grid.num_history)


def make_reader(embeddings: Embeddings) -> UnpooledReader | PooledReader:
    """The reader of what the head sees."""
    space = embeddings.config.pooled_space
    return UnpooledReader(embeddings) if space is None else PooledReader(embeddings, space)


def make_dots(embeddings: Embeddings) -> UnpooledDots | ShardDots:
    """The reader of what attention sees."""
    space = embeddings.config.scored_space
    return UnpooledDots(embeddings) if space is None else ShardDots(embeddings, space)
