"""The second stage: weights of the kept behaviours, and their weighted sum.

Letters: R requests, M targets a request, L behaviours, K kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.scorers import Scale


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """How behaviours are scored."""

    scale: Scale = "two_term"
    """`two_term`: item and category over the root of their width, plus position over the root of
    its own (released code). `joint`: all over the root of the whole width (paper)."""


def masked_softmax(score: Tensor, valid: Tensor) -> Tensor:
    """Softmax over the last dimension, among valid entries only.

    Args:
        score: any real numbers.
        valid: same shape, True where an entry takes part.

    Returns:
        Weights of the same shape; exactly 0 where not valid, all 0 where no entry is valid.
    """
    masked = score.masked_fill(~valid, torch.finfo(score.dtype).min)
    return torch.softmax(masked, dim=-1) * valid


def pool_kept(weight_RMK: Tensor, value_RMKD: Tensor) -> Tensor:
    """Weighted sum of the kept behaviours: value_RMD."""
    return (weight_RMK.unsqueeze(2) @ value_RMKD).squeeze(2)


def pool_all(weight_RML: Tensor, value_RLD: Tensor) -> Tensor:
    """Weighted sum of all behaviours, shared by a request's targets: value_RMD."""
    return weight_RML @ value_RLD
