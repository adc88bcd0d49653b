"""The dense references of models of several tables, of projections and of mended gradients, by hand
and by finite differences.
"""

import math

import pytest
import torch
from torch import Tensor

from tests import reference_models as models
from tests.reference import Form, Row, Tower, attend, best, finish, padded, run, softmax
from tests.reference_models import Layers, Projections
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
    loss_of,
    vector,
)

FORM = Form(top_k=2, norm="layer")
SPACES = {
    "twin": (1, models.one_space),
    "dare": (2, models.two_spaces),
    "three_tables": (3, models.three_spaces),
    "twin_4e": (4, models.four_spaces),
}


def test_dare_attends_with_one_set_of_tables_and_sums_the_other():
    spaces = models.two_spaces(hand_tables(), hand_values())
    seen = models.dot_attention(spaces, hand_slots(), FORM)
    close(seen.score_TL[0], vector(LN2 + LN5, LN3, 0))
    assert seen.kept_TL.tolist() == [[True, True, False]]
    close(seen.weight_TL[0], vector(10 / 13, 3 / 13, 0))
    close(seen.target_TD[0], vector(5, 7, 3))
    # Items: 13 times 10/13 and 26 times 3/13; positions: 42 times 10/13 and 28 times 3/13.
    close(seen.history_TD[0], vector(16, 76 / 13, 504 / 13))
    # All three, weighted 10, 3 and 1 out of 14.
    close(seen.aux_history_TD[0], vector(247 / 14, 78 / 14, 37))


def test_twin_sums_what_it_attends_with():
    seen = models.dot_attention(models.one_space(hand_tables()), hand_slots(), FORM)
    close(seen.weight_TL[0], vector(10 / 13, 3 / 13, 0))
    close(seen.target_TD[0], vector(math.sqrt(2), 0, 1))
    close(seen.history_TD[0], vector((10 * LN2 + 3 * LN3) / 13, 3 / 13, 10 * LN5 / 13))


def test_each_use_reads_its_own_tables():
    doubled = {feature: 2 * table for feature, table in hand_tables().items()}
    tripled = {feature: 3 * table for feature, table in hand_values().items()}
    four = models.four_spaces(hand_tables(), doubled, hand_values(), tripled)
    seen = models.dot_attention(four, hand_slots(), FORM)
    close(seen.score_TL[0], 2 * vector(LN2 + LN5, LN3, 0))
    close(seen.weight_TL[0], vector(100 / 109, 9 / 109, 0))
    close(seen.target_TD[0], vector(5, 7, 3))
    close(seen.history_TD[0][0], torch.tensor(3 * (13 * 100 + 26 * 9) / 109, dtype=torch.float64))
    three = models.three_spaces(hand_tables(), doubled, hand_values())
    seen = models.dot_attention(three, hand_slots(), FORM)
    close(seen.weight_TL[0], vector(100 / 109, 9 / 109, 0))
    close(seen.history_TD[0][0], torch.tensor((13 * 100 + 26 * 9) / 109, dtype=torch.float64))


def test_one_dot_product_has_one_root():
    tables = hand_tables()
    seen = models.dot_attention(
        models.one_space(tables), hand_slots(), Form(top_k=2, two_term=False)
    )
    root = math.sqrt(3)
    close(seen.score_TL[0], vector(math.sqrt(2) * LN2 + LN5, math.sqrt(2) * LN3, 0) / root)


@pytest.mark.parametrize("name", ["twin", "dare"])
def test_the_short_form_is_the_same_model(name: str):
    attention = drawn_tables(1)
    representation = attention if name == "twin" else drawn_tables(4)
    tower = Tower(None, None, [(draw(2, 15, seed=7), draw(2, seed=8))], [])
    short = run(attention, representation, tower, tower, ROWS, FORM)
    slots = padded(ROWS)
    spaces = models.two_spaces(attention, representation)
    result = finish(models.dot_attention(spaces, slots, FORM), tower, tower, slots, FORM)
    close(result.logits, short.logits)
    close(result.loss, short.loss)


@pytest.mark.parametrize("name", SPACES)
def test_gradients_of_all_tables_are_those_of_finite_differences(name: str):
    sets, spaces = SPACES[name]
    leaves = [table for n in range(sets) for table in drawn_tables(10 * n).values()]

    def model(*arguments):
        *tables, slots, form = arguments
        groups = [as_tables(*tables[3 * n : 3 * n + 3]) for n in range(sets)]
        return models.dot_attention(spaces(*groups), slots, form)

    check_gradients(model, *leaves, form=FORM)


