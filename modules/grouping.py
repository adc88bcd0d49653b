"""Behaviours put together without looking at the target: hash bits and clusters.

Letters: R requests, M targets, L behaviours of the longest history or part, B bits, C parts of a
history, H places of half a part, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from modules.views import Seen

_AS_NEAR = 1e-4
"""Of a distance and of its cluster's mean: distances that differ by less count as equal."""


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

    def pair(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Bits of targets and behaviours as attention sees them: 1 or -1, [R, M, B] and [R, L, B].

        Padding has bits too.
        """
        return self.bits(seen.target_RMD("attention_target"), seen.history_RLD("attention_history"))

    @torch.no_grad()
    def bits(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Bits of vectors, 1 or -1, in the last dimension."""
        return self._bits(one), self._bits(other)

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
    found, and the part is cut along the line between them into two of equal size, so that the
    number of rounds depends on the longest history alone. The behaviour nearest to its cluster's
    mean stands for it, the newest of equals.

    Args:
        value_RLD: rows of the behaviours.
        behaviour_RL: where there is one.
        most: behaviours of a cluster at most.
    """
    requests, length, _ = value_RLD.shape
    column_RL = torch.arange(length, device=value_RLD.device).expand(requests, -1)
    parts = _Parts(
        value_RLD.float().unsqueeze(1), column_RL.unsqueeze(1), behaviour_RL.sum(1, keepdim=True)
    )
    while parts.column_RCL.size(2) > most:
        parts = _halved(parts, most)
    mean_RC1D = _mean(parts, parts.valid()).unsqueeze(2)
    distance_RCL = (parts.value_RCLD - mean_RC1D).norm(dim=3)
    distance_RCL = distance_RCL.masked_fill(~parts.valid(), torch.inf)
    # Of two behaviours, or of equal ones, all are as near to their mean: not rounding decides, but
    # age. Rounding grows with the rows as well as with the distance.
    least_RC1 = distance_RCL.amin(dim=2, keepdim=True)
    far_RCL = distance_RCL > least_RC1 + _AS_NEAR * (least_RC1 + mean_RC1D.norm(dim=3))
    newest_RC = parts.column_RCL.masked_fill(far_RCL, length).amin(dim=2)
    size_RC = parts.size_RC
    newest_RC = newest_RC.where(size_RC > 0, length)  # One more column, for empty parts.
    log_RL = torch.zeros(requests, length + 1, device=value_RLD.device)
    log_RL.scatter_(1, newest_RC, size_RC.clamp(min=1).float().log())
    member_RL = torch.zeros(requests, length + 1, dtype=torch.bool, device=value_RLD.device)
    member_RL.scatter_(1, newest_RC, value=True)
    return Clusters(member_RL[:, :length], log_RL[:, :length])


class _Parts(NamedTuple):
    """Behaviours in C parts a request, the first `size` of each part's L places filled."""

    value_RCLD: Tensor
    column_RCL: Tensor
    """Where each behaviour is in its history."""
    size_RC: Tensor

    def valid(self) -> Tensor:
        """True on filled places, [R, C, L]."""
        place_L = torch.arange(self.column_RCL.size(2), device=self.size_RC.device)
        return place_L < self.size_RC.unsqueeze(2)


def _halved(parts: _Parts, most: int) -> _Parts:
    """Twice as many parts; one that is small enough has an empty other half."""
    valid_RCL = parts.valid()
    first_RCD = _mean(parts, valid_RCL)
    second_RCD = first_RCD
    for _ in range(2):  # The farthest from the mean, then the farthest from that one.
        distance_RCL = _distance(parts, first_RCD).masked_fill(~valid_RCL, -torch.inf)
        farthest_RC1 = distance_RCL.argmax(dim=2, keepdim=True)
        farthest_RCD = _rows(parts.value_RCLD, farthest_RC1).squeeze(2)
        second_RCD, first_RCD = first_RCD, farthest_RCD
    # One round of 2-means: those nearer to the one, those nearer to the other.
    along_RCL = _along(parts, second_RCD - first_RCD)
    middle_RC = ((second_RCD + first_RCD) * (second_RCD - first_RCD)).sum(dim=2) / 2
    nearer_RCL = along_RCL > middle_RC.unsqueeze(2)
    axis_RCD = _mean(parts, valid_RCL & nearer_RCL) - _mean(parts, valid_RCL & ~nearer_RCL)
    along_RCL = _along(parts, axis_RCD).masked_fill(~valid_RCL, torch.inf)
    order_RCL = along_RCL.argsort(dim=2, stable=True)
    # Places in that order: the first half of the filled ones, then the second.
    longest = order_RCL.size(2)
    half = max((longest + 1) // 2, most)
    first_RC = parts.size_RC.where(parts.size_RC <= most, (parts.size_RC + 1) // 2)
    place_H = torch.arange(half, device=order_RCL.device)
    start_RC2 = torch.stack([torch.zeros_like(first_RC), first_RC], dim=2)
    place_RC2H = (start_RC2.unsqueeze(3) + place_H).clamp(max=longest - 1)
    chosen_RCL = order_RCL.gather(2, place_RC2H.flatten(2))
    sizes_RC2 = torch.stack([first_RC, parts.size_RC - first_RC], dim=2)
    value_RCLD = _rows(parts.value_RCLD, chosen_RCL)
    column_RCL = parts.column_RCL.gather(2, chosen_RCL)
    return _Parts(
        torch.unflatten(value_RCLD, 2, (2, half)).flatten(1, 2),
        torch.unflatten(column_RCL, 2, (2, half)).flatten(1, 2),
        sizes_RC2.flatten(1),
    )


def _rows(value_RCLD: Tensor, place_RCK: Tensor) -> Tensor:
    """Rows of chosen places: value_RCKD."""
    place_RCKD = place_RCK.unsqueeze(3).expand(-1, -1, -1, value_RCLD.size(3))
    return value_RCLD.gather(2, place_RCKD)


def _mean(parts: _Parts, chosen_RCL: Tensor) -> Tensor:
    """Mean of the chosen behaviours of each part, zeros where none is: mean_RCD."""
    weight_RCL = chosen_RCL.float()
    weight_RCL = weight_RCL / weight_RCL.sum(dim=2, keepdim=True).clamp(min=1)
    return (weight_RCL.unsqueeze(3) * parts.value_RCLD).sum(dim=2)


def _along(parts: _Parts, axis_RCD: Tensor) -> Tensor:
    """Products of behaviours with an axis of their part: along_RCL."""
    return (parts.value_RCLD * axis_RCD.unsqueeze(2)).sum(dim=3)


def _distance(parts: _Parts, centre_RCD: Tensor) -> Tensor:
    """Squared distances of behaviours from a point of their part: distance_RCL."""
    return (parts.value_RCLD - centre_RCD.unsqueeze(2)).square_().sum(dim=3)
