"""Dense references of the models that differ from TWIN in how what was searched is weighed and
summed. Pieces and losses: `tests.reference`; tables: `tests.reference_models`.

    sdim          one_space; sums whole histories by equal hashes, no search, no auxiliary head
    twin_v2       one_space; clusters of behaviours instead of behaviours
    twin_kdd23    one_space; several projected heads with a position's bias (arXiv:2302.02352)
    sim_hard      one_space; category search, the same heads: `sim_hard_heads`
    sim_soft      one_space; a search of its own, the same heads: `sim_soft_heads`

Letters: T targets, L slots of a row, oldest first, D width of a row, X of item and category
together, P of position, G groups of a hash, B bits of a group, H heads, W width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tests.reference import Form, Seen, Slots, attend, best, softmax
from tests.reference_models import Rows, Spaces, read, scores
from tests.reference_searches import category_ranks, hashes, own_scores, raw_sum

SHORTEST = 1e-12


def sdim(spaces: Spaces, directions: Tensor, slots: Slots) -> Seen:
    """Sum the rows whose bits all equal the target's, normalise each group's sum, average them.

    Args:
        spaces: `one_space`; the rows that are summed have their position, the hash has not.
        directions: [G, B, X]; fixed, no gradient passes.
        slots: ids.
    """
    rows = read(spaces, slots)
    target, history = hashes(rows, directions)
    equal_TLG = (target[:, None] == history).all(dim=-1) & slots.valid_TL[:, :, None]
    pooled = []
    for t in range(len(slots.valid_TL)):
        sums = []
        for group in range(len(directions)):
            collided = rows.representation_history[t][equal_TLG[t, :, group]]
            # The sum of no rows has no direction, and the gradient of its length is not a number.
            total = collided.sum(dim=0)
            sums.append(total / total.norm().clamp(min=SHORTEST) if len(collided) else total)
        pooled.append(torch.stack(sums).mean(dim=0))
    share = equal_TLG.to(rows.attention_target).mean(dim=-1)
    return Seen(rows.representation_target, torch.stack(pooled), None, weight_TL=share)


def twin_v2(spaces: Spaces, size_TL: Tensor, slots: Slots, form: Form) -> Seen:
    """Keep and attend to clusters, each by its medoid's row and the logarithm of its size.

    Args:
        spaces: `one_space`.
        size_TL: of each medoid its cluster's size, 0 elsewhere; see `cluster_sizes`.
        slots: ids.
        form: with `top_k`, which counts clusters, and the scale of the attention.
    """
    rows = read(spaces, slots)
    stands = (size_TL > 0) & slots.valid_TL
    size = torch.where(stands, size_TL, torch.ones_like(size_TL)).to(rows.attention_target)
    score = scores(rows, form) + size.log()
    return attend(
        rows.representation_target,
        rows.representation_history,
        score,
        kept=best(score, stands, form.top_k),
        valid=stands,
    )


def cluster_sizes(cluster_TL: Tensor, medoid_TL: Tensor, slots: Slots) -> Tensor:
    """Of each medoid its cluster's size, 0 elsewhere.

    Args:
        cluster_TL: of each behaviour any integer; equal ones of a row are one cluster.
        medoid_TL: True on the one behaviour of each cluster that stands for it.
        slots: which are behaviours.
    """
    size_TL = torch.zeros_like(cluster_TL)
    for t, valid in enumerate(slots.valid_TL):
        for number in cluster_TL[t][valid].unique():
            cluster = valid & (cluster_TL[t] == number)
            medoid = cluster & medoid_TL[t]
            assert medoid.sum() == 1, "a cluster has one medoid"
            size_TL[t, medoid] = cluster.sum()
    return size_TL


@dataclass(frozen=True)
class Heads:
    """Parameters of several heads; none has a bias of its own.

    A linear layer from X to all heads has weights [H * W, X]: `.view(H, W, X)` gives these.
    """

    query_HWX: Tensor
    key_HWX: Tensor
    value_HWD: Tensor
    """Its width may differ from that of query and key."""
    output: Tensor
    """[D, H * W], of the heads' values side by side."""
    position_P: Tensor
    """b, one for all heads: b . p_i is added to the score of a behaviour."""

    def decayed(self) -> list[Tensor]:
        """What the penalty covers."""
        return [self.query_HWX, self.key_HWX, self.value_HWD, self.output, self.position_P]


def twin_kdd23(spaces: Spaces, heads: Heads, slots: Slots, form: Form) -> Seen:
    """Search by the sum of the heads' scores, attend with each head's own.

    s_hi = (W_q^h q) . (W_k^h k_i) / sqrt(W) + b . p_i; h = W_o [sum_i w_hi W_v^h r_i for each h].

    Args:
        spaces: `one_space`; q and k are items and categories, r_i whole rows.
        heads: parameters.
        slots: ids.
        form: with `top_k`; the scale does not matter.
    """
    rows = read(spaces, slots)
    by_head = _scores_by_head(rows, heads)
    search = torch.stack(by_head).sum(dim=0)
    return _attend_by_head(rows, heads, by_head, search, slots, form)


def sim_hard_heads(spaces: Spaces, heads: Heads, slots: Slots, form: Form) -> Seen:
    """Search by category, then the newest; attend as `twin_kdd23`, all arguments alike."""
    rows = read(spaces, slots)
    search = category_ranks(slots)
    return _attend_by_head(rows, heads, _scores_by_head(rows, heads), search, slots, form)


def sim_soft_heads(
    spaces: Spaces,
    target_weight: Tensor,
    history_weight: Tensor,
    heads: Heads,
    slots: Slots,
    form: Form,
) -> Seen:
    """Search and auxiliary history as `sim_soft`, attend as `twin_kdd23`, arguments as in both.

    The auxiliary history is sum g_i e_i, past W_v and W_o: it trains the search alone.
    """
    rows = read(spaces, slots)
    search = own_scores(rows, target_weight, history_weight)
    seen = _attend_by_head(rows, heads, _scores_by_head(rows, heads), search, slots, form)
    return replace(seen, aux_history_TD=raw_sum(search, rows, slots))


def _scores_by_head(rows: Rows, heads: Heads) -> list[Tensor]:
    return [
        _head_score(rows, query, key, heads.position_P)
        for query, key in zip(heads.query_HWX, heads.key_HWX, strict=True)
    ]


def _attend_by_head(
    rows: Rows, heads: Heads, by_head: list[Tensor], search: Tensor, slots: Slots, form: Form
) -> Seen:
    """Each head weighs and sums the same behaviours."""
    kept = best(search, slots.valid_TL, form.top_k)

    def pool(among: Tensor) -> Tensor:
        pooled = []
        for score, weight in zip(by_head, heads.value_HWD, strict=True):
            value = rows.representation_history @ weight.T
            pooled.append((softmax(score, among)[:, :, None] * value).sum(dim=1))
        return torch.cat(pooled, dim=-1) @ heads.output.T

    mean = torch.stack([softmax(score, kept) for score in by_head]).mean(dim=0)
    return Seen(rows.representation_target, pool(kept), pool(slots.valid_TL), search, kept, mean)


def _head_score(rows: Rows, query: Tensor, key: Tensor, position: Tensor) -> Tensor:
    width = rows.attention_history.shape[-1] - rows.position_width
    target = rows.attention_target[:, :width] @ query.T
    history = rows.attention_history[..., :width] @ key.T
    dots = (target[:, None, :] * history).sum(dim=-1) / math.sqrt(query.shape[0])
    return dots + rows.attention_history[..., width:] @ position
