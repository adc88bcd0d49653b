"""Scores of behaviours against targets that only a search ranks by; as in `scorers`.

Letters: R requests, T targets, M targets of the fullest request, L behaviours of the longest
history, B bits, D width of item and category, P width of the position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.grouping import SimHash
from modules.history import padded_ids
from modules.views import Seen


class HammingScorer(nn.Module):
    """Bits that target and behaviour share; of as many shared, the newer behaviour is better.

    The search of ETA (arXiv:2108.04468). Hashing has no gradient.

    Args:
        width: of item and category together.
        bits: of the hash.
    """

    def __init__(self, width: int, bits: int) -> None:
        super().__init__()
        self.hash = SimHash(width, bits)

    def forward(self, seen: Seen) -> Tensor:
        """Compare every behaviour of a request with each of its targets."""
        target_RMB, history_RLB = self.hash.pair(seen)
        return newest_of_equals(target_RMB @ history_RLB.transpose(1, 2))


class CategoryScorer(nn.Module):
    """Behaviours of the target's category first, the newest of them first; then the newest others.

    Hard search (SIM, arXiv:2006.05639; TWIN (hard) of arXiv:2410.02604).
    """

    def forward(self, seen: Seen) -> Tensor:
        """Compare every behaviour of a request with each of its targets."""
        grid = seen.grid
        history_RL = padded_ids(
            seen.features["history_category"].values(), grid.history_offset_R1, grid.num_history
        )
        target_RM = padded_ids(
            seen.features["target_category"].values(), grid.target_offset_R1, grid.num_targets
        )
        return newest_of_equals(target_RM.unsqueeze(2) == history_RL.unsqueeze(1))


class OwnScorer(nn.Module):
    """`(W_a v) (W_b e)`, the soft search of SIM (arXiv:2006.05639), with matrices of its own.

    Args:
        width: of item, category and position together.
        inner: width behind the matrices.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.target = nn.Linear(width, inner, bias=False)
        self.history = nn.Linear(width, inner, bias=False)

    @torch.no_grad()
    def start_alike(self) -> None:
        """Make both matrices one at the start, so that what is alike scores above 0.

        The auxiliary head, which trains them, is as good with all scores turned round: left to
        chance, half of the runs learn to search for what matters least.
        """
        self.history.weight.copy_(self.target.weight)

    def forward(self, seen: Seen) -> Tensor:
        """Score every behaviour of a request against each of its targets."""
        query_TD = self.target(seen.joined_targets("attention_target")) @ self.history.weight
        query_RMD = seen.grid.targets(query_TD)
        key_RLD = seen.history_RLD("attention_history")
        width = key_RLD.size(2)
        position_LP = seen.history_position("attention_history")
        score_RML = query_RMD[..., :width] @ key_RLD.transpose(1, 2)
        return score_RML + query_RMD[..., width:] @ position_LP.T


def newest_of_equals(score_RML: Tensor) -> Tensor:
    """Whole numbers (or truths), told apart by age: of equal ones the newer is larger.

    Only the order of the result means anything: how far its numbers are apart goes by the longest
    history of the batch (`SearchConfig.only_orders`).
    """
    length = score_RML.size(2)
    age_L = torch.arange(length, device=score_RML.device)
    return score_RML.float() * (length + 1) - age_L
