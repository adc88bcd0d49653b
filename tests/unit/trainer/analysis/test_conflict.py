"""Sizes and conflicts of gradients that are worked out by hand."""

import math

import numpy as np
import pytest
import torch

from trainer.analysis.conflict import COSINE_EDGES, RowTally
from trainer.analysis.row_gradients import RoleGradients

STEPS = [
    # Row 0: norms 5 and 5, opposite. Row 1: attention has nothing. Row 2: nothing at all.
    ([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]], [[-3.0, -4.0], [1.0, 0.0], [0.0, 0.0]]),
    # Row 0: norms 1 and 2, at a right angle. Row 1: the representation has nothing.
    ([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 0.0], [0.0, 0.0]]),
]


def tally_of(steps, first_steps=100) -> RowTally:
    tally = RowTally(len(steps[0][0]), first_steps)
    for parts in steps:
        tally.add(RoleGradients(*(torch.tensor(part, dtype=torch.float64) for part in parts)))
    return tally


def test_each_row_counts_over_the_steps_in_which_it_has_a_gradient():
    # Row 0: (5 + 1) / 2 and (5 + 2) / 2. Row 1: (0 + 2) / 2 and (1 + 0) / 2. Row 2 is left out.
    found = tally_of(STEPS).corrected()
    assert (found["attention"], found["representation"]) == ((3 + 1) / 2, (3.5 + 0.5) / 2)
    assert found["ratio"] == 1.0
    assert found["median_ratio"] == pytest.approx((3.5 / 3 + 0.5 / 1) / 2)
    # Of the two pairs that have both gradients, one is opposed: half, and not most, of row 0's.
    assert (found["conflict"], found["pairs"], found["rows"]) == (0.5, 2, 2)
    assert found["rows_in_conflict"] == 0.0


def test_the_papers_figures_take_rows_without_a_gradient_as_zeros():
    found = tally_of(STEPS).published()
    # Step means (5 + 0 + 0) / 3 and (1 + 2 + 0) / 3; (5 + 1 + 0) / 3 and (2 + 0 + 0) / 3.
    assert found["attention"] == pytest.approx((5 / 3 + 1) / 2)
    assert found["representation"] == pytest.approx((2 + 2 / 3) / 2)
    assert found["ratio"] == pytest.approx(1.0)
    assert found["conflict"] == 0.5  # The mean cosine is -1 in the one step, 0 in the other.
    assert found["rows_in_conflict"] == 1.0  # Row 0, whose dot product is not zero only once.


def test_a_rare_row_has_its_say_in_the_corrected_ratio_only():
    often = ([[1.0], [0.0]], [[2.0], [0.0]])
    once = ([[1.0], [1.0]], [[2.0], [8.0]])
    tally = tally_of([often] * 9 + [once])
    assert tally.corrected()["ratio"] == pytest.approx(((2 + 8) / 2) / 1)
    assert tally.corrected()["median_ratio"] == pytest.approx((2 + 8) / 2)
    assert tally.published()["ratio"] == pytest.approx((10 * 2 + 8) / 11)


def test_rows_that_agree_hide_a_conflict_from_the_papers_figure_only():
    # Two rows of cosine 1 and three of cosine -0.6 and an eighth's width: mean 0.04, most opposed.
    agree, oppose = ([1.0, 0.0], [1.0, 0.0]), ([1.0, 0.0], [-0.6, 0.8])
    rows = [agree, agree, oppose, oppose, oppose]
    tally = tally_of([tuple(zip(*rows, strict=True))] * 3)
    assert tally.by_step["cosine"] == pytest.approx([(2 - 3 * 0.6) / 5] * 3)
    assert tally.published()["conflict"] == 0.0
    assert tally.corrected()["conflict"] == pytest.approx(3 / 5)
    assert tally.corrected()["rows_in_conflict"] == pytest.approx(3 / 5)


@pytest.mark.parametrize(("factor", "share"), [(-1.0, 1.0), (1.0, 0.0)])
def test_opposite_gradients_are_all_conflict_and_equal_ones_are_none(factor, share):
    random = np.random.default_rng(0)
    attention = random.normal(size=(20, 6, 3))
    tally = tally_of([(step, 0.1 * factor * step) for step in attention])
    for found in (tally.corrected(), tally.published()):
        assert found["conflict"] == share
        assert found["rows_in_conflict"] == share
        assert found["ratio"] == pytest.approx(0.1)
    at = 0 if factor < 0 else -1
    assert tally.cosines()[at] == tally.cosines().sum() == 20 * 6
    assert tally.by_row()["cosine"] == pytest.approx(np.full(6, factor))


def test_only_the_first_steps_count_in_what_the_paper_takes_from_them():
    small, large = ([[1.0], [1.0]], [[1.0], [1.0]]), ([[3.0], [3.0]], [[-9.0], [-9.0]])
    tally = tally_of([small, large, large, large], first_steps=1)
    found = tally.published()
    assert (found["attention"], found["representation"]) == (1.0, 1.0)
    assert found["rows_in_conflict"] == 0.0
    assert found["conflict"] == 0.75  # Over all steps.
    assert tally.corrected()["rows_in_conflict"] == 1.0


def test_figures_by_row_and_by_step_are_those_of_the_steps():
    tally = tally_of(STEPS)
    rows = {name: value.tolist() for name, value in tally.by_row().items()}
    assert rows["row"] == [0, 1]
    assert rows["steps"] == [2, 2]
    assert (rows["attention"], rows["representation"]) == ([3.0, 1.0], [3.5, 0.5])
    assert rows["conflict"][0] == 0.5
    assert math.isnan(rows["conflict"][1])
    assert rows["cosine"][0] == pytest.approx(-0.5)
    assert tally.by_step["attention"] == [2.5, 1.5]
    assert tally.by_step["representation"] == [3.0, 1.0]
    assert tally.by_step["conflict"] == [1.0, 0.0]
    middle = np.searchsorted(COSINE_EDGES, 0.0)
    assert tally.cosines().nonzero()[0].tolist() == [0, middle]


def test_without_any_gradient_there_is_nothing_to_tell():
    nothing = ([[0.0], [0.0]], [[0.0], [0.0]])
    tally = tally_of([nothing])
    assert all(math.isnan(tally.corrected()[name]) for name in ("ratio", "conflict"))
    assert all(math.isnan(tally.published()[name]) for name in ("ratio", "conflict"))
    assert tally.by_row()["row"].tolist() == []
