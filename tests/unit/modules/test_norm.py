"""Norms of the head's input against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.norm import BatchNorm, make_norm

WIDTH = 5


def values(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def pair(kind, theirs: nn.Module, inner: str = "") -> tuple[nn.Module, nn.Module]:
    """Our norm and PyTorch's with the same scale and shift."""
    ours = make_norm(kind, WIDTH, "running")
    with torch.no_grad():
        target = ours.get_submodule(inner)
        for name, offset in (("weight", 1.0), ("bias", -2.0)):
            getattr(theirs, name).copy_(torch.arange(WIDTH) + offset)
            getattr(target, name).copy_(getattr(theirs, name))
    return ours, theirs


def corrected(theirs: nn.BatchNorm1d, steps: int) -> None:
    """Take mean 0 and variance 1, which it started from, out of PyTorch's running statistics."""
    left = 0.9**steps
    theirs.running_mean /= 1 - left
    theirs.running_var = (theirs.running_var - left) / (1 - left)


@pytest.mark.parametrize("kind", ["batch", "batch_all_ranks"])
def test_batch_norm_equals_pytorchs_in_training_and_evaluation(kind) -> None:
    ours, theirs = pair(kind, nn.BatchNorm1d(WIDTH))
    for step in range(4):
        mine, other = (values(step, 6).requires_grad_() for _ in range(2))
        result, wanted = ours(mine, torch.ones(6, dtype=torch.bool)), theirs(other)
        torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-5)
        result.square().sum().backward()
        wanted.square().sum().backward()
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)
    corrected(theirs, steps=4)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_variance, theirs.running_var)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)
    ours.eval(), theirs.eval()
    before = ours.running_mean.clone()
    torch.testing.assert_close(
        ours(values(9, 3), torch.ones(3, dtype=torch.bool)), theirs(values(9, 3))
    )
    assert torch.equal(ours.running_mean, before)


def test_padding_targets_take_no_part() -> None:
    ours, theirs = pair("batch", nn.BatchNorm1d(WIDTH))
    counts = torch.tensor([True, False, True, True, False, True])
    padded = values(1, 6)
    padded[~counts] = 1e6
    torch.testing.assert_close(ours(padded, counts)[counts], theirs(padded[counts]))
    corrected(theirs, steps=1)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_variance, theirs.running_var)


def test_a_batch_of_padding_only_changes_no_statistics_and_stays_finite() -> None:
    norm = BatchNorm(WIDTH, all_ranks=False, evaluation="running")
    norm(values(1, 6), torch.ones(6, dtype=torch.bool))
    before = norm.running_mean.clone(), norm.running_variance.clone()
    value = values(2, 1).requires_grad_()
    result = norm(value, torch.zeros(1, dtype=torch.bool))
    (result * 0).sum().backward()
    assert result.isfinite().all()
    assert value.grad.isfinite().all()
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_variance, before[1])


def test_a_constant_column_becomes_its_bias() -> None:
    """The target's position is such a column in every batch."""
    norm = BatchNorm(1, all_ranks=False, evaluation="running")
    norm.bias.data.fill_(0.5)
    result = norm(torch.full((7, 1), 0.3), torch.ones(7, dtype=torch.bool))
    torch.testing.assert_close(result, torch.full((7, 1), 0.5), rtol=0, atol=2e-5)


def test_batch_statistics_in_evaluation_are_the_released_codes_way() -> None:
    norm = make_norm("batch", WIDTH, "batch").eval()
    value, every = values(3, 6), torch.ones(6, dtype=torch.bool)
    torch.testing.assert_close(norm(value, every), nn.BatchNorm1d(WIDTH)(value))
    assert norm.running_mean.eq(0).all()


def test_layer_norm_equals_pytorchs_and_ignores_what_counts() -> None:
    ours, theirs = pair("layer", nn.LayerNorm(WIDTH), "norm")
    value = values(4, 3)
    torch.testing.assert_close(ours(value, torch.zeros(3, dtype=torch.bool)), theirs(value))


def test_no_norm_changes_nothing() -> None:
    value = values(5, 2)
    assert make_norm("none", WIDTH, "running")(value, torch.ones(2, dtype=torch.bool)) is value


@pytest.mark.parametrize("steps", [1, 5, 400])
def test_a_column_that_never_varies_is_zero_in_evaluation_as_in_training(steps: int) -> None:
    norm = make_norm("batch", 2, "running")
    for step in range(steps):
        constant = torch.full((8, 1), 0.3 + 0.001 * step)
        norm(torch.cat([constant, torch.randn(8, 1)], dim=1), torch.ones(8, dtype=torch.bool))
    norm.eval()
    ahead = torch.tensor([[0.75, 1.0]])
    output = norm(ahead, torch.ones(1, dtype=torch.bool))
    assert output[0, 0] == 0
    assert 0.2 < output[0, 1] < 2


def test_running_statistics_weigh_batches_by_their_targets() -> None:
    """Two batches of 6 and 2: 0.9 * 6 and 2 parts."""
    norm, every = make_norm("batch", 1, "running"), torch.ones(6, dtype=torch.bool)
    norm(torch.tensor([[1.0]] * 6), every)
    assert norm.running_mean.tolist() == [1]
    norm(torch.tensor([[4.0]] * 2), every[:2])
    torch.testing.assert_close(norm.running_mean, torch.tensor([(5.4 * 1 + 2 * 4) / 7.4]))
