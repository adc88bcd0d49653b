"""Batch norm over ranks against one norm over all their targets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modules.norm import BatchNorm, average_running_statistics
from tests.ranks import run_on_ranks

WIDTH = 4
COUNTS = [torch.tensor([True, True, False, True, True]), torch.tensor([True, False, True])]


def values(rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(len(COUNTS[rank]), WIDTH, generator=generator) * (rank + 1) + rank


def check_one_norm_over_both_ranks(rank: int) -> None:
    norm = BatchNorm(WIDTH, all_ranks=True, evaluation="running")
    value = values(rank).requires_grad_()
    counts = COUNTS[rank]
    result = norm(value, counts)[counts]
    result.pow(3).sum().backward()

    whole = nn.BatchNorm1d(WIDTH)
    every = torch.cat([values(r)[COUNTS[r]] for r in range(2)]).requires_grad_()
    wanted = whole(every)
    wanted.pow(3).sum().backward()
    mine = slice(0, 4) if rank == 0 else slice(4, 6)
    assert value.grad is not None
    assert every.grad is not None
    torch.testing.assert_close(result, wanted[mine], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(value.grad[counts], every.grad[mine], rtol=1e-4, atol=1e-4)
    assert value.grad[~counts].eq(0).all()
    torch.testing.assert_close(norm.running_mean, whole.running_mean)
    torch.testing.assert_close(norm.running_variance, whole.running_var)


def check_running_statistics_become_their_mean(rank: int) -> None:
    norm = BatchNorm(WIDTH, all_ranks=False, evaluation="running")
    norm.running_mean.fill_(float(rank))
    norm.running_variance.fill_(2.0 + 4 * rank)
    average_running_statistics(nn.Sequential(norm))
    assert norm.running_mean.tolist() == [0.5] * WIDTH
    assert norm.running_variance.tolist() == [4.0] * WIDTH


def check_all(rank: int) -> None:
    check_one_norm_over_both_ranks(rank)
    check_running_statistics_become_their_mean(rank)


@pytest.mark.dist
def test_ranks_normalise_as_one() -> None:
    run_on_ranks(2, check_all)
