"""The first stage: the behaviours of a lifelong history worth attending to.

Letters: R requests, M targets a request, L behaviours of the longest history, K kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modules.widths import MOST_BEHAVIOURS, MOST_WIDTH


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How a long history is cut to the behaviours worth attending to."""

    top_k: int = 20
    """Behaviours kept a target."""
    by: Literal["attention", "category", "hamming", "own", "none"] = "attention"
    """What is best. `attention`: what attention scores highest, with its own scorer (TWIN, DARE).
    `category`: the target's category, then the newest (hard search). `hamming`: most hash bits in
    common, then the newest (ETA). `own`: a dot product behind two matrices of its own, which the
    auxiliary loss trains by summing the history with the raw scores (SIM soft). `none`: no search,
    everything is kept."""
    own_width: int = 16
    """Width behind the matrices of `own`."""
    hash_bits: int = 32
    """Bits of `hamming`."""
    cluster_size: int = 0
    """Above 0, histories are first cut into clusters of so many behaviours at most. Of each one
    behaviour is searched and attended to, with the logarithm of the cluster's size added to its
    score (TWIN-V2)."""

    @property
    def only_orders(self) -> bool:
        """Whether its scores mean an order and nothing else (`newest_of_equals`)."""
        return self.by in ("category", "hamming")

    def __post_init__(self) -> None:
        for name, least, most in (
            ("top_k", 1, MOST_BEHAVIOURS),
            ("own_width", 1, MOST_WIDTH),
            ("hash_bits", 1, MOST_WIDTH),
            ("cluster_size", 0, MOST_BEHAVIOURS),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"model.search.{name} is {getattr(self, name)}; it must be at least {least}, "
                    f"at most {most}"
                )


class SearchUnit(nn.Module):
    """Keeps the K best-scored behaviours.

    The scorer is the attention unit's own object in TWIN and DARE: what the search finds best is
    what attention weighs most (the consistency property of arXiv:2302.02352).

    Args:
        top_k: how many to keep.
        scorer: scores a history against its targets.
    """

    def __init__(self, top_k: int, scorer: nn.Module) -> None:
        super().__init__()
        self.top_k = top_k
        self.scorer = scorer

    def forward(self, score_RML: Tensor, behaviour_RL: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the best.

        Args:
            score_RML: the scorer's result.
            behaviour_RL: True where a behaviour is that may be kept.

        Returns:
            index_RMK, columns of the kept behaviours, and valid_RMK, False where the history has
            fewer than K. K is `top_k`, or L where the batch's longest history is shorter.
        """
        behaviour_RML = behaviour_RL.unsqueeze(1).expand_as(score_RML)
        if score_RML.size(2) <= self.top_k:
            column_L = torch.arange(score_RML.size(2), device=score_RML.device)
            return column_L.expand_as(score_RML), behaviour_RML
        masked_RML = score_RML.detach().masked_fill(~behaviour_RML, -torch.inf)
        index_RMK = masked_RML.topk(self.top_k, dim=2, sorted=False).indices
        return index_RMK, behaviour_RML.gather(2, index_RMK)


def sample(behaviour_RL: Tensor, size: int) -> Tensor:
    """Draw behaviours of each history without putting back.

    Args:
        behaviour_RL: True where a behaviour is.
        size: how many to draw; histories that are shorter are drawn whole.

    Returns:
        True where a behaviour was drawn, [R, L].
    """
    if behaviour_RL.size(1) <= size:
        return behaviour_RL
    key_RL = torch.rand(behaviour_RL.shape, device=behaviour_RL.device)
    drawn_RK = key_RL.masked_fill(~behaviour_RL, -1).topk(size, dim=1).indices
    return torch.zeros_like(behaviour_RL).scatter(1, drawn_RK, value=True) & behaviour_RL
