"""The dense references of other searches, by hand and by finite differences."""

import math

import pytest
import torch

from tests import reference_models as models
from tests import reference_searches as searches
from tests.reference import Form, Row, padded
from tests.reference_models import Layers
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
    hand_values,
    vector,
)

FORM = Form(top_k=2, norm="layer")
HAND = models.one_space(hand_tables())
MANY = padded([Row(target=(1, 1), history=[(2, 1), (2, 2), (3, 1), (3, 2), (4, 1)], label=1.0)])


def test_din_scores_by_an_mlp_over_the_width_and_has_no_position():
    tables = {"item": column(0, 1, 3, 0.5, 2), "category": column(0, 2, 1)}
    # Of [q; k; q - k; q * k], two numbers each: the items' difference, the categories' product.
    hidden = torch.zeros(2, 8, dtype=torch.float64)
    hidden[0, 4] = hidden[1, 7] = 1
    scorer = Layers([hidden, vector(2, 1)[None]], [vector(1, 0), vector(0.5)], [vector(0.1)])
    seen = searches.din(models.one_space(tables), scorer, hand_slots(), FORM)
    # Differences plus 1 are -1, 1.5 and 0, products 4, 2 and 2: (2 * -0.1 + 4 + 0.5) / 2, ...
    close(seen.score_TL[0], vector(2.15, 2.75, 1.25))
    assert seen.kept_TL.tolist() == [[True, True, False]]
    first, second = 1 / (1 + math.exp(0.6)), 1 / (1 + math.exp(-0.6))
    close(seen.target_TD[0], vector(1, 2))
    close(seen.history_TD[0], vector(3 * first + 0.5 * second, 2 * first + second))
    whole = torch.softmax(vector(2.15, 2.75, 1.25), 0)
    close(seen.aux_history_TD[0], whole @ torch.tensor([[3, 2], [0.5, 1], [2, 1]]).double())


def test_din_of_equal_behaviours_keeps_the_most_recent():
    slots = padded([Row(target=(1, 1), history=[(2, 1)] * 4, label=1.0)])
    tables = dict(list(drawn_tables(1).items())[:2])
    scorer = Layers([draw(3, 16, seed=1), draw(1, 3, seed=2)], (), [vector(0.1)])
    seen = searches.din(models.one_space(tables), scorer, slots, FORM)
    assert seen.kept_TL.tolist() == [[False, False, True, True]]
    close(seen.weight_TL[0], vector(0, 0, 0.5, 0.5))


@pytest.mark.parametrize(
    ("top_k", "kept"),
    [
        (1, [0, 0, 0, 0, 1]),
        (2, [0, 0, 1, 0, 1]),
        (3, [1, 0, 1, 0, 1]),
        (4, [1, 0, 1, 1, 1]),
        (9, [1, 1, 1, 1, 1]),
    ],
)
def test_category_search_takes_the_newest_matches_then_the_newest_others(top_k, kept):
    seen = searches.category_search(models.one_space(drawn_tables(1)), MANY, Form(top_k=top_k))
    assert seen.kept_TL.int().tolist() == [kept]
    order = seen.score_TL[0].argsort(descending=True).tolist()
    assert order == [4, 2, 0, 3, 1]


def test_category_search_attends_to_what_it_keeps_by_dots():
    seen = searches.category_search(HAND, hand_slots(), FORM)
    assert seen.kept_TL.tolist() == [[True, False, True]]
    close(seen.weight_TL[0], vector(10 / 11, 0, 1 / 11))
    close(seen.history_TD[0], vector(10 * LN2 / 11, 1 / 11, 10 * LN5 / 11))
    close(seen.aux_history_TD[0][1], vector(4 / 14)[0])


def test_the_released_score_of_category_search_has_position_twice():
    seen = searches.released_twin_hard(HAND, hand_slots(), FORM)
    assert seen.kept_TL.tolist() == [[True, False, True]]
    oldest = (math.sqrt(2) * LN2 + LN5) / math.sqrt(3) + LN5
    close(seen.weight_TL[0], vector(1 / (1 + math.exp(-oldest)), 0, 1 / (1 + math.exp(oldest))))
    wide = searches.released_twin_hard(
        models.one_space({**hand_tables(), "position": hand_tables()["position"].repeat(1, 4)}),
        hand_slots(),
        FORM,
    )
    oldest = (math.sqrt(2) * LN2 + 4 * LN5) / math.sqrt(6) + 4 * LN5 / 2
    close(wide.weight_TL[0, 0], vector(1 / (1 + math.exp(-oldest)))[0])


def test_sim_soft_searches_with_its_own_head_and_attends_by_dots():
    target, history = vector(0, 0, 1)[None], vector(1, 1, 0)[None]
    seen = searches.sim_soft(HAND, target, history, hand_slots(), FORM)
    close(seen.score_TL[0], vector(LN2, LN3 + 1, 1))
    assert seen.kept_TL.tolist() == [[False, True, True]]
    close(seen.weight_TL[0], vector(0, 3 / 4, 1 / 4))
    close(seen.history_TD[0], vector(3 / 4 * LN3, 1, 0))
    # Raw scores, not their softmax.
    close(seen.aux_history_TD[0], vector(LN2**2 + (LN3 + 1) * LN3, LN3 + 2, LN2 * LN5))


