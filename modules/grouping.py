"""Behaviours put together without looking at the target: hash bits and clusters.

Letters: R requests, M targets, L behaviours of the longest history, B bits, C clusters, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from modules.views import Seen

_ROUNDS = 3
"""Of 2-means before each cut."""
_AS_NEAR = 1e-4
"""Part by which distances differ that count as equal."""


class SimHash(nn.Module):
    """Signs of dot products with fixed random directions: close vectors share most of them.

    Args:
        width: of item and category together, D.
        bits: B.
    """

    directions_DB: Tensor

    def __init__(self, width: int, bits: int) -> None:
        super().__init__()
        self.register_buffer("directions_DB", torch.randn(width, bits))

    @torch.no_grad()
    def pair(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Bits of targets and behaviours as attention sees them: 1 or -1, [R, M, B] and [R, L, B].

        Padding has bits too.
        """
        return (
            self._bits(seen.target_RMD("attention_target")),
            self._bits(seen.history_RLD("attention_history")),
        )

    def _bits(self, value: Tensor) -> Tensor:
        # Not rounded by autocast: near a hash's edge, rounding would decide.
        with torch.autocast(value.device.type, enabled=False):
            products = value.float() @ self.directions_DB
        return torch.where(products >= 0, 1.0, -1.0)


class Clusters(NamedTuple):
    """A history in groups, each stood for by one of its behaviours."""

    member_RL: Tensor
    """True where a behaviour stands for its cluster."""
    log_size_RL: Tensor
    """Logarithm of the cluster's size there, 0 elsewhere."""


@torch.no_grad()
def clusters(value_RLD: Tensor, behaviour_RL: Tensor, most: int) -> Clusters:
    """Halve each history again and again until no part has more than so many behaviours.

    TWIN-V2 (arXiv:2407.16357) runs k-means recursively until clusters are small enough, offline.
    This does it on the rows of the step, in halves: of each part the two centres of 2-means are
    found, and the part is cut where half of it is nearer to the one, so that the number of rounds
    depends on the longest history alone. The behaviour nearest to its cluster's mean stands for it,
    the newest of equals.

    Args:
        value_RLD: rows of the behaviours.
        behaviour_RL: where there is one.
        most: behaviours of a cluster at most.
    """
    requests, length, _ = value_RLD.shape
    value_RLD = value_RLD.float()
    part_RL = torch.zeros(requests, length, dtype=torch.long, device=value_RLD.device)
    parts, longest = 1, length
    while longest > most:
        part_RL = 2 * part_RL + _upper_half(value_RLD, behaviour_RL, part_RL, parts, most)
        parts, longest = 2 * parts, (longest + 1) // 2
    size_RC = _count(behaviour_RL, part_RL, parts)
    mean_RLD = _mean_of_part(value_RLD, behaviour_RL, part_RL, parts)
    distance_RL = (value_RLD - mean_RLD).norm(dim=2).masked_fill(~behaviour_RL, torch.inf)
    least_RC = distance_RL.new_full((requests, parts), torch.inf)
    least_RC.scatter_reduce_(1, part_RL, distance_RL, "amin")
    # Of two behaviours both are as near to their mean: not rounding decides, but age.
    near_RL = distance_RL <= least_RC.gather(1, part_RL) * (1 + _AS_NEAR)
    age_RL = torch.arange(length, device=value_RLD.device).expand_as(part_RL)
    rank_RL = _rank_in_part(age_RL + length * ~near_RL, behaviour_RL, part_RL, parts)
    member_RL = behaviour_RL & (rank_RL == 0)
    log_RL = size_RC.gather(1, part_RL).clamp(min=1).float().log()
    return Clusters(member_RL, log_RL.where(member_RL, 0))


