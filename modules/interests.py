"""Several searches a target, each made one interest, and the target's attention to these: MIRRN.

A user's interests have three granularities: what is like the target, like the newest behaviours,
like the whole life. Each is a query with a search of its own; what a search keeps is mixed along
time, averaged, and the target attends to the three means (arXiv:2411.15005).

Letters: R requests, T targets, M targets of the fullest request, Q = M + 2 queries a request (its
targets, its newest behaviours, all of them), L behaviours of the longest history, K kept a query,
G = 3 interests a target, C = 2 parts of a complex number, H heads, W width of a head, D width of
item, category and position together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from modules.grouping import SimHash
from modules.representation import Kept
from modules.search_scorers import newest_of_equals
from modules.views import Seen

_OWN = 2
"""Queries that a request has beside its targets: its newest behaviours, all behaviours."""


class InterestScorer(nn.Module):
    """Hash bits that each query and a behaviour share; of as many shared, the newer is better.

    Queries are the targets, then the mean of the newest behaviours, then the mean of all. Hashing
    has no gradient.

    Args:
        width: of item and category together.
        bits: of the hash.
        recent: how many behaviours are the newest.
    """

    def __init__(self, width: int, bits: int, recent: int) -> None:
        super().__init__()
        self.hash, self.recent = SimHash(width, bits), recent

    def forward(self, seen: Seen) -> Tensor:
        """Compare every behaviour of a request with each of its queries: score_RQL."""
        history_RLD = seen.history_RLD("attention_history").detach()
        behaviour_RL = seen.grid.behaviour_RL()
        newest_L = torch.arange(behaviour_RL.size(1), device=behaviour_RL.device) < self.recent
        chosen_RCL = torch.stack([behaviour_RL & newest_L, behaviour_RL], dim=1)
        mean_RCD = shares(chosen_RCL).to(history_RLD.dtype) @ history_RLD
        query_RQD = torch.cat([seen.target_RMD("attention_target"), mean_RCD], dim=1)
        query_RQB, history_RLB = self.hash.bits(query_RQD, history_RLD)
        return newest_of_equals(query_RQB @ history_RLB.transpose(1, 2))


class FourierFilter(nn.Module):
    """`LN(X + F^-1(F(X) W))`: mixes behaviours along time, and the numbers within each head.

    F is the discrete Fourier transform over the K behaviours, W = A + i B a complex matrix a head,
    the same at all frequencies. So F^-1(F(X) W) = X A + J X B with J = F^-1 i F, a real matrix
    [K, K] that is known beforehand: no transform is taken, and no number is complex. (The released
    code has such matrices and multiplies by their diagonals.)

    Args:
        width: D.
        heads: H.
        length: K of a full search; shorter ones are padded with zeros behind the oldest.
    """

    turned_KK: Tensor

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.weight_CHWW = nn.Parameter(
            0.02 * torch.randn(2, heads, width // heads, width // heads)
        )
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.register_buffer("turned_KK", turned(length), persistent=False)

    def forward(self, value_RQKD: Tensor) -> Tensor:
        """Refine behaviours, newest first; zeros where there is none."""
        real_DD, imaginary_DD = (_diagonal(part_HWW) for part_HWW in self.weight_CHWW)
        length = value_RQKD.size(2)
        turned_RQKD = self.turned_KK[:length, :length].to(value_RQKD.dtype) @ value_RQKD
        refined: Tensor = self.norm(value_RQKD + value_RQKD @ real_DD + turned_RQKD @ imaginary_DD)
        return refined


class Interests(nn.Module):
    """From what the searches of all queries kept to one history a target.

    Args:
        width: of representation with its position, D.
        heads: of the filters and of the target's attention, H.
        length: behaviours that a search keeps, K.
    """

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.filters = nn.ModuleList(FourierFilter(width, heads, length) for _ in range(1 + _OWN))
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, seen: Seen, kept: Kept) -> tuple[Tensor, Tensor, Kept]:
        """Refine, average, attend.

        Args:
            seen: the batch.
            kept: of each query, [R, Q, K], with its share in the mean as weight.

        Returns:
            The targets, target_TD; their histories, history_RMD; and all that was kept for each
            target, [R, M, G * K], with its attention. One behaviour may be there several times.
        """
        # Columns count from the newest behaviour, and those of padding come last.
        index_RQK, order_RQK = kept.index_RMK.sort(dim=2)
        kept = Kept(
            index_RQK, kept.valid_RMK.gather(2, order_RQK), kept.weight_RMK.gather(2, order_RQK)
        )
        row_RQKD = seen.kept_rows("representation_history", index_RQK)
        position_RQKP = seen.history_position("representation_history")[index_RQK]
        value_RQKD = torch.cat([row_RQKD, position_RQKP], dim=3)
        # Not multiplied: what padding reads may be anything.
        value_RQKD = value_RQKD.masked_fill(~kept.valid_RMK.unsqueeze(3), 0.0)
        interest_RQD = self._interests(value_RQKD, kept.weight_RMK)
        target_TD = seen.joined_targets("representation_target")
        history_RMD, weight_RMG = self._attend(seen.grid.targets(target_TD), interest_RQD)
        told = Kept(*(_of_targets(part).flatten(2) for part in kept))
        weight_RMC = (_of_targets(kept.weight_RMK) * weight_RMG.unsqueeze(3)).flatten(2)
        return target_TD, history_RMD, told._replace(weight_RMK=weight_RMC)

    def _interests(self, value_RQKD: Tensor, share_RQK: Tensor) -> Tensor:
        """One a query, interest_RQD."""
        parts = torch.split(value_RQKD, [value_RQKD.size(1) - _OWN, *[1] * _OWN], dim=1)
        refined = [each(part) for each, part in zip(self.filters, parts, strict=True)]
        return (share_RQK.unsqueeze(2) @ torch.cat(refined, dim=1)).squeeze(2)

    def _attend(self, target_RMD: Tensor, interest_RQD: Tensor) -> tuple[Tensor, Tensor]:
        """history_RMD, and the attention to each interest as a mean over heads, weight_RMG."""
        query_RMHW = torch.unflatten(self.query(target_RMD), 2, (self.heads, -1))
        key_RMGHW, value_RMGHW = (
            torch.unflatten(_of_targets(matrix(interest_RQD)), 3, (self.heads, -1))
            for matrix in (self.key, self.value)
        )
        # Sums instead of matrix products, in whose shapes torch.export loses the targets' number.
        score_RMGH = (query_RMHW.unsqueeze(2) * key_RMGHW).sum(dim=4)
        weight_RMGH = torch.softmax(score_RMGH / math.sqrt(query_RMHW.size(3)), dim=2)
        sum_RMHW = (weight_RMGH.unsqueeze(4) * value_RMGHW).sum(dim=2)
        return self.output(sum_RMHW.flatten(2)), weight_RMGH.mean(dim=3)


def shares(valid_RQK: Tensor) -> Tensor:
    """An equal part of 1 for each valid entry of the last dimension, float32; 0 for others."""
    return valid_RQK / valid_RQK.sum(dim=2, keepdim=True).clamp(min=1)


def turned(length: int) -> Tensor:
    """J = F^-1 i F over so many places, [K, K]: sines become cosines, means and alternations 0."""
    spectrum_FK = torch.fft.rfft(torch.eye(length, dtype=torch.float64), dim=0)
    spectrum_FK[0] = 0
    if length % 2 == 0:
        spectrum_FK[-1] = 0
    return torch.fft.irfft(1j * spectrum_FK, n=length, dim=0).float().contiguous()


def _diagonal(part_HWW: Tensor) -> Tensor:
    """The heads' matrices along the diagonal of one, [D, D]."""
    heads, width, _ = part_HWW.shape
    whole_HWHW = part_HWW.new_zeros(heads, width, heads, width)
    head_H = torch.arange(heads, device=part_HWW.device)
    whole_HWHW[head_H, :, head_H] = part_HWW
    return whole_HWHW.view(heads * width, heads * width)


def _of_targets(value_RQ: Tensor) -> Tensor:
    """What is there a query, for each target its own and the two of its request: [R, M, G, ...]."""
    targets = value_RQ.size(1) - _OWN
    own = value_RQ[:, :targets].unsqueeze(2)
    of_request = value_RQ[:, targets:].unsqueeze(1)
    return torch.cat([own, of_request.expand(-1, targets, *of_request.shape[2:])], dim=2)
