"""NDCG and hits of orders worked out by hand, and of drawn ones as scikit-learn has them."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from trainer.analysis.ranking import rank_quality

GAINS = torch.tensor([[3.0, 2.0, 1.0]])
DISCOUNT_2 = 1 / math.log2(3)
BEST = [3.0, 3 + 2 * DISCOUNT_2, 3 + 2 * DISCOUNT_2 + 0.5]


def quality(score, gain, depth=3, valid=None):
    score, gain = torch.tensor(score), torch.tensor(gain)
    valid = torch.ones_like(gain, dtype=torch.bool) if valid is None else torch.tensor(valid)
    return rank_quality(score, gain, valid, depth)


def test_the_best_order_gives_exactly_one_at_every_k():
    found = rank_quality(GAINS, GAINS, torch.ones(1, 3, dtype=torch.bool), 3)
    assert found.ndcg_TK.tolist() == [[1.0, 1.0, 1.0]]
    assert found.hit_rate_TK.tolist() == [[1.0, 1.0, 1.0]]


def test_the_published_curve_of_the_best_order_reaches_one_at_the_last_k_only():
    found = rank_quality(GAINS, GAINS, torch.ones(1, 3, dtype=torch.bool), 3)
    expected = [best / BEST[2] for best in BEST]
    assert found.published_TK[0].tolist() == pytest.approx(expected)
    assert expected == pytest.approx([0.6300, 0.8950, 1.0], abs=1e-4)
    assert found.published_hits_TK.tolist() == [[1.0, 2.0, 3.0]]


def test_the_reversed_order_gives_what_one_works_out_by_hand():
    found = quality([[-3.0, -2.0, -1.0]], [[3.0, 2.0, 1.0]])
    gained = [1.0, 1 + 2 * DISCOUNT_2, 1 + 2 * DISCOUNT_2 + 3 / 2]
    assert found.ndcg_TK[0].tolist() == pytest.approx(
        [got / best for got, best in zip(gained, BEST, strict=True)]
    )
    assert found.ndcg_TK[0].tolist() == pytest.approx([0.3333, 0.5307, 0.7900], abs=1e-4)
    assert found.published_TK[0].tolist() == pytest.approx([got / BEST[2] for got in gained])
    # First come 1, 2, 3; best are 3, 2, 1: of the best 1, 2, 3 there are 0, 1, 3 among them.
    assert found.hit_rate_TK[0].tolist() == [0.0, 0.5, 1.0]
    assert found.published_hits_TK[0].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("ties", [False, True])
def test_drawn_orders_have_the_ndcg_of_scikit_learn(ties):
    random = np.random.default_rng(3)
    gain = random.random((50, 12)) ** 4
    score = random.integers(0, 4, (50, 12)).astype(float) if ties else random.random((50, 12))
    found = quality(score, gain, depth=10)
    for k in range(1, 11):
        expected = [ndcg_score(gain[n : n + 1], score[n : n + 1], k=k) for n in range(len(gain))]
        assert found.ndcg_TK[:, k - 1].tolist() == pytest.approx(expected)


def test_equal_scores_give_the_mean_over_all_orders():
    found = quality([[0.0, 0.0, 0.0]], [[3.0, 2.0, 1.0]])
    # The mean gain is 2 at every rank.
    sums = [2.0, 2 + 2 * DISCOUNT_2, 2 + 2 * DISCOUNT_2 + 1]
    assert found.ndcg_TK[0].tolist() == pytest.approx(
        [total / best for total, best in zip(sums, BEST, strict=True)]
    )


def test_padding_is_no_part_of_any_order():
    alone = quality([[1.0, 3.0, 2.0]], [[3.0, 2.0, 1.0]], depth=5)
    padded = quality(
        [[1.0, 3.0, 2.0, 9.0, 9.0]],
        [[3.0, 2.0, 1.0, 7.0, 7.0]],
        depth=5,
        valid=[[True, True, True, False, False]],
    )
    for one, other in zip(alone, padded, strict=True):
        assert one.tolist() == other.tolist()
    # Of 3 behaviours, all are found at k = 3, 4 and 5.
    assert alone.hit_rate_TK[0, 2:].tolist() == [1.0, 1.0, 1.0]
    assert alone.ndcg_TK[0, 2] == alone.ndcg_TK[0, 4]


def test_what_cannot_be_found_comes_last_but_is_no_padding():
    found = quality(
        [[-math.inf, 1.0, 5.0]], [[2.0, 1.0, 9.0]], depth=2, valid=[[True, True, False]]
    )
    worst = [1 / 2, (1 + 2 * DISCOUNT_2) / (2 + DISCOUNT_2)]
    assert found.ndcg_TK[0].tolist() == pytest.approx(worst)


def test_a_history_without_any_gain_has_no_quality():
    found = quality([[1.0, 2.0], [1.0, 2.0]], [[0.0, 0.0], [0.0, 1.0]], depth=2)
    for value in found:
        assert value[0].isnan().all()
        assert value[1].isfinite().all()
