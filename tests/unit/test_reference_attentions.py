"""The dense references of other attentions and sums, by hand and by finite differences."""

import dataclasses
import math

import pytest
import torch

from tests import reference_attentions as attentions
from tests import reference_models as models
from tests import reference_searches as searches
from tests.reference import Form, Row, lay, padded
from tests.reference_attentions import Heads
from tests.reference_world import (
    LN2,
    LN3,
    LN5,
    ROWS,
    as_tables,
    check_gradients,
    close,
    column,
    draw,
    drawn_tables,
    hand_slots,
    hand_tables,
    vector,
)

FORM = Form(top_k=2, norm="layer")
HAND = models.one_space(hand_tables())
SIGNS = {
    "item": column(0, 1, 3, -1, 2),
    "category": column(0, 1, -4),
    "position": column(5, 4, 4, 0),
}
AXES = torch.eye(2, dtype=torch.float64)[:, None, :]
"""Two groups of one bit: the sign of the item, the sign of the category."""


def test_sdim_sums_by_equal_hashes_and_averages_directions():
    # Behaviours (3, 1, 0), (-1, -4, 4), (2, -4, 4); the target's signs are + and +. By items the
    # first and the last, by categories the first alone.
    seen = attentions.sdim(models.one_space(SIGNS), AXES, hand_slots())
    close(seen.weight_TL[0], vector(1, 0, 0.5))
    by_items = vector(5, -3, 4) / math.sqrt(50)
    by_categories = vector(3, 1, 0) / math.sqrt(10)
    close(seen.history_TD[0], (by_items + by_categories) / 2)
    close(seen.target_TD[0], vector(1, 1, 5))
    assert seen.aux_history_TD is None


def test_bits_of_a_group_must_all_be_equal():
    both = torch.eye(2, dtype=torch.float64)[None]
    seen = attentions.sdim(models.one_space(SIGNS), both, hand_slots())
    close(seen.history_TD[0], vector(3, 1, 0) / math.sqrt(10))


def test_sdim_of_equal_rows_is_the_row_at_length_1():
    tables = {**drawn_tables(1), "position": vector(0.3, -0.4).expand(6, 2)}
    slots = padded([Row(target=(1, 1), history=[(1, 1)] * 5, label=1.0)])
    seen = attentions.sdim(models.one_space(tables), draw(3, 4, 4, seed=1), slots)
    close(seen.history_TD, seen.target_TD / seen.target_TD.norm())


def test_sdim_of_no_collision_is_zero_and_its_gradient_finite():
    tables = {f: table.requires_grad_() for f, table in SIGNS.items()}
    slots = padded([Row(target=(1, 1), history=[(3, 2)], label=1.0)])
    seen = attentions.sdim(models.one_space(tables), AXES, slots)
    close(seen.history_TD.detach(), torch.zeros(1, 3, dtype=torch.float64))
    seen.history_TD.sum().backward()
    assert all(table.grad.eq(0).all() for table in tables.values())


def test_a_cluster_is_its_medoid_and_the_logarithm_of_its_size():
    cluster = torch.tensor([[7, 7, 3]])
    medoid = torch.tensor([[False, True, True]])
    size = attentions.cluster_sizes(cluster, medoid, hand_slots())
    assert size.tolist() == [[0, 2, 1]]
    seen = attentions.twin_v2(HAND, size, hand_slots(), FORM)
    close(seen.score_TL[0, 1:], vector(LN3 + LN2, 0))
    assert seen.kept_TL.tolist() == [[False, True, True]]
    close(seen.weight_TL[0], vector(0, 6 / 7, 1 / 7))
    close(seen.history_TD[0], vector(6 / 7 * LN3, 1, 0))
    close(seen.aux_history_TD, seen.history_TD)
    one = attentions.twin_v2(HAND, size, hand_slots(), Form(top_k=1))
    close(one.weight_TL[0], vector(0, 1, 0))
    close(one.aux_history_TD, seen.history_TD)


def test_clusters_of_one_are_twin():
    slots = padded(ROWS)
    spaces = models.one_space(drawn_tables(2))
    numbers = lay([range(len(row.history)) for row in ROWS], 5)
    size = attentions.cluster_sizes(numbers, torch.ones(4, 5, dtype=torch.bool), slots)
    assert torch.equal(size, slots.valid_TL.long())
    seen = attentions.twin_v2(spaces, size, slots, FORM)
    twin = models.dot_attention(spaces, slots, FORM)
    close(seen.history_TD, twin.history_TD)
    close(seen.aux_history_TD, twin.aux_history_TD)


def test_a_cluster_without_a_medoid_is_refused():
    cluster = torch.tensor([[7, 7, 3]])
    medoid = torch.tensor([[False, True, False]])
    with pytest.raises(AssertionError, match="a cluster has one medoid"):
        attentions.cluster_sizes(cluster, medoid, hand_slots())


