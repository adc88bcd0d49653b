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
    # PyTorch's are a tenth of the first batch, and nine of mean 0 and variance 1.
    torch.testing.assert_close(norm.running_mean, whole.running_mean * 10)
    torch.testing.assert_close(norm.running_variance, whole.running_var * 10 - 9)


def averaged(rank: int, seen: list[float]) -> BatchNorm:
    """A norm of means 0 and 1 and variances 2 and 6 on the two ranks, after the average."""
    norm = BatchNorm(WIDTH, all_ranks=False, evaluation="running")
    norm.running_mean.fill_(float(rank))
    norm.running_variance.fill_(2.0 + 4 * rank)
    norm.seen.fill_(seen[rank])
    average_running_statistics(nn.Sequential(norm))
    return norm


def check_running_statistics_become_their_mean_by_what_ranks_have_seen(rank: int) -> None:
    for seen, mean, variance in (
        ([8.0, 8.0], 0.5, 4.0),
        ([6.0, 2.0], 0.25, 3.0),
        ([8.0, 0.0], 0.0, 2.0),
        ([0.0, 0.0], float(rank), 2.0 + 4 * rank),
    ):
        norm = averaged(rank, seen)
        assert norm.running_mean.tolist() == [mean] * WIDTH
        assert norm.running_variance.tolist() == [variance] * WIDTH
        assert norm.seen == sum(seen) / 2


def check_a_rank_without_data_takes_the_others_statistics(rank: int) -> None:
    norm = BatchNorm(WIDTH, all_ranks=False, evaluation="running")
    for _ in range(3):
        norm(torch.full((4, WIDTH), 5.0), torch.full((4,), rank == 0))
    average_running_statistics(nn.Sequential(norm))
    torch.testing.assert_close(norm.running_mean, torch.full((WIDTH,), 5.0))
    torch.testing.assert_close(norm.running_variance, torch.zeros(WIDTH))


def check_all(rank: int) -> None:
    check_one_norm_over_both_ranks(rank)
    check_running_statistics_become_their_mean_by_what_ranks_have_seen(rank)
    check_a_rank_without_data_takes_the_others_statistics(rank)


@pytest.mark.dist
def test_ranks_normalise_as_one() -> None:
    run_on_ranks(2, check_all)
