"""Interests by hand: what the queries search, what a filter does to time, what is told."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modules.interests import FourierFilter, Interests, InterestScorer, shares, turned
from modules.representation import Kept
from tests.unit.modules.test_scorers import seen


def test_a_filter_of_i_turns_cosines_to_sines_and_loses_means_and_alternations() -> None:
    """F^-1 i F: cos(2 pi f k / n) becomes -sin(2 pi f k / n), sin becomes cos."""
    angle_K = 2 * math.pi * torch.arange(8) / 8
    turned_KK = turned(8)
    for frequency in (1, 2, 3):
        cosine, sine = torch.cos(frequency * angle_K), torch.sin(frequency * angle_K)
        torch.testing.assert_close(turned_KK @ cosine, -sine, atol=1e-6, rtol=0)
        torch.testing.assert_close(turned_KK @ sine, cosine, atol=1e-6, rtol=0)
    alternating_K = torch.tensor([1.0, -1.0]).repeat(4)
    for lost in (torch.ones(8), alternating_K):
        torch.testing.assert_close(turned_KK @ lost, torch.zeros(8), atol=1e-6, rtol=0)


def test_a_filter_is_the_transform_there_and_back_with_a_matrix_a_head_between() -> None:
    torch.manual_seed(3)
    for length in (1, 2, 5, 6):
        block = FourierFilter(width=6, heads=2, length=length)
        torch.nn.init.normal_(block.weight_CHWW)
        value = torch.randn(2, 3, length, 6)
        weight = torch.complex(*block.weight_CHWW)
        spectrum = torch.fft.rfft(value, dim=2)
        by_head = [part @ one for part, one in zip(spectrum.chunk(2, 3), weight, strict=True)]
        mixed = torch.fft.irfft(torch.cat(by_head, dim=3), n=length, dim=2)
        torch.testing.assert_close(block(value), block.norm(value + mixed), atol=1e-5, rtol=1e-5)


def test_a_short_find_is_padded_with_zeros_behind_the_oldest() -> None:
    """So what a batch's longest history is does not change a score."""
    torch.manual_seed(3)
    block = FourierFilter(width=4, heads=2, length=7)
    value = torch.randn(1, 1, 7, 4)
    value[:, :, 3:] = 0.0
    torch.testing.assert_close(block(value)[:, :, :3], block(value[:, :, :3]))


def test_queries_are_the_targets_then_the_newest_then_all() -> None:
    """With the two axes as directions, bits are signs: how many signs agree, then age."""
    history = [[1.0, -1.0], [1.0, 1.0], [-9.0, 1.0]]
    scorer = InterestScorer(width=2, bits=2, recent=2)
    scorer.hash.directions_DB.copy_(torch.eye(2))
    found = scorer(seen([[1.0, 1.0], [-1.0, -1.0]], history))
    # Means: of the newest two (1, 0), of all (-7/3, 1/3). Products of signs, times 4, less age.
    signs = torch.tensor([[[0, 2, 0], [0, -2, 0], [0, 2, 0], [-2, 0, 2]]])
    assert torch.equal(found, signs * 4.0 - torch.arange(3))


def test_a_behaviour_that_is_not_there_is_in_no_mean() -> None:
    share = shares(torch.tensor([[[True, True, False, True], [False, False, False, False]]]))
    assert torch.equal(share, torch.tensor([[[1 / 3, 1 / 3, 0, 1 / 3], [0, 0, 0, 0]]]))


def test_the_attention_that_is_told_is_an_interests_shared_by_what_it_is_the_mean_of() -> None:
    torch.manual_seed(5)
    interests = Interests(width=4, heads=2, length=2)
    batch = seen([[1.0, 0, 0, 1], [0, 2.0, 1, 0]], torch.randn(3, 4).tolist())
    index = torch.tensor([[[2, 0], [1, 0], [0, 1], [2, 1]]])
    valid = torch.tensor([[[True, True], [True, True], [True, True], [False, True]]])
    target, history, told = interests(batch, Kept(index, valid, shares(valid)))
    assert target.shape == (2, 4)
    assert history.shape == (1, 2, 4)
    assert told.index_RMK.tolist() == [[[0, 2, 0, 1, 1, 2], [0, 1, 0, 1, 1, 2]]]
    by_interest: Tensor = told.weight_RMK.unflatten(2, (3, 2))
    assert torch.equal(by_interest[..., :2, 0], by_interest[..., :2, 1])
    assert torch.equal(by_interest[..., 2, 1], torch.zeros(1, 2))
    torch.testing.assert_close(told.weight_RMK.sum(2), torch.ones(1, 2))
