"""The search of a model alone, as `dare bench search` measures it.

Letters: R requests, M targets a request, K kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from modules import jagged_search
from modules.embedding import Lookups, Use
from modules.feature_rows import FeatureRows
from modules.history import RequestGrid
from modules.projection import UseProjection
from modules.ranker import Ranker
from modules.views import Seen
from pipelines.batch import Batch

SEARCH_USES: tuple[Use, ...] = ("attention_target", "attention_history")


@dataclass(frozen=True)
class SearchModel:
    """The ranker of one width, and where its lookups are."""

    ranker: Ranker
    collections: Sequence[str]
    """Those that attention reads."""

    def lookup(self, batch: Batch) -> dict[Use, FeatureRows]:
        """Rows of targets and behaviours, side by side."""
        embeddings = self.ranker.embeddings
        lookups: Lookups = {
            name: embeddings.collections[name](batch.features) for name in self.collections
        }
        return {use: FeatureRows(embeddings.view(lookups, use).joined) for use in SEARCH_USES}

    def _see(
        self, features: KeyedJaggedTensor, grid: RequestGrid, rows: dict[Use, FeatureRows]
    ) -> Seen:
        interaction = self.ranker.interaction
        uses = {use: cast(UseProjection, interaction.uses[use]) for use in SEARCH_USES}
        return Seen(
            {},
            features,
            grid,
            {use: uses[use](rows[use]) for use in SEARCH_USES},
            {use: uses[use].position(interaction.positions.table(use)) for use in SEARCH_USES},
        )

    def search(
        self, features: KeyedJaggedTensor, grid: RequestGrid, rows: dict[Use, FeatureRows]
    ) -> Tensor:
        """Score all behaviours and keep the best, index_RMK; projections of a use included."""
        search, seen = self.ranker.interaction.search, self._see(features, grid, rows)
        index_RMK, _ = search(search.scorer(seen).float(), grid.behaviour_RL())
        return cast(Tensor, index_RMK)

    def search_jagged(
        self, features: KeyedJaggedTensor, grid: RequestGrid, rows: dict[Use, FeatureRows]
    ) -> Tensor:
        """The same by kernels, which write no scores down."""
        best = jagged_search.best_of(
            self.ranker.interaction.search, self._see(features, grid, rows)
        )
        return best.index_RMK

    def is_jagged(self, device: torch.device, history_length: int) -> bool:
        """Whether the kernels know this search, and can run."""
        interaction = self.ranker.interaction
        return jagged_search.knows(interaction.config, interaction.search, device, history_length)
