"""The second stage: weights of the kept behaviours, their weighted sum, and heads made one.

Letters: R requests, M targets a request, L behaviours, K kept, H heads or groups, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.widths import MOST_BEHAVIOURS, MOST_WIDTH

Scale = Literal["two_term", "joint", "position_twice"]


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """How behaviours are scored and weighed."""

    scorer: Literal["dot", "mlp", "multi_head", "buckets", "interests"] = "dot"
    """`dot`: scaled dot product (TWIN, DARE). `mlp`: a small network of target and behaviour,
    without position (DIN). `multi_head`: projected heads with a bias of position (TWIN as
    published, SIM). `buckets`: behaviours whose hash is the target's count alike, the others not
    at all; no softmax, and no auxiliary head (SDIM). `interests`: three searches, by the target, by
    the newest behaviours and by all; each one's finds are mixed along time and averaged, and the
    target attends to the three means; no auxiliary head (MIRRN)."""
    scale: Scale = "two_term"
    """Of `dot`. `two_term`: item and category over the root of their width, plus position over the
    root of its own (released code). `joint`: all over the root of the whole width (paper).
    `position_twice`: both, what the released code computes for hard search."""
    heads: int = 4
    """Heads of `multi_head` and `interests`; they share the widths evenly, of attention and of
    representation, or of representation alone."""
    hidden: int = 36
    """Width of the hidden layer of `mlp`."""
    hash_groups: int = 2
    """Groups of hashes of `buckets`, whose sums are averaged."""
    hash_bits: int = 4
    """Bits of a group."""
    recent: int = 16
    """Newest behaviours whose mean is one of the queries of `interests`."""

    def __post_init__(self) -> None:
        for name, most in (
            *dict.fromkeys(("heads", "hidden", "hash_groups", "hash_bits"), MOST_WIDTH).items(),
            ("recent", MOST_BEHAVIOURS),
        ):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(
                    f"model.attention.{name} is {getattr(self, name)}; it must be at least 1, at "
                    f"most {most}"
                )

    @property
    def sums(self) -> int:
        """Weighted sums of a target's history that are then made one."""
        return {"multi_head": self.heads, "buckets": self.hash_groups}.get(self.scorer, 1)


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


class HeadsOutput(nn.Module):
    """Values and output of multi-head attention: `W_o [W_v,1 h_1; ...; W_v,H h_H]`.

    A value's projection is linear, so it is applied to a head's weighted sum h_i instead of every
    behaviour (arXiv:1706.03762; as in arXiv:2302.02352, without biases).

    Args:
        width: of representation with its position, D.
        heads: H.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, history_RQD: Tensor) -> Tensor:
        """Sums of each head, head by head, to one a target: history_RMD."""
        sums_RHMD = torch.unflatten(history_RQD, 1, (self.heads, -1))
        value_HED = torch.unflatten(self.value.weight, 0, (self.heads, -1))
        values_RMC = torch.einsum("rhmd,hed->rmhe", sums_RHMD, value_HED).flatten(2)
        projected: Tensor = self.output(values_RMC)
        return projected


class BucketsOutput(nn.Module):
    """Each group's sum brought to length 1, then their mean (SDIM, arXiv:2205.10249).

    Args:
        groups: of hashes, H.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, history_RQD: Tensor) -> Tensor:
        """Sums of each group, group by group, to one a target, history_RMD; 0 if none fell in."""
        unit_RQD = F.normalize(history_RQD, dim=2, eps=1e-12)
        return torch.unflatten(unit_RQD, 1, (self.groups, -1)).mean(dim=1)


def make_output(config: AttentionConfig, width: int) -> nn.Module:
    """What makes the sums of a target one, where there are several.

    Args:
        config: of the scorer.
        width: of representation with its position.
    """
    if config.scorer == "multi_head":
        return HeadsOutput(width, config.heads)
    if config.scorer == "buckets":
        return BucketsOutput(config.hash_groups)
    return nn.Identity()