def test_an_empty_history_sums_to_zero_and_moves_nothing():
    tables = {f: table.requires_grad_() for f, table in drawn_tables(3).items()}
    slots = padded([Row(target=(1, 1), history=[], label=1.0)])
    bias = Projections(
        after=models.one_space(Layers([torch.eye(5).double()], [vector(*[1.0] * 5)]))
    )
    seen = models.dot_attention(models.one_space(tables), slots, FORM, bias)
    close(seen.history_TD, torch.zeros(1, 5, dtype=torch.float64))
    close(seen.aux_history_TD, torch.zeros(1, 5, dtype=torch.float64))
    seen.history_TD.sum().backward()
    assert all(table.grad.abs().sum() == 0 for table in tables.values())


def test_softmax_is_over_what_is_kept_whatever_padding_scores():
    score = vector(1e6, 0, LN3)[None].requires_grad_()
    weight = softmax(score, torch.tensor([[False, True, True]]))
    close(weight[0].detach(), vector(0, 1 / 4, 3 / 4))
    weight[0, 2].backward()
    close(score.grad[0], vector(0, -3 / 16, 3 / 16))


def test_of_equal_scores_the_most_recent_is_kept():
    valid = torch.tensor([[False, True, True, True]])
    kept = best(torch.zeros(1, 4), valid, 2)
    assert kept.tolist() == [[False, False, True, True]]
    seen = attend(torch.zeros(1, 1), torch.ones(1, 4, 1), torch.zeros(1, 4), kept=kept, valid=valid)
    assert seen.weight_TL.tolist() == [[0, 0, 0.5, 0.5]]


def scale(factor: float, width: int = 1) -> Layers:
    return Layers([factor * torch.eye(width, dtype=torch.float64)])


def test_projections_of_features_are_one_for_each_role():
    roles = [{"item": scale(role)} for role in (2, 3, 5, 7)]
    projections = Projections(before=models.four_spaces(*roles))
    seen = models.dot_attention(models.one_space(hand_tables()), hand_slots(), FORM, projections)
    close(seen.score_TL[0], vector(6 * LN2 + LN5, 6 * LN3, 0))
    close(seen.target_TD[0], vector(5 * math.sqrt(2), 0, 1))
    # Weights are as 2^6 * 5 = 320 to 3^6 = 729.
    close(seen.weight_TL[0], vector(320 / 1049, 729 / 1049, 0))
    close(
        seen.history_TD[0],
        vector(7 * (320 * LN2 + 729 * LN3) / 1049, 729 / 1049, 320 * LN5 / 1049),
    )


def test_projections_of_position_reach_the_target_s_own_row():
    both = Projections(before=models.two_spaces({"position": scale(2)}, {"position": scale(3)}))
    seen = models.dot_attention(models.one_space(hand_tables()), hand_slots(), FORM, both)
    close(seen.score_TL[0], vector(LN2 + 4 * LN5, LN3, 0))
    close(seen.target_TD[0], vector(math.sqrt(2), 0, 3))


def test_wider_projections_have_wider_roots():
    wide = Layers([torch.ones(4, 1, dtype=torch.float64)])
    every = {"item": wide, "category": wide, "position": wide}
    projections = Projections(before=models.two_spaces(every, every))
    seen = models.dot_attention(models.one_space(hand_tables()), hand_slots(), FORM, projections)
    # Four times the product, over the roots of 8 and of 4.
    close(seen.score_TL[0], vector(math.sqrt(4) * LN2 + 2 * LN5, math.sqrt(4) * LN3, 0))
    assert seen.target_TD.shape == seen.history_TD.shape == (1, 12)


def test_a_projection_may_have_a_hidden_layer():
    layers = Layers(
        [column(1, -1), vector(1, 2)[None]], [vector(0.5, 0.5), vector(3)], [vector(0.1)]
    )
    # (1.5, -0.5) -> (1.5, -0.05) -> 1.5 - 0.1 + 3
    close(layers(vector(1)), vector(4.4))
    assert len(layers.decayed()) == 3


