"""Dense references of the models that differ from TWIN in how what was searched is weighed and
summed. Pieces and losses: `tests.reference`; tables: `tests.reference_models`.

    sdim          one_space; sums whole histories by equal hashes, no search, no auxiliary head
    twin_v2       one_space; clusters of behaviours instead of behaviours
    twin_kdd23    one_space; several projected heads with a position's bias (arXiv:2302.02352)

Letters: T targets, L slots of a row, oldest first, D width of a row, X of item and category
together, P of position, G groups of a hash, B bits of a group, H heads, W width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.reference import Form, Seen, Slots, attend, best, softmax
from tests.reference_models import Rows, Spaces, read, scores
from tests.reference_searches import hashes

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
    equal_TLG = (target[:, None] == history).all(dim=-1)
    pooled = []
    for t in range(len(slots.valid_TL)):
        sums = []
        for group in range(len(directions)):
            collided = rows.representation_history[t][slots.valid_TL[t] & equal_TLG[t, :, group]]
            # The sum of no rows has no direction, and the gradient of its length is not a number.
            total = collided.sum(dim=0)
            sums.append(total / total.norm().clamp(min=SHORTEST) if len(collided) else total)
        pooled.append(torch.stack(sums).mean(dim=0))
    return Seen(rows.representation_target, torch.stack(pooled), None)


def twin_v2(
    spaces: Spaces, cluster_TL: Tensor, medoid_TL: Tensor, slots: Slots, form: Form
) -> Seen:
    """Keep and attend to clusters, each by its medoid's row and the logarithm of its size.

    Args:
        spaces: `one_space`.
        cluster_TL: of each behaviour, any integer; slots of a row with equal numbers are one
            cluster. On padding anything.
        medoid_TL: True on the one behaviour of each cluster that stands for it.
        slots: ids.
        form: with `top_k`, which counts clusters, and the scale of the attention.
    """
    size_TL = torch.ones_like(cluster_TL)
    for t, valid in enumerate(slots.valid_TL):
        for slot in valid.nonzero().flatten().tolist():
            cluster = valid & (cluster_TL[t] == cluster_TL[t, slot])
            assert (cluster & medoid_TL[t]).sum() == 1, "a cluster has one medoid"
            size_TL[t, slot] = cluster.sum()
    rows = read(spaces, slots)
    score = scores(rows, form)
    score = score + size_TL.to(score).log()
    stands = medoid_TL & slots.valid_TL
    return attend(
        rows.representation_target,
        rows.representation_history,
        score,
        kept=best(score, stands, form.top_k),
        valid=stands,
    )


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
    by_head = [
        _head_score(rows, query, key, heads.position_P)
        for query, key in zip(heads.query_HWX, heads.key_HWX, strict=True)
    ]
    search = torch.stack(by_head).sum(dim=0)
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
