"""Loops of the search in several threads; what they find is tested with the kernels of GPUs."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from modules.jagged_best import keep_best

LENGTHS = [0, 9_000, 1, 0, 30, 4_000, 0, 9_000, 0]


@pytest.mark.parametrize("targets", [2, 9])
def test_the_number_of_threads_changes_no_bit(
    targets: int, use_threads: Callable[[int], None]
) -> None:
    generator = torch.Generator().manual_seed(4)
    shapes = (sum(LENGTHS), 7), (len(LENGTHS), targets, 7), (max(LENGTHS),)
    offset_R1 = torch.tensor([0, *itertools.accumulate(LENGTHS)])
    given = [torch.randn(shape, generator=generator) for shape in shapes]
    found = []
    for number in (1, 2, 5):
        use_threads(number)
        found.append(keep_best(given[:1], *given[1:], offset_R1, factor=0.5, top_k=6))
    for other in found[1:]:
        assert all(a.equal(b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("rising", [False, True])
def test_the_best_come_in_any_order_of_scores(rising: bool) -> None:
    score = torch.arange(500.0) if rising else -torch.arange(500.0)
    best = keep_best(
        [score.unsqueeze(1)],
        torch.ones(1, 1, 1),
        torch.zeros(500),
        torch.tensor([0, 500]),
        factor=1.0,
        top_k=128,
    )
    assert best.index_RMK[0, 0].tolist() == (
        list(range(499, 371, -1)) if rising else list(range(128))
    )
