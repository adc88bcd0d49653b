"""The position tables, dense: a batch reads every row, so there is nothing to shard."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.embedding import EmbeddingsConfig, Use


class Positions(nn.Module):
    """The position table of each space that has positions.

    Position 0 is the target, 1 the newest behaviour, as in the paper's released code.

    Args:
        config: spaces and widths.
        history_length: the oldest position there can be.
    """

    none: Tensor
    """What a use without positions reads: rows of no width."""

    def __init__(self, config: EmbeddingsConfig, history_length: int) -> None:
        super().__init__()
        self.config = config
        self.tables = nn.ParameterDict(
            {
                space: nn.Parameter(torch.zeros(history_length + 1, widths.position))
                for space, widths in config.spaces().items()
                if widths.position
            }
        )
        self.register_buffer("none", torch.zeros(history_length + 1, 0), persistent=False)

    def table(self, use: Use) -> Tensor:
        """The table a use reads, a row a position, [history_length + 1, D]."""
        space = self.config.space(use)
        return self.tables.get(space, self.none)
