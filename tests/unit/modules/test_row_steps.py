"""Steps of rows in several threads; their formulas are tested through `HostTables`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modules import row_steps
from modules.named_rows import NamedRows, named_rows
from modules.row_steps import AdamNumbers

ROWS, WIDTH, IDS = 700, 5, 20_000
ADAM = AdamNumbers(lr=0.1, beta1=0.9, beta2=0.99, eps=1e-3, step=3)


def batch() -> tuple[NamedRows, Tensor, list[Tensor]]:
    """Ids of which row 3 takes a half, their gradients, and weights, moments, sums of squares."""
    generator = torch.Generator().manual_seed(1)
    row_N = torch.randint(0, ROWS, (IDS,), generator=generator)
    row_N[::2] = 3
    grad_ND = torch.randn(IDS, WIDTH, generator=generator)
    homes = [torch.rand(ROWS, WIDTH, generator=generator) for _ in range(3)]
    return named_rows(row_N, ROWS), grad_ND, [*homes, torch.rand(ROWS, generator=generator)]


def step(optimizer: str) -> list[Tensor]:
    named, grad_ND, (weight, first, second, square) = batch()
    if optimizer == "sgd":
        row_steps.sgd(weight, named, grad_ND, 0.1)
    elif optimizer == "rowwise_adagrad":
        row_steps.rowwise_adagrad(weight, square, named, grad_ND, lr=0.1, eps=1e-3)
    elif optimizer == "adam":
        row_steps.adam(weight, first, second, named, grad_ND, ADAM)
    else:
        row_steps.partial_rowwise_adam(weight, first, square, named, grad_ND, ADAM)
    return [weight, first, second, square]


@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad", "adam", "partial_rowwise_adam"])
def test_any_number_of_threads_leaves_the_same_bits(
    optimizer: str, use_threads: Callable[[int], None]
) -> None:
    use_threads(1)
    alone = step(optimizer)
    assert not torch.equal(alone[0], batch()[2][0])
    for threads in (2, 3, 7):
        use_threads(threads)
        for one, several in zip(alone, step(optimizer), strict=True):
            assert torch.equal(one, several)


def test_every_named_row_is_stepped_once_and_no_other(use_threads: Callable[[int], None]) -> None:
    """With a rate of 1 and gradients of 1, plain SGD takes each row's number of ids away."""
    use_threads(3)
    row_N = torch.arange(IDS) % 7 * 100
    weight = torch.zeros(ROWS, WIDTH)
    row_steps.sgd(weight, named_rows(row_N, ROWS), torch.ones(IDS, WIDTH), 1.0)
    expected = -torch.bincount(row_N, minlength=ROWS).float()
    assert torch.equal(weight, expected.unsqueeze(1).expand(-1, WIDTH))


def test_tables_of_another_type_are_refused() -> None:
    named, grad_ND, (weight, *_) = batch()
    with pytest.raises(TypeError, match=r"torch.float64.*float32"):
        row_steps.sgd(weight.double(), named, grad_ND, 0.1)


def test_gradients_that_are_views_are_read_as_they_are() -> None:
    named, _, (weight, *_) = batch()
    other = weight.clone()
    wide_ND = torch.randn(IDS, 2 * WIDTH)
    row_steps.sgd(weight, named, wide_ND[:, WIDTH:], 0.1)
    row_steps.sgd(other, named, wide_ND[:, WIDTH:].clone(), 0.1)
    assert torch.equal(weight, other)
