"""The released code's metrics: numbers worked out by hand, and its integral step by step."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tests.small_run import small_config, small_schema
from trainer.released_metrics import RELEASED_METRICS, ReleasedMetrics, released_auc
from trainer.task import StepOutput


def auc_of(score, positive):
    return released_auc(np.array(score, np.float32), np.array(positive, bool))


def walked(score, positive):
    """The area under the line through the curve's points at each new false positive rate."""
    rows = sorted(zip(score, positive, strict=True), key=lambda row: -row[0])
    positives, negatives = sum(positive), len(positive) - sum(positive)
    area = hits = misses = 0.0
    corner = (0.0, 0.0)
    for _, is_positive in rows:
        hits, misses = hits + is_positive, misses + (not is_positive)
        point = (misses / negatives, hits / positives)
        if point[0] > corner[0]:
            area += (point[0] - corner[0]) * (point[1] + corner[1]) / 2
            corner = point
    return area


def test_equal_scores_with_positives_first_give_0975_where_one_half_is_true():
    assert auc_of([0.5] * 40, [1] * 20 + [0] * 20) == pytest.approx(0.975)
    assert auc_of([0.5] * 40, [0] * 20 + [1] * 20) == 0


def test_equal_scores_of_triplets_favour_the_positive_that_comes_first():
    # Two negatives behind each of 10 positives: (2 (1 + ... + 10) / 10 - 1/2) / 20.
    assert auc_of([0.5] * 30, [1, 0, 0] * 10) == pytest.approx((11 - 0.5) / 20)


def test_scores_that_differ_lose_half_a_negative_to_the_true_area():
    # Sorted + - + - -: the negatives stand behind 1/2, 1, 1. (2.5 - 1/2) / 3, in truth 2.5 / 3.
    assert auc_of([1, 5, 3, 4, 2], [0, 1, 1, 0, 0]) == pytest.approx(2 / 3)
    assert roc_auc_score([0, 1, 1, 0, 0], [1, 5, 3, 4, 2]) == pytest.approx(2.5 / 3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=30))
def test_the_area_is_that_of_a_walk_along_the_curve(rows):
    rows += [(2, True), (2, False)]
    score, positive = zip(*rows, strict=True)
    assert auc_of(score, positive) == pytest.approx(walked(score, positive), abs=1e-12)


@pytest.mark.parametrize("positive", [[], [0, 0], [1, 1]])
def test_one_class_has_no_area(positive):
    assert math.isnan(auc_of([0.0] * len(positive), positive))


def batch_of(logit, label, weight=None, *, loss=0.0, auxiliary=0.0):
    weight = torch.ones(len(logit)) if weight is None else torch.tensor(weight)
    kept = torch.zeros(len(logit), 1)
    return StepOutput(
        torch.tensor(loss),
        torch.tensor(auxiliary),
        torch.tensor(logit, dtype=torch.float32),
        torch.tensor(label, dtype=torch.float32),
        weight,
        torch.zeros(len(logit), dtype=torch.int64),
        kept.long(),
        kept,
        0,
    )


def test_categories_weigh_by_their_targets_and_those_of_one_class_are_left_out():
    metrics = ReleasedMetrics()
    # Category 7: + - -, of which the positive leads: (2 - 1/2) / 2 of 3 targets. Category 9: - + :
    # 0 of 2 targets. Category 8 has one class. Batches part the categories.
    metrics.update(batch_of([2, 1, 3], [1, 0, 0], loss=1.5, auxiliary=0.5), torch.tensor([7, 7, 9]))
    metrics.update(batch_of([0, 1, 5], [0, 1, 1], loss=2.0, auxiliary=2.0), torch.tensor([7, 9, 8]))
    found = metrics.compute()
    assert list(found) == list(RELEASED_METRICS)
    assert found["category_auc_released"] == pytest.approx((3 * 0.75 + 2 * 0) / 5)
    # All: 5+ 3- 2+ 1- 1+ 0-, the equal ones in the order they came: (1/3 + 2/3 + 1 - 1/2) / 3.
    assert found["auc_released"] == pytest.approx(0.5)
    assert found["logloss_released"] == pytest.approx((1.5 + 0.5 + 2 + 2) / 6)


def test_logits_beyond_float32_probabilities_are_ties_as_in_the_released_code():
    # Both probabilities round to 1, so that the positive, which comes first, wins.
    metrics = ReleasedMetrics()
    metrics.update(batch_of([40.0, 50.0], [1, 0]), torch.tensor([1, 1]))
    assert metrics.compute()["auc_released"] == pytest.approx(1 - 0.5)
    assert roc_auc_score([1, 0], [40.0, 50.0]) == 0


def test_padding_is_never_counted():
    clean, padded = ReleasedMetrics(), ReleasedMetrics()
    clean.update(batch_of([1, 2], [1, 0], loss=1.0), torch.tensor([1, 1]))
    padded.update(
        batch_of([1, 2, 9], [1, 0, 1], [1.0, 1.0, 0.0], loss=1.0), torch.tensor([1, 1, 2])
    )
    assert padded.compute() == clean.compute()


def test_several_ranks_have_no_order_of_rows_and_are_refused():
    config = small_config("--loop.released_metrics=true", "--data.workers=2")
    with pytest.raises(
        ValueError, match=r"there are 2 ranks; at most 1\n.*workers is 2; at most 1"
    ):
        config.check(small_schema(), 2)
    small_config("--loop.released_metrics=true").check(small_schema(), 1)
    small_config("--data.workers=2").check(small_schema(), 2)


def test_no_rows_are_nan():
    assert all(math.isnan(value) for value in ReleasedMetrics().compute().values())
