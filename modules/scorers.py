"""Scores of behaviours against a target.

Letters: R requests, M targets a request, L behaviours of the longest history.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

Scale = Literal["two_term", "joint"]


class DotScorer(nn.Module):
    """Scaled dot product of target and behaviour, position included.

    `joint` is the paper's formula, one dot product over the root of the whole width
    (arXiv:2410.02604, section 3.1). `two_term` is what its released code computes: item and
    category over the root of their width, plus position over the root of its own.

    Args:
        scale: which of the two.
        width: of item and category together.
    """

    def __init__(self, scale: Scale, width: int) -> None:
        super().__init__()
        self.scale, self.width = scale, width

    def forward(self, dot_RML: Tensor, target_P: Tensor, history_LP: Tensor) -> Tensor:
        """Score every behaviour of a request against each of its targets.

        Args:
            dot_RML: dot products of their items and categories in the attention space.
            target_P: the target's position embedding.
            history_LP: position embeddings of the behaviours, newest first.

        Returns:
            score_RML, any real number. Padding is scored too: callers mask it.
        """
        position_width = target_P.numel()
        position_L = history_LP @ target_P
        if self.scale == "joint":
            return (dot_RML + position_L) / math.sqrt(self.width + position_width)
        return dot_RML / math.sqrt(self.width) + position_L / math.sqrt(max(1, position_width))