def _upper_half(
    value_RLD: Tensor, behaviour_RL: Tensor, part_RL: Tensor, parts: int, most: int
) -> Tensor:
    """1 for behaviours of the half around the second centre, of parts that are too large."""
    mean_RLD = _mean_of_part(value_RLD, behaviour_RL, part_RL, parts)
    far_RLD = _value_at(value_RLD, behaviour_RL, part_RL, parts, (value_RLD - mean_RLD).norm(dim=2))
    other_RLD = _value_at(
        value_RLD, behaviour_RL, part_RL, parts, (value_RLD - far_RLD).norm(dim=2)
    )
    for _ in range(_ROUNDS):
        nearer_RL = (value_RLD - other_RLD).norm(dim=2) < (value_RLD - far_RLD).norm(dim=2)
        far_RLD, other_RLD = (
            _mean_of_half(value_RLD, behaviour_RL & half_RL, behaviour_RL, part_RL, parts)
            for half_RL in (~nearer_RL, nearer_RL)
        )
    along_RL = ((value_RLD - far_RLD) * (other_RLD - far_RLD)).sum(dim=2)
    rank_RL = _rank_in_part(along_RL, behaviour_RL, part_RL, parts)
    size_RL = _count(behaviour_RL, part_RL, parts).gather(1, part_RL)
    return (2 * rank_RL >= size_RL).logical_and(size_RL > most).long()


def _count(behaviour_RL: Tensor, part_RL: Tensor, parts: int) -> Tensor:
    """Behaviours of each part, [R, C]."""
    zeros_RC = part_RL.new_zeros(part_RL.size(0), parts)
    return zeros_RC.scatter_add_(1, part_RL, behaviour_RL.long())


def _mean_of_part(value_RLD: Tensor, chosen_RL: Tensor, part_RL: Tensor, parts: int) -> Tensor:
    """At each behaviour the mean of its part's chosen behaviours; zeros where none is."""
    place_RLD = part_RL.unsqueeze(2).expand_as(value_RLD)
    sum_RCD = value_RLD.new_zeros(len(value_RLD), parts, value_RLD.size(2))
    sum_RCD.scatter_add_(1, place_RLD, value_RLD * chosen_RL.unsqueeze(2))
    mean_RCD = sum_RCD / _count(chosen_RL, part_RL, parts).clamp(min=1).unsqueeze(2)
    return mean_RCD.gather(1, place_RLD)


def _mean_of_half(
    value_RLD: Tensor, half_RL: Tensor, behaviour_RL: Tensor, part_RL: Tensor, parts: int
) -> Tensor:
    """The mean of half a part; of the whole where the half is empty."""
    empty_RL1 = (_count(half_RL, part_RL, parts) == 0).gather(1, part_RL).unsqueeze(2)
    whole_RLD = _mean_of_part(value_RLD, behaviour_RL, part_RL, parts)
    return whole_RLD.where(empty_RL1, _mean_of_part(value_RLD, half_RL, part_RL, parts))


def _value_at(
    value_RLD: Tensor, behaviour_RL: Tensor, part_RL: Tensor, parts: int, key_RL: Tensor
) -> Tensor:
    """At each behaviour the row of its part's behaviour with the largest key."""
    rank_RL = _rank_in_part(-key_RL, behaviour_RL, part_RL, parts)
    first_RL = behaviour_RL & (rank_RL == 0)
    return _mean_of_part(value_RLD, first_RL, part_RL, parts)


def _rank_in_part(key_RL: Tensor, behaviour_RL: Tensor, part_RL: Tensor, parts: int) -> Tensor:
    """Rank of each behaviour in its part by the smaller key, the newer of equals; 0 is the first.

    Padding ranks behind all parts.
    """
    order_RL = key_RL.argsort(dim=1, stable=True)
    held_RL = part_RL.where(behaviour_RL, parts)
    by_part_RL = order_RL.gather(1, held_RL.gather(1, order_RL).argsort(dim=1, stable=True))
    place_RL = torch.empty_like(by_part_RL)
    column_RL = torch.arange(key_RL.size(1), device=key_RL.device).expand_as(by_part_RL)
    place_RL.scatter_(1, by_part_RL, column_RL)
    size_RC = _count(behaviour_RL, part_RL, parts)
    start_RC = torch.cat([size_RC.cumsum(1) - size_RC, size_RC.sum(1, keepdim=True)], dim=1)
    return place_RL - start_RC.gather(1, held_RL)
