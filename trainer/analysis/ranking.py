"""How good an order of behaviours is: discounted gains and hits of its first k.

Letters: T targets, L behaviours, K ranks looked at.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Quality(NamedTuple):
    """Of each target's order at k = 1 ... K; NaN where no behaviour has any gain."""

    ndcg_TK: Tensor
    """DCG@k over the best DCG@k there can be: 1 for the best order, at every k."""
    published_TK: Tensor
    """The paper's curve, DCG@k over the best DCG@K; the same as `ndcg_TK` at k = K only."""
    hit_rate_TK: Tensor
    """Share of the best k that is among the first k."""
    published_hits_TK: Tensor
    """How many of the best K are among the first k, the paper's count."""


def rank_quality(score_TL: Tensor, gain_TL: Tensor, valid_TL: Tensor, depth: int) -> Quality:
    """Judge the order of a score by the gain of what it puts first.

    `DCG@k = sum_{i=1..k} gain_(i) / log2(i + 1)`. Behaviours of equal score share the mean of
    their gains, so that the result is the mean over all orders of them (as in scikit-learn); for
    hits the newer of equals comes first.

    Args:
        score_TL: any real numbers; what is first has the largest.
        gain_TL: 0 or more.
        valid_TL: False on padding, which is no part of any order.
        depth: K; histories may be shorter.
    """
    gain_TL = gain_TL.double().masked_fill(~valid_TL, 0.0)
    gained_TK = _discounted(_by_rank(score_TL, gain_TL, valid_TL), depth)
    best_TK = _discounted(gain_TL.sort(dim=1, descending=True).values, depth)
    without_T1 = best_TK[:, -1:] <= 0

    def undefined(value_TK: Tensor) -> Tensor:
        return value_TK.masked_fill(without_T1, torch.nan)

    first_TL, best_TL = _ranks(score_TL, valid_TL), _ranks(gain_TL, valid_TL)
    both_TL = torch.maximum(first_TL, best_TL)
    among_best_TL = first_TL.where(best_TL < depth, depth)
    rank_K = torch.arange(1, depth + 1)
    findable_TK = torch.minimum(valid_TL.sum(1, keepdim=True), rank_K).clamp(min=1)
    return Quality(
        undefined(gained_TK / best_TK),
        undefined(gained_TK / best_TK[:, -1:]),
        undefined(_count_below(both_TL, valid_TL, depth) / findable_TK),
        undefined(_count_below(among_best_TL, valid_TL, depth)),
    )


def _masked(score_TL: Tensor, valid_TL: Tensor) -> Tensor:
    """The scores, padding below all others."""
    score_TL = score_TL.double()
    return score_TL.clamp(min=torch.finfo(score_TL.dtype).min).masked_fill(~valid_TL, -torch.inf)


def _by_rank(score_TL: Tensor, gain_TL: Tensor, valid_TL: Tensor) -> Tensor:
    """Gains in the order of the score, equal scores with the mean of their gains."""
    sorted_TL, order_TL = _masked(score_TL, valid_TL).sort(dim=1, descending=True, stable=True)
    ranked_TL = gain_TL.gather(1, order_TL)
    changes_TL = torch.zeros_like(order_TL)
    changes_TL[:, 1:] = sorted_TL[:, 1:] != sorted_TL[:, :-1]
    group_TL = changes_TL.cumsum(1)
    total_TL = torch.zeros_like(ranked_TL).scatter_add(1, group_TL, ranked_TL)
    count_TL = torch.zeros_like(ranked_TL).scatter_add(1, group_TL, torch.ones_like(ranked_TL))
    return (total_TL / count_TL.clamp(min=1)).gather(1, group_TL)


def _discounted(ranked_TL: Tensor, depth: int) -> Tensor:
    """Sums of the first k gains, each over the logarithm of its rank."""
    ranked_TK = ranked_TL[:, :depth]
    ranked_TK = torch.nn.functional.pad(ranked_TK, (0, depth - ranked_TK.size(1)))
    discount_K = torch.arange(2, depth + 2, dtype=torch.float64).log2()
    return (ranked_TK / discount_K).cumsum(1)


def _ranks(score_TL: Tensor, valid_TL: Tensor) -> Tensor:
    """Rank of each behaviour, 0 for the first; the newer of equals comes first."""
    order_TL = _masked(score_TL, valid_TL).argsort(dim=1, descending=True, stable=True)
    rank_TL = torch.arange(score_TL.size(1)).expand_as(order_TL)
    return torch.empty_like(order_TL).scatter_(1, order_TL, rank_TL)


def _count_below(rank_TL: Tensor, valid_TL: Tensor, depth: int) -> Tensor:
    """How many ranks are below k, for k = 1 ... K."""
    count_TK = torch.zeros(rank_TL.size(0), depth + 1, dtype=torch.float64)
    count_TK.scatter_add_(1, rank_TL.clamp(max=depth), valid_TL.double())
    return count_TK[:, :depth].cumsum(1)
