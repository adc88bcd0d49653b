"""What each use of an embedding sees of a batch: rows and positions behind their projections.

Letters: R requests, T targets, M targets of the fullest request, L behaviours of the longest
history, N jagged total, D width of item and category together, P width of the position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from modules.balance import balanced
from modules.embedding import USES, Embeddings, Lookups, Use
from modules.feature_rows import FeatureRows
from modules.history import RequestGrid
from modules.positions import Positions
from modules.projection import UseProjection


@dataclass(frozen=True)
class Seen:
    """One batch as search, attention and head see it."""

    lookups: Lookups
    """Of all collections, for spaces whose rows stay on their shards."""
    features: KeyedJaggedTensor
    """The ids."""
    grid: RequestGrid
    rows: Mapping[Use, FeatureRows]
    """Item, category and what else is read, of behaviours or of targets, [N, D]; of spaces that
    are read one row a behaviour."""
    positions: Mapping[Use, Tensor]
    """The position table, row 0 for the target, 1 for the newest behaviour, [L + 1, P]."""
    _kept: dict[FeatureRows, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """What was last picked of whose rows: its columns and the rows."""

    def target_position(self, use: Use) -> Tensor:
        """The target's position embedding, [P]."""
        return self.positions[use][0]

    def history_position(self, use: Use) -> Tensor:
        """Position embeddings of the longest history, newest first, [L, P]."""
        return self.positions[use][1 : self.grid.num_history + 1]

    def target_RMD(self, use: Use) -> Tensor:
        """Rows of the targets, zeros on padding."""
        return self.grid.targets(self.rows[use].joined)

    def history_RLD(self, use: Use) -> Tensor:
        """Rows of the behaviours, newest first, zeros on padding."""
        return self.grid.history(self.rows[use].joined)

    def kept_rows(self, use: Use, index_RMK: Tensor) -> Tensor:
        """Rows of kept behaviours, [R, M, K, D]; padding has some behaviour's.

        Uses that share their rows pick them once, so that these get one gradient.
        """
        rows = self.rows[use]
        picked = self._kept.get(rows)
        if picked is None or picked[0] is not index_RMK:
            picked = index_RMK, rows.pick(lambda part: self.grid.kept_rows(part, index_RMK))
            self._kept[rows] = picked
        return picked[1]

    def joined_targets(self, use: Use) -> Tensor:
        """Rows of the targets with their position, [T, D + P]."""
        rows_TD = self.rows[use].joined
        position_P = self.target_position(use)
        return torch.cat([rows_TD, position_P.expand(rows_TD.size(0), -1)], dim=1)


class Views:
    """Sends the rows of a batch to their uses.

    Args:
        embeddings: the tables.
        positions: the position tables.
        uses: the projection of each use.
    """

    def __init__(self, embeddings: Embeddings, positions: Positions, uses: nn.ModuleDict) -> None:
        self._parts = embeddings, positions, uses
        config = embeddings.config
        on_shards = {config.pooled_space, config.scored_space}
        self._read = [use for use in USES if config.space(use) not in on_shards]
        self._balanced = config.gradients == "balanced"

    def __call__(self, lookups: Lookups, features: KeyedJaggedTensor, grid: RequestGrid) -> Seen:
        """Read what is looked up.

        Args:
            lookups: of all collections.
            features: the ids.
            grid: how the batch lies.
        """
        embeddings, tables, uses = self._parts
        # A table that several uses read is put together once for all of them.
        found: dict[tuple[str, str], FeatureRows] = {}
        rows: dict[Use, FeatureRows] = {}
        for use in self._read:
            key = (embeddings.config.space(use), use.rpartition("_")[2])
            if key not in found:
                found[key] = embeddings.view(lookups, use)
            rows[use] = found[key]
        positions = {use: tables.table(use) for use in USES}
        if self._balanced:
            rows, positions = balanced(rows, positions, features, embeddings)
        return Seen(
            lookups,
            features,
            grid,
            {use: uses[use](value) for use, value in rows.items()},
            {
                use: cast(UseProjection, uses[use]).position(value)
                for use, value in positions.items()
            },
        )
