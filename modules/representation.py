"""From tables to what search and head see: dot products, targets' rows, sums of behaviours' rows.

Letters: R requests, T targets, M targets of the fullest request, L behaviours of the longest
history, K kept, C sums a request, N jagged total, D width of item and category together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modules.attention import pool_all, pool_kept
from modules.embedding import Embeddings
from modules.pooled import Rows, dense_groups
from modules.views import Seen


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
    """Sums rows that were looked up one a behaviour."""

    def whole(self, seen: Seen, weight_RCL: Tensor) -> Represented:
        """Sum whole histories."""
        history_RCD = pool_all(weight_RCL, seen.history_RLD("representation_history"))
        return Represented(seen.rows["representation_target"].joined, history_RCD)

    def kept(self, seen: Seen, kept: Kept) -> Represented:
        """Sum what the search has kept."""
        row_RMKD = seen.kept_rows("representation_history", kept.index_RMK)
        history_RMD = pool_kept(kept.weight_RMK, row_RMKD)
        return Represented(seen.rows["representation_target"].joined, history_RMD)


class PooledReader:
    """Lets the tables' shards sum their rows; over ranks a collective.

    Args:
        embeddings: their tables.
        space: that is pooled.
    """

    def __init__(self, embeddings: Embeddings, space: str) -> None:
        self._embeddings, self._space = embeddings, space
        self._target_too = embeddings.config.space("representation_target") == space

    def whole(self, seen: Seen, weight_RCL: Tensor) -> Represented:
        """Sum whole histories."""
        rows = self._embeddings.rows(seen.lookups, self._space)
        return Represented(self._target(seen, rows), torch.cat(rows.sums(weight_RCL), dim=2))

    def kept(self, seen: Seen, kept: Kept) -> Represented:
        """Sum what the search has kept."""
        grid = seen.grid
        behaviour_RMK = kept.index_RMK + grid.history_offset_R1[:-1, None, None]
        valid_TK = grid.from_targets(kept.valid_RMK)
        searched = self._embeddings.searched(seen.lookups, self._space)
        rows = searched.kept(grid.from_targets(behaviour_RMK), valid_TK)
        weight_E1 = grid.from_targets(kept.weight_RMK)[valid_TK].unsqueeze(1)
        weight_TK1 = dense_groups(weight_E1, valid_TK.sum(1), valid_TK.size(1))
        history_TD = torch.cat(rows.sums(weight_TK1.transpose(1, 2)), dim=2).squeeze(1)
        return Represented(self._target(seen, rows), grid.targets(history_TD))

    def _target(self, seen: Seen, rows: Rows) -> Tensor:
        if not self._target_too:
            return seen.rows["representation_target"].joined
        return torch.cat(rows.targets(), dim=1)


class UnpooledDots:
    """Multiplies rows that were looked up one a behaviour."""

    def __call__(self, seen: Seen) -> Tensor:
        """Dot products of targets and behaviours, dot_RML; 0 on padding."""
        target_RMD = seen.target_RMD("attention_target")
        history_RLD = seen.history_RLD("attention_history")
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

    def __call__(self, seen: Seen) -> Tensor:
        """As `UnpooledDots`."""
        rows, grid = self._embeddings.rows(seen.lookups, self._space), seen.grid
        if self._target_too:
            targets = rows.targets()
        else:
            targets = self._embeddings.by_table(seen.rows["attention_target"].joined, self._space)
        return rows.dots([grid.targets(target_TD) for target_TD in targets], grid.num_history)


def make_reader(embeddings: Embeddings) -> UnpooledReader | PooledReader:
    """The reader of what the head sees."""
    space = embeddings.config.pooled_space
    return UnpooledReader() if space is None else PooledReader(embeddings, space)


def make_dots(embeddings: Embeddings) -> UnpooledDots | ShardDots:
    """The reader of what attention sees."""
    space = embeddings.config.scored_space
    return UnpooledDots() if space is None else ShardDots(embeddings, space)
