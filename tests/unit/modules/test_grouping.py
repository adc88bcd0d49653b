"""Clusters of a history by hand, and what holds of any."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.grouping import clusters


def one(values: list[float], most: int, length: int | None = None) -> tuple[list[int], list[float]]:
    """Columns that stand for a cluster, and their clusters' sizes, of one history of numbers."""
    behaviour_RL = (torch.arange(len(values)) < (length or len(values))).unsqueeze(0)
    found = clusters(torch.tensor(values).view(1, -1, 1), behaviour_RL, most)
    columns = found.member_RL[0].nonzero().flatten()
    return columns.tolist(), found.log_size_RL[0, columns].exp().round().tolist()


def test_near_behaviours_are_one_cluster_and_the_one_in_the_middle_stands_for_it() -> None:
    # 0 1 2 around 1, 10 11 13 around 11.3; in the order of the history.
    assert one([13.0, 0.0, 10.0, 1.0, 11.0, 2.0], 3) == ([3, 4], [3.0, 3.0])


def test_halves_are_cut_until_none_is_too_large() -> None:
    columns, sizes = one([0.0, 1.0, 10.0, 11.0, 100.0, 101.0, 110.0, 111.0], 2)
    assert sizes == [2.0] * 4
    assert columns == [0, 2, 4, 6]  # Of two as near, the newer stands for both.


def test_of_equal_behaviours_the_newest_stands_for_all_whatever_the_rounding() -> None:
    assert one([0.1, 0.1, 0.1], 3) == ([0], [3.0])
    value_RLD = torch.tensor([[0.1, 0.7, 1e-3]]).repeat(1, 7, 1)
    value_RLD = value_RLD * (1 + 1e-7 * torch.tensor([3.0, -2, 1, -3, 2, 0, -1]).view(1, 7, 1))
    found = clusters(value_RLD, torch.ones(1, 7, dtype=torch.bool), 7)
    assert found.member_RL.tolist() == [[True] + [False] * 6]


def test_a_small_history_is_one_cluster_and_padding_none() -> None:
    assert one([5.0, 7.0, 6.0, 0.0, 0.0], 3, length=3) == ([2], [3.0])
    behaviour_RL = torch.zeros(1, 4, dtype=torch.bool)
    assert not clusters(torch.zeros(1, 4, 2), behaviour_RL, 2).member_RL.any()


def test_clusters_of_one_are_the_behaviours_themselves() -> None:
    assert one([3.0, 3.0, 1.0], 1) == ([0, 1, 2], [1.0, 1.0, 1.0])


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 33), min_size=1, max_size=4),
    most=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_every_behaviour_is_in_one_cluster_that_is_small_enough(lengths, most, seed) -> None:
    longest = max(1, *lengths)
    generator = torch.Generator().manual_seed(seed)
    value_RLD = torch.randn(len(lengths), longest, 3, generator=generator)
    behaviour_RL = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    found = clusters(value_RLD, behaviour_RL, most)
    assert not (found.member_RL & ~behaviour_RL).any()
    size_RL = found.log_size_RL.exp() * found.member_RL
    torch.testing.assert_close(size_RL.sum(1), torch.tensor(lengths).float())
    assert size_RL.max() <= most + 1e-3
    assert found.log_size_RL[~found.member_RL].eq(0).all()
    smallest = [math.ceil(length / most) for length in lengths]
    assert (found.member_RL.sum(1) >= torch.tensor(smallest)).all()
    # What another request holds changes nothing.
    alone = clusters(value_RLD[:1], behaviour_RL[:1], most)
    assert alone.member_RL.equal(found.member_RL[:1])