def hand_heads() -> Heads:
    """Heads of width 1: the second's scores are twice the first's."""
    return Heads(
        torch.tensor([[[1 / math.sqrt(2), 0]], [[math.sqrt(2), 0]]], dtype=torch.float64),
        torch.tensor([[[1, 0]], [[1, 0]]], dtype=torch.float64),
        torch.tensor([[[0, 1, 0]], [[0, 0, 1]]], dtype=torch.float64),
        torch.tensor([[1, 0], [0, 2], [1, 1]], dtype=torch.float64),
        vector(1),
    )


def test_heads_attend_on_their_own_to_what_they_search_together():
    seen = attentions.twin_kdd23(HAND, hand_heads(), hand_slots(), FORM)
    # ln 10, ln 3, 0 of the first and ln 20, ln 9, 0 of the second: b counts once in each.
    close(seen.score_TL[0], vector(math.log(200), math.log(27), 0))
    category, position = 3 / 13, 20 * LN5 / 29
    close(seen.history_TD[0], vector(category, 2 * position, category + position))
    category, position = 4 / 14, 20 * LN5 / 30
    close(seen.aux_history_TD[0], vector(category, 2 * position, category + position))
    close(seen.target_TD[0], vector(math.sqrt(2), 0, 1))
    close(seen.weight_TL[0], vector(10 / 13 + 20 / 29, 3 / 13 + 9 / 29, 0) / 2)


def test_a_head_s_score_is_over_the_root_of_its_width():
    heads = hand_heads()
    heads = dataclasses.replace(
        heads, query_HWX=heads.query_HWX.repeat(1, 4, 1), key_HWX=heads.key_HWX.repeat(1, 4, 1)
    )
    seen = attentions.twin_kdd23(HAND, heads, hand_slots(), FORM)
    # The products are four times as large and halved; the bias is not.
    close(seen.score_TL[0], vector(2 * math.log(8) + 2 * LN5, 2 * math.log(27), 0))


def test_one_head_of_identities_is_twin():
    tables = drawn_tables(2, (2, 2, 3))
    whole = torch.eye(7, dtype=torch.float64)
    heads = Heads(
        torch.eye(4, dtype=torch.float64)[None],
        torch.eye(4, dtype=torch.float64)[None],
        whole[None],
        whole,
        tables["position"][0] / math.sqrt(3),
    )
    slots = padded(ROWS)
    seen = attentions.twin_kdd23(models.one_space(tables), heads, slots, FORM)
    twin = models.dot_attention(models.one_space(tables), slots, FORM)
    close(seen.score_TL, twin.score_TL)
    close(seen.history_TD, twin.history_TD)
    close(seen.aux_history_TD, twin.aux_history_TD)


def test_heads_attend_to_what_another_search_keeps():
    slots = hand_slots()
    seen = attentions.sim_hard_heads(HAND, hand_heads(), slots, FORM)
    assert seen.kept_TL.tolist() == [[True, False, True]]
    # 10 and 1 of the first head, 20 and 1 of the second.
    category, position = 1 / 11, 20 * LN5 / 21
    close(seen.history_TD[0], vector(category, 2 * position, category + position))
    own = vector(0, 0, 1)[None], vector(1, 1, 0)[None]
    seen = attentions.sim_soft_heads(HAND, *own, hand_heads(), slots, FORM)
    assert seen.kept_TL.tolist() == [[False, True, True]]
    # No position has a value; every category is 1.
    close(seen.history_TD[0], vector(1, 0, 1))
    close(seen.aux_history_TD, searches.sim_soft(HAND, *own, slots, FORM).aux_history_TD)


def sdim_model(item, category, position, slots, _form):
    spaces = models.one_space(as_tables(item, category, position))
    return attentions.sdim(spaces, draw(3, 1, 4, seed=52), slots)


def cluster_model(item, category, position, slots, form):
    spaces = models.one_space(as_tables(item, category, position))
    cluster = lay([[1, 2, 1, 3, 2], [1, 2, 1, 3, 2], [1], []], 5)
    medoid = lay([[1, 0, 0, 1, 1], [0, 1, 1, 1, 0], [1], []], 5).bool()
    size = attentions.cluster_sizes(cluster, medoid, slots)
    return attentions.twin_v2(spaces, size, slots, form)


def own_search_model(*arguments):
    item, category, position, target, history, *heads, slots, form = arguments
    spaces = models.one_space(as_tables(item, category, position))
    return attentions.sim_soft_heads(spaces, target, history, Heads(*heads), slots, form)


def heads_model(*arguments):
    item, category, position, *heads, slots, form = arguments
    spaces = models.one_space(as_tables(item, category, position))
    return attentions.twin_kdd23(spaces, Heads(*heads), slots, form)


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (sdim_model, []),
        (cluster_model, []),
        (heads_model, [(2, 3, 4), (2, 3, 4), (2, 4, 5), (5, 8), (1,)]),
        (own_search_model, [(2, 5), (2, 5), (2, 3, 4), (2, 3, 4), (2, 4, 5), (5, 8), (1,)]),
    ],
)
def test_gradients_are_those_of_finite_differences(model, shapes):
    weights = [draw(*shape, seed=30 + n) for n, shape in enumerate(shapes)]
    check_gradients(model, *drawn_tables(1).values(), *weights, form=FORM)
