"""Scores of behaviours against a target.

Letters: R requests, M targets a request, L behaviours of the longest history, D width.
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
    """

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.scale = scale

    def forward(
        self, target_RMD: Tensor, history_RLD: Tensor, target_P: Tensor, history_LP: Tensor
    ) -> Tensor:
        """Score every behaviour of a request against each of its targets.

        Args:
            target_RMD: item and category of the targets, from the attention space.
            history_RLD: item and category of the behaviours, from the attention space.
            target_P: the target's position embedding.
            history_LP: position embeddings of the behaviours, newest first.

        Returns:
            score_RML, any real number. Padding is scored too: callers mask it.
        """
        # In this order the gradient of the history, the largest tensor here, needs no transpose.
        score_RML = (history_RLD @ target_RMD.transpose(1, 2)).transpose(1, 2).contiguous()
        width, position_width = target_RMD.size(-1), target_P.numel()
        position_L = history_LP @ target_P
        if self.scale == "joint":
            return (score_RML + position_L) / math.sqrt(width + position_width)
        score_RML = score_RML / math.sqrt(width)
        return score_RML + position_L / math.sqrt(max(1, position_width))
