"""The ranker: lookups, then search, attention and head. Every model of the family is one setting.

Letters: R requests, T targets, M targets of the fullest request, L behaviours of the longest
history, K kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchrec import DataType, KeyedJaggedTensor

from modules.embedding import Embeddings
from modules.interaction import Interaction, RankerOutput
from modules.model_config import RankerConfig


class Ranker(nn.Module):
    """Scores the targets of each request against its history.

    Args:
        config: the model.
        rows: rows of the `item` and of the `category` table.
        history_length: behaviours a history has at most.
        device: `meta` where the tables are made by sharding.
        autocast: compute type of the part after the lookups.
        table_types: type of the weights by table, float32 for those that are not named.
    """

    def __init__(
        self,
        config: RankerConfig,
        *,
        rows: dict[str, int],
        history_length: int,
        device: torch.device,
        autocast: torch.dtype | None = None,
        table_types: Mapping[str, DataType] | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(
            config.embeddings,
            rows,
            device,
            whole_histories=config.sums_whole_histories,
            table_types=table_types or {},
        )
        self.interaction = Interaction(config, self.embeddings, history_length, autocast)

    def forward(
        self, features: KeyedJaggedTensor, counts_T: Tensor, num_history: int, num_targets: int
    ) -> RankerOutput:
        """Score a batch.

        Args:
            features: keys `history_item history_category target_item target_category`, stride R;
                histories newest first. Untouched up to the lookup, else TorchRec cannot send the
                ids ahead.
            counts_T: False on targets that only pad.
            num_history: behaviours of the longest history, L.
            num_targets: targets of the fullest request, M.

        Returns:
            The logits and what the search kept.
        """
        lookups = self.embeddings(features)
        return self.interaction(lookups, features, counts_T, num_history, num_targets)
