"""What an optimizer does to the rows of a table that a batch names, compiled for the processor.

A step sums the gradients of a row's ids and moves the row in one pass, so that each row and its
optimizer state are read and written once and nothing of the size of a batch is laid out between.
Threads share the rows; a row is one thread's, and its ids are summed in their order, so that the
result does not depend on the number of threads. Letters: N ids, U different rows, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modules.compiling import compiled
from modules.named_rows import NamedRows
from modules.prefetch import AHEAD, ask_for_row
from modules.threads import in_threads

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_FEWEST_IDS = 4096
"""That are worth a thread of their own."""


def sgd(weight: Tensor, named: NamedRows, grad_ND: Tensor, lr: float) -> None:
    """`w -= lr g`, in place.

    Args:
        weight: the table, float32 [rows, D].
        named: the rows of the batch.
        grad_ND: the gradient of each id.
        lr: learning rate.
    """
    _take(_sgd, named, grad_ND, [weight], np.float32(lr))


def rowwise_adagrad(
    weight: Tensor, total: Tensor, named: NamedRows, grad_ND: Tensor, *, lr: float, eps: float
) -> None:
    """`s += mean g^2; w -= lr g / (sqrt s + eps)`, in place (FBGEMM's exact rowwise Adagrad).

    Args:
        weight: the table, float32 [rows, D].
        total: s, float32 [rows].
        named: the rows of the batch.
        grad_ND: the gradient of each id.
        lr: learning rate.
        eps: added to the root.
    """
    numbers = np.float32(lr), np.float32(eps)
    _take(_rowwise_adagrad, named, grad_ND, [weight, total], *numbers)


class AdamNumbers(NamedTuple):
    """What Adam needs beside the state of its rows."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    step: int
    """1 at the first."""

    def for_kernels(self) -> _Numbers:
        """The rate over the first moment's share; the root of the second moment's share."""
        first, second = (1 - beta**self.step for beta in (self.beta1, self.beta2))
        given = self.lr / first, self.beta1, self.beta2, self.eps, math.sqrt(second)
        return _Numbers(*(np.float32(number) for number in given))


def adam(
    weight: Tensor,
    first: Tensor,
    second: Tensor,
    named: NamedRows,
    grad_ND: Tensor,
    numbers: AdamNumbers,
) -> None:
    """Adam (arXiv:1412.6980) of the rows that are named, in place, as `torch.optim.Adam`.

    Args:
        weight: the table, float32 [rows, D].
        first: first moments, of the same shape.
        second: second moments, of the same shape.
        named: the rows of the batch.
        grad_ND: the gradient of each id.
        numbers: of this step.
    """
    _take(_adam, named, grad_ND, [weight, first, second], numbers.for_kernels())


def partial_rowwise_adam(
    weight: Tensor,
    first: Tensor,
    second: Tensor,
    named: NamedRows,
    grad_ND: Tensor,
    numbers: AdamNumbers,
) -> None:
    """Adam whose second moment is one number a row, the mean square of the row's gradient.

    Arguments as `adam` takes them, but that `second` is float32 [rows].
    """
    homes = [weight, first, second]
    _take(_partial_rowwise_adam, named, grad_ND, homes, numbers.for_kernels())


class _Batch(NamedTuple):
    """The rows that are named and the gradients of their ids, as a kernel reads them."""

    row_U: Integers
    start_U1: Integers
    order_N: Integers
    grad_ND: Floats


class _Numbers(NamedTuple):
    """What Adam's kernels read (`AdamNumbers.for_kernels`)."""

    rate: np.float32
    beta1: np.float32
    beta2: np.float32
    eps: np.float32
    root: np.float32


@compiled
def _sum_ids(total_D: Floats, u: int, batch: _Batch) -> None:
    """Sum a row's gradients in the order of its ids."""
    _, start_U1, order_N, grad_ND = batch
    last, start = order_N.size - 1, start_U1[u]
    for number in range(start, start_U1[u + 1]):
        ask_for_row(grad_ND, order_N[min(number + AHEAD, last)], total_D.size)
        place = order_N[number]
        if number == start:
            for d in range(total_D.size):
                total_D[d] = grad_ND[place, d]
        else:
            for d in range(total_D.size):
                total_D[d] += grad_ND[place, d]


@compiled
def _mean_square(grad_D: Floats) -> np.float32:
    square = np.float32(0.0)
    for d in range(grad_D.size):
        square += grad_D[d] * grad_D[d]
    return square / np.float32(grad_D.size)


@compiled
def _sgd(begin: int, end: int, batch: _Batch, weight: Floats, lr: np.float32) -> None:
    grad_D = np.empty(weight.shape[1], np.float32)
    for u in range(begin, end):
        row, later = batch.row_U[u], batch.row_U[min(u + AHEAD, end - 1)]
        ask_for_row(weight, later, grad_D.size)
        _sum_ids(grad_D, u, batch)
        for d in range(grad_D.size):
            weight[row, d] -= lr * grad_D[d]


@compiled
def _rowwise_adagrad(
    begin: int,
    end: int,
    batch: _Batch,
    weight: Floats,
    total: Floats,
    lr: np.float32,
    eps: np.float32,
) -> None:
    grad_D = np.empty(weight.shape[1], np.float32)
    for u in range(begin, end):
        row, later = batch.row_U[u], batch.row_U[min(u + AHEAD, end - 1)]
        ask_for_row(weight, later, grad_D.size)
        ask_for_row(total, later, 1)
        _sum_ids(grad_D, u, batch)
        total[row] += _mean_square(grad_D)
        rate = lr / (np.sqrt(total[row]) + eps)
        for d in range(grad_D.size):
            weight[row, d] -= rate * grad_D[d]


@compiled
def _adam(
    begin: int,
    end: int,
    batch: _Batch,
    weight: Floats,
    first: Floats,
    second: Floats,
    numbers: _Numbers,
) -> None:
    rate, beta1, beta2, eps, root = numbers
    grad_D = np.empty(weight.shape[1], np.float32)
    new1, new2 = np.float32(1.0) - beta1, np.float32(1.0) - beta2
    for u in range(begin, end):
        row, later = batch.row_U[u], batch.row_U[min(u + AHEAD, end - 1)]
        ask_for_row(weight, later, grad_D.size)
        ask_for_row(first, later, grad_D.size)
        ask_for_row(second, later, grad_D.size)
        _sum_ids(grad_D, u, batch)
        for d in range(grad_D.size):
            grad = grad_D[d]
            mean = first[row, d] + new1 * (grad - first[row, d])
            square = second[row, d] * beta2 + new2 * grad * grad
            first[row, d] = mean
            second[row, d] = square
            weight[row, d] -= rate * mean / (np.sqrt(square) / root + eps)


@compiled
def _partial_rowwise_adam(
    begin: int,
    end: int,
    batch: _Batch,
    weight: Floats,
    first: Floats,
    second: Floats,
    numbers: _Numbers,
) -> None:
    rate, beta1, beta2, eps, root = numbers
    grad_D = np.empty(weight.shape[1], np.float32)
    for u in range(begin, end):
        row, later = batch.row_U[u], batch.row_U[min(u + AHEAD, end - 1)]
        ask_for_row(weight, later, grad_D.size)
        ask_for_row(first, later, grad_D.size)
        ask_for_row(second, later, 1)
        _sum_ids(grad_D, u, batch)
        square = (np.float32(1.0) - beta2) * _mean_square(grad_D)
        second[row] = second[row] * beta2 + square
        row_rate = rate / (np.sqrt(second[row]) / root + eps)
        for d in range(grad_D.size):
            mean = first[row, d] + (np.float32(1.0) - beta1) * (grad_D[d] - first[row, d])
            first[row, d] = mean
            weight[row, d] -= row_rate * mean


def _take(
    kernel: Callable[..., None],
    named: NamedRows,
    grad_ND: Tensor,
    homes: list[Tensor],
    *numbers: np.float32 | _Numbers,
) -> None:
    """Run a kernel over parts of the rows with about equally many ids, as many as torch uses."""
    for value in (grad_ND, *homes):
        if value.dtype != torch.float32:
            raise TypeError(f"a step of {value.dtype}; on CPU tables and gradients are float32")
    batch = _Batch(*(given.numpy() for given in (*named, grad_ND.contiguous())))
    given: Any = (batch, *(home.numpy() for home in homes), *numbers)
    in_threads(kernel, named.start_U1, given, fewest=_FEWEST_IDS)
