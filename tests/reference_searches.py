"""Dense references of the models that differ from TWIN in what the search ranks by. Pieces and
losses: `tests.reference`; tables and projections: `tests.reference_models`.

    din          two tables only; the scorer is an MLP, for search and attention
    twin_hard    one_space; category search, dot attention: `category_search`, or with the released
                 code's score, `released_twin_hard`
    eta          one_space; Hamming distance of signs, dot attention
    sim_hard     one_space; category search and dot attention, `category_search`; published with
                 several heads, as in `tests.reference_attentions`
    sim_soft     one_space; a search of its own and dot attention; likewise

Letters: T targets, L slots of a row, oldest first, D width of a row, S width of a search head,
B bits of a hash, X width of item and category together.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tests.reference import Form, Seen, Slots, attend, best, dot_score, weigh
from tests.reference_models import Layers, Rows, Spaces, read, scores


def din(spaces: Spaces, scorer: Layers, slots: Slots, form: Form) -> Seen:
    """Score MLP([q; k; q - k; q * k]) / D for search and attention.

    Args:
        spaces: without position tables; D is the width of item and category.
        scorer: weights [36, 4 D] and [1, 36], biases [36] and [1], one slope [1].
        slots: ids.
        form: with `top_k`; the scale does not matter.
    """
    rows = read(spaces, slots)
    key = rows.attention_history
    query = rows.attention_target[:, None, :].expand_as(key)
    features = torch.cat([query, key, query - key, query * key], dim=-1)
    score = scorer(features).squeeze(-1) / key.shape[-1]
    return _attend(rows, score, best(score, slots.valid_TL, form.top_k), slots)


def category_search(spaces: Spaces, slots: Slots, form: Form) -> Seen:
    """Keep the newest behaviours of the target's category, then the newest others; attend by dots.

    Args:
        spaces: any.
        slots: ids; the category of ids is compared, not of rows.
        form: with `top_k` and the scale of the attention.
    """
    rows = read(spaces, slots)
    return _attend_by_category(rows, scores(rows, form), slots, form)


def released_twin_hard(spaces: Spaces, slots: Slots, form: Form) -> Seen:
    """As `category_search`, with the released code's score, in which position counts twice.

    s_i = q . k_i / sqrt(D) + q_pos . k_pos / sqrt(d_pos), where q . k has the position too.
    """
    rows = read(spaces, slots)
    query, key, width = rows.attention_target, rows.attention_history, rows.position_width
    whole = dot_score(query, key, width, two_term=False)
    position = dot_score(query[..., -width:], key[..., -width:], width, two_term=False)
    return _attend_by_category(rows, whole + position, slots, form)


def sim_soft(
    spaces: Spaces, target_weight: Tensor, history_weight: Tensor, slots: Slots, form: Form
) -> Seen:
    """Search by g_i = (W_a v) . (W_b e_i); attend by dots; the auxiliary history is sum g_i e_i.

    Args:
        spaces: `one_space`; v and e_i are whole rows, position included.
        target_weight: W_a, [S, D], without bias.
        history_weight: W_b, [S, D], without bias.
        slots: ids.
        form: with `top_k` and the scale of the attention.
    """
    rows = read(spaces, slots)
    search = own_scores(rows, target_weight, history_weight)
    kept = best(search, slots.valid_TL, form.top_k)
    seen = _attend(rows, scores(rows, form), kept, slots)
    return replace(seen, aux_history_TD=raw_sum(search, rows, slots), score_TL=search)


def own_scores(rows: Rows, target_weight: Tensor, history_weight: Tensor) -> Tensor:
    """g_i = (W_a v) . (W_b e_i), [T, L]."""
    target = rows.attention_target @ target_weight.T
    history = rows.attention_history @ history_weight.T
    return (target[:, None, :] * history).sum(dim=-1)


def raw_sum(score_TL: Tensor, rows: Rows, slots: Slots) -> Tensor:
    """Sum of all behaviours' rows by their raw scores, [T, D]."""
    raw = torch.where(slots.valid_TL, score_TL, torch.zeros_like(score_TL))
    return weigh(raw, rows.representation_history)


def eta(spaces: Spaces, directions: Tensor, slots: Slots, form: Form) -> Seen:
    """Keep the smallest Hamming distances, of equal ones the most recent; attend by dots.

    Args:
        spaces: `one_space`.
        directions: H, [B, X]; fixed, no gradient passes.
        slots: ids.
        form: with `top_k` and the scale of the attention.
    """
    rows = read(spaces, slots)
    target, history = hashes(rows, directions)
    distance = (target[:, None, :] != history).sum(dim=-1)
    kept = best(-distance, slots.valid_TL, form.top_k)
    return replace(_attend(rows, scores(rows, form), kept, slots), score_TL=-distance)


def hashes(rows: Rows, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Bits of targets [T, ...] and behaviours [T, L, ...]: 1 where H . x is 0 or more.

    Args:
        rows: their item and category parts are hashed, as attention reads them.
        directions: [..., X].
    """
    width = rows.attention_history.shape[-1] - rows.position_width
    target = torch.einsum("tx,...x->t...", rows.attention_target[:, :width], directions)
    history = torch.einsum("tlx,...x->tl...", rows.attention_history[..., :width], directions)
    return target >= 0, history >= 0


def category_ranks(slots: Slots) -> Tensor:
    """The larger the better: first behaviours of the target's category, then the newer, [T, L]."""
    same = slots.ids_TL["category"] == slots.target_T["category"][:, None]
    position_TL = slots.ids_TL["position"]
    return torch.where(same, position_TL.max() + 1, 0) - position_TL


def _attend_by_category(rows: Rows, score: Tensor, slots: Slots, form: Form) -> Seen:
    rank = category_ranks(slots)
    kept = best(rank, slots.valid_TL, form.top_k)
    return replace(_attend(rows, score, kept, slots), score_TL=rank)


def _attend(rows: Rows, score: Tensor, kept: Tensor, slots: Slots) -> Seen:
    return attend(
        rows.representation_target,
        rows.representation_history,
        score,
        kept=kept,
        valid=slots.valid_TL,
    )
