"""Scores, search and attention by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from modules.attention import masked_softmax, pool_all, pool_kept
from modules.head import HeadConfig
from modules.model_config import RankerConfig
from modules.scorers import scaled
from modules.search import SearchConfig, SearchUnit, sample
from tests.small import DARE, make_task, read, users

DOTS = torch.tensor([[[6.0, 4.0], [5.0, 7.0]]])
"""Of one request, two targets with two behaviours, four numbers wide."""


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        # Content over sqrt(4) plus position over sqrt(9): products 6 and -3.
        ("two_term", [[3.0 + 2, 2.0 - 1], [2.5 + 2, 3.5 - 1]]),
        # All over sqrt(4 + 9).
        (
            "joint",
            [
                [12 / math.sqrt(13), 1 / math.sqrt(13)],
                [11 / math.sqrt(13), 4 / math.sqrt(13)],
            ],
        ),
        # The same, plus position over sqrt(9).
        (
            "position_twice",
            [
                [12 / math.sqrt(13) + 2, 1 / math.sqrt(13) - 1],
                [11 / math.sqrt(13) + 2, 4 / math.sqrt(13) - 1],
            ],
        ),
    ],
)
def test_score_is_the_scaled_dot_product_with_position(scale, expected) -> None:
    target_P = torch.tensor([1.0, 1.0, 1.0, 0, 0, 0, 0, 0, 0])
    history_LP = torch.zeros(2, 9)
    history_LP[0, :3], history_LP[1, 2] = 2.0, -3.0
    score = scaled(scale, DOTS, history_LP @ target_P, (4, 9))
    torch.testing.assert_close(score, torch.tensor([expected]))


@pytest.mark.parametrize("scale", ["two_term", "joint"])
def test_without_positions_only_items_and_categories_score(scale) -> None:
    score = scaled(scale, DOTS, torch.zeros(2, 0) @ torch.zeros(0), (4, 0))
    torch.testing.assert_close(score, torch.tensor([[[3.0, 2.0], [2.5, 3.5]]]))


def test_weights_are_the_softmax_of_what_takes_part() -> None:
    score = torch.tensor([math.log(1.0), math.log(3.0), 50.0])
    weight = masked_softmax(score, torch.tensor([True, True, False]))
    torch.testing.assert_close(weight, torch.tensor([0.25, 0.75, 0.0]))


@pytest.mark.parametrize("size", [1e4, -1e4, 0.0])
@pytest.mark.parametrize("length", [0, 1, 3])
def test_padding_gets_no_weight(length: int, size: float) -> None:
    keep = (torch.arange(4) < length).unsqueeze(0)
    score = torch.full((1, 4), size, requires_grad=True)
    weight = masked_softmax(score, keep)
    assert weight[~keep].eq(0).all()
    torch.testing.assert_close(weight.sum(), torch.tensor(float(length > 0)))
    weight.square().sum().backward()
    assert score.grad is not None
    assert score.grad.isfinite().all()
    assert score.grad[~keep].eq(0).all()


def test_far_apart_scores_give_all_weight_to_the_best() -> None:
    weight = masked_softmax(torch.tensor([1e4, -1e4, 1e4]), torch.tensor([True, True, True]))
    assert weight.tolist() == [0.5, 0.0, 0.5]


def test_kept_and_whole_histories_are_summed_by_weight() -> None:
    weight = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]])
    value = torch.tensor([[4.0, 8.0], [0.0, 4.0]])
    expected = [[[1.0, 5.0], [4.0, 8.0]]]
    assert pool_all(weight, value.unsqueeze(0)).tolist() == expected
    assert pool_kept(weight, value.expand(1, 2, 2, 2)).tolist() == expected


def search(score: list[list[float]], length: int, top_k: int) -> list[set[int]]:
    """Columns kept for each target of one request; what is not valid is left out."""
    behaviour_RL = (torch.arange(len(score[0])) < length).unsqueeze(0)
    unit = SearchUnit(top_k, nn.Identity())
    index, valid = unit(torch.tensor([score], dtype=torch.float), behaviour_RL)
    assert index.shape == valid.shape == (1, len(score), min(top_k, len(score[0])))
    kept = [
        [c for c, v in zip(i, ok, strict=True) if v]
        for i, ok in zip(index[0].tolist(), valid[0].tolist(), strict=True)
    ]
    assert all(len(set(columns)) == len(columns) for columns in kept)
    return [set(columns) for columns in kept]


def test_the_best_scored_are_kept_for_each_target() -> None:
    assert search([[1, 9, 3, 7], [5, -2, 4, -1]], length=4, top_k=2) == [{1, 3}, {0, 2}]


def test_padding_is_never_kept_however_well_it_scores() -> None:
    assert search([[1, -5e4, 99, 99]], length=2, top_k=3) == [{0, 1}]
    assert search([[1, 2, 99, 99]], length=0, top_k=3) == [set()]


@pytest.mark.parametrize("top_k", [4, 5])
def test_a_history_no_longer_than_k_is_kept_whole(top_k: int) -> None:
    assert search([[3, 1, 2, 0]], length=4, top_k=top_k) == [{0, 1, 2, 3}]


def test_of_equal_scores_any_are_kept_once() -> None:
    (kept,) = search([[1, 1, 1, 5]], length=4, top_k=2)
    assert 3 in kept
    assert len(kept) == 2


def test_search_and_attention_share_one_scorer() -> None:
    interaction = make_task(RankerConfig(embeddings=DARE)).ranker.interaction
    assert interaction.search.scorer is interaction.attention_scorer


def test_top_k_below_one_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"model\.search\.top_k is 0"):
        SearchConfig(top_k=0)


def test_a_sample_is_drawn_from_behaviours_alone_each_once_and_evenly() -> None:
    torch.manual_seed(0)
    behaviour_RL = torch.arange(8) < torch.tensor([6, 2, 0]).repeat(1000).unsqueeze(1)
    drawn_RL = sample(behaviour_RL, 3)
    assert not (drawn_RL & ~behaviour_RL).any()
    assert drawn_RL.sum(1).view(-1, 3).unique(dim=0).tolist() == [[3, 2, 0]]
    # Each of six with chance 1/2: 500 of 1,000, standard deviation 16.
    assert (drawn_RL[::3, :6].sum(0) - 500).abs().max() < 80


def test_the_auxiliary_head_trains_on_a_sample_and_is_evaluated_on_all(tmp_path) -> None:
    batch = read(users(), "user", tmp_path)

    def auxiliary(size: int, *, training: bool) -> torch.Tensor:
        config = RankerConfig(embeddings=DARE, head=HeadConfig(auxiliary_sample=size))
        task = make_task(config).train(training)
        with torch.no_grad():
            return task.ranker(
                batch.features, batch.weight > 0, batch.num_history, batch.num_targets
            ).auxiliary_logit_T

    everything = auxiliary(0, training=True)
    assert auxiliary(9, training=True).equal(everything)
    assert not auxiliary(2, training=True).equal(everything)
    assert auxiliary(2, training=False).equal(auxiliary(0, training=False))