def test_sim_soft_sums_nothing_of_padding():
    weights = draw(3, 5, seed=1), draw(3, 5, seed=2)
    spaces = models.one_space(drawn_tables(1))
    alone = searches.sim_soft(spaces, *weights, padded(ROWS[2:3]), FORM)
    beside = searches.sim_soft(spaces, *weights, padded(ROWS), FORM)
    close(beside.aux_history_TD[2], alone.aux_history_TD[0])
    close(beside.aux_history_TD[3], vector(0, 0, 0, 0, 0))


SIGNS = {
    "item": column(0, 3, -1, 2, 5),
    "category": column(0, 2, -4),
    "position": column(1, 0, 0, 0, 0, 0),
}
DIRECTIONS = torch.tensor([[1, 0], [0, 1], [1, -1]], dtype=torch.float64)


def test_eta_keeps_small_hamming_distances_and_of_equal_ones_the_most_recent():
    # Target (3, 2) has bits 111; behaviours (-1, 2) 010, (-1, -4) 001, (2, 2) 111 as 0 counts,
    # (2, -4) 101, (5, 2) 111.
    seen = searches.eta(models.one_space(SIGNS), DIRECTIONS, MANY, FORM)
    assert seen.score_TL.tolist() == [[-2, -2, 0, -1, 0]]
    assert seen.kept_TL.tolist() == [[False, False, True, False, True]]
    assert searches.eta(
        models.one_space(SIGNS), DIRECTIONS, MANY, Form(top_k=4)
    ).kept_TL.tolist() == [[False, True, True, True, True]]
    # (3 * 2 + 2 * 2) / sqrt 2 against (3 * 5 + 2 * 2) / sqrt 2
    weight = 1 / (1 + math.exp(9 / math.sqrt(2)))
    close(seen.weight_TL[0], vector(0, 0, weight, 0, 1 - weight))


def test_eta_asks_only_for_the_side_of_each_direction():
    tables = drawn_tables(3)
    directions = draw(8, 4, seed=5)
    seen = searches.eta(models.one_space(tables), directions, padded(ROWS), FORM)
    longer = {**tables, "item": 7 * tables["item"], "category": 7 * tables["category"]}
    again = searches.eta(models.one_space(longer), 3 * directions, padded(ROWS), FORM)
    assert torch.equal(seen.score_TL, again.score_TL)
    assert torch.equal(seen.kept_TL, again.kept_TL)
    assert len(seen.score_TL[0].unique()) > 2


def test_a_search_that_keeps_everything_is_twin():
    everything = Form(top_k=9)
    spaces, slots = models.one_space(drawn_tables(3)), padded(ROWS)
    twin = models.dot_attention(spaces, slots, everything)
    for seen in (
        searches.category_search(spaces, slots, everything),
        searches.sim_soft(spaces, draw(3, 5, seed=1), draw(3, 5, seed=2), slots, everything),
        searches.eta(spaces, draw(3, 4, seed=1), slots, everything),
    ):
        close(seen.history_TD, twin.history_TD)
        close(seen.weight_TL, twin.weight_TL)


def din_model(item, category, weight, last, bias, slope, slots, form):
    scorer = Layers([weight, last], [bias, vector(0.3)], [slope])
    return searches.din(models.one_space({"item": item, "category": category}), scorer, slots, form)


def hard_model(item, category, position, slots, form):
    spaces = models.one_space(as_tables(item, category, position))
    return searches.category_search(spaces, slots, form)


def released_model(item, category, position, slots, form):
    spaces = models.one_space(as_tables(item, category, position))
    return searches.released_twin_hard(spaces, slots, form)


def soft_model(item, category, position, target, history, slots, form):
    spaces = models.one_space(as_tables(item, category, position))
    return searches.sim_soft(spaces, target, history, slots, form)


def eta_model(item, category, position, slots, form):
    spaces = models.one_space(as_tables(item, category, position))
    return searches.eta(spaces, draw(6, 4, seed=50), slots, form)


@pytest.mark.parametrize(
    ("model", "features", "shapes"),
    [
        (din_model, 2, [(3, 16), (1, 3), (3,), (1,)]),
        (hard_model, 3, []),
        (released_model, 3, []),
        (soft_model, 3, [(2, 5), (2, 5)]),
        (eta_model, 3, []),
    ],
)
def test_gradients_are_those_of_finite_differences(model, features, shapes):
    tables = list(drawn_tables(1).values())[:features]
    weights = [draw(*shape, seed=30 + n) for n, shape in enumerate(shapes)]
    check_gradients(model, *tables, *weights, form=FORM)


def test_other_tables_of_values_change_only_what_is_summed():
    spaces = models.two_spaces(hand_tables(), hand_values())
    seen = searches.category_search(spaces, hand_slots(), FORM)
    close(seen.weight_TL[0], vector(10 / 11, 0, 1 / 11))
    close(seen.history_TD[0], vector((130 + 39) / 11, 72 / 11, (420 + 14) / 11))