def test_projections_of_whole_rows_are_scored_in_the_old_slices():
    # Position goes to the item's place, item to the position's; the bias is the target's alone.
    swap = torch.tensor([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=torch.float64)
    target = Layers([swap], [vector(1, 0, 0)])
    history = Layers([swap], [vector(0, 0, 0)])
    projections = Projections(after=models.four_spaces(target, history, target, history))
    seen = models.dot_attention(models.one_space(hand_tables()), hand_slots(), FORM, projections)
    # Target (2, 0, sqrt 2); behaviours (ln 5, 0, ln 2), (0, 1, ln 3), (0, 1, 0).
    root = math.sqrt(2)
    close(seen.score_TL[0], vector(2 * LN5 / root + root * LN2, root * LN3, 0))
    close(seen.target_TD[0], vector(2, 0, root))
    close(
        seen.history_TD[0],
        seen.weight_TL[0]
        @ torch.tensor([[LN5, 0, LN2], [0, 1, LN3], [0, 1, 0]], dtype=torch.float64),
    )


def test_shared_projections_are_penalised_once():
    shared = scale(2)
    sides = Projections(before=models.two_spaces({"item": shared}, {"item": scale(3)}))
    assert len(sides.decayed()) == 2


def feature_projections(*weights: Tensor) -> Projections:
    return Projections(
        before=models.two_spaces({"item": Layers([weights[0]])}, {"item": Layers([weights[1]])})
    )


def mlp_projections(*weights: Tensor) -> Projections:
    sides = [
        {"category": Layers(weights[n : n + 2], weights[n + 2 : n + 4], weights[n + 4 : n + 5])}
        for n in (0, 5)
    ]
    return Projections(before=models.two_spaces(*sides))


def row_projections(*weights: Tensor) -> Projections:
    # The bias of attention's history moves all scores alike: its gradient is 0.
    biases = weights[4], draw(5, seed=60), *weights[5:]
    roles = [Layers([weight], [bias]) for weight, bias in zip(weights[:4], biases, strict=True)]
    return Projections(after=models.four_spaces(*roles))


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (feature_projections, [(3, 2), (3, 2)]),
        (mlp_projections, [(3, 2), (2, 3), (3,), (2,), (1,)] * 2),
        (row_projections, [(5, 5)] * 4 + [(5,)] * 3),
    ],
)
def test_gradients_of_projections_are_those_of_finite_differences(make, shapes):
    def model(*arguments):
        *weights, slots, form = arguments
        spaces = models.one_space(as_tables(*weights[:3]))
        return models.dot_attention(spaces, slots, form, make(*weights[3:]))

    weights = [draw(*shape, seed=30 + n) for n, shape in enumerate(shapes)]
    check_gradients(model, *drawn_tables(1).values(), *weights, form=FORM)


def test_identities_project_nothing():
    every = {"item": scale(1, 2), "category": scale(1, 2), "position": scale(1, 1)}
    before = Projections(before=models.one_space(every))
    after = Projections(after=models.one_space(scale(1, 5)))
    slots, spaces = padded(ROWS), models.one_space(drawn_tables(5))
    plain = models.dot_attention(spaces, slots, FORM)
    for projections in (before, after):
        seen = models.dot_attention(spaces, slots, FORM, projections)
        close(seen.history_TD, plain.history_TD)
        close(seen.score_TL, plain.score_TL)


def test_attention_s_gradient_is_made_as_long_as_representation_s():
    attention = {"item": vector(1, 1).requires_grad_(), "category": vector(1).requires_grad_()}
    representation = {f: table.detach().clone().requires_grad_() for f, table in attention.items()}
    loss = (attention["item"] * vector(3, 4)).sum() + 10 * representation["item"][1]
    loss = loss + 2 * representation["category"][0]
    gradients = models.avoid_domination(loss, attention, representation)
    # |(3, 4)| = 5, |(0, 10)| = 10: twice (3, 4), plus (0, 10). No attention, nothing to scale.
    close(gradients["item"], vector(6, 18))
    close(gradients["category"], vector(2))


def test_both_parts_unscaled_are_the_gradient_of_shared_tables():
    slots = padded(ROWS)
    copies = [{f: t.requires_grad_() for f, t in drawn_tables(2).items()} for _ in range(3)]
    shared = models.dot_attention(models.one_space(copies[0]), slots, FORM)
    split = models.dot_attention(models.two_spaces(copies[1], copies[2]), slots, FORM)
    loss_of(shared, slots, FORM).backward()
    loss = loss_of(split, slots, FORM)
    mended = models.avoid_domination(loss, copies[1], copies[2])
    loss.backward()
    for feature in copies[0]:
        attention, representation = copies[1][feature].grad, copies[2][feature].grad
        close(attention + representation, copies[0][feature].grad)
        close((mended[feature] - representation).norm(), representation.norm())
        assert (mended[feature] - copies[0][feature].grad).abs().max() > 1e-3
