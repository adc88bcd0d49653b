"""Compiled loops side by side, in as many threads as torch uses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def in_threads(
    loop: Callable[..., None], start_G1: Tensor, given: tuple[Any, ...], *, fewest: int
) -> None:
    """Run a loop over parts of some groups with about equally many elements each.

    Args:
        loop: compiled, of the first group, the one after the last, and what is given.
        start_G1: where each group's elements start, with the total at the end.
        given: the loop's other arguments.
        fewest: elements that are worth a thread of their own.
    """
    cuts = torch.tensor(_cuts(int(start_G1[-1]), fewest), dtype=start_G1.dtype)
    inner = torch.searchsorted(start_G1, cuts).tolist()
    _run(loop, [0, *inner, start_G1.numel() - 1], given)


def each_in_threads(
    loop: Callable[..., None], total: int, given: tuple[Any, ...], *, fewest: int
) -> None:
    """Run a loop over parts of some elements; as `in_threads`, a group an element."""
    _run(loop, [0, *_cuts(total, fewest), total], given)


def soon(work: Callable[..., Result], *given: Any) -> Callable[[], Result]:
    """Begin work that lets other threads run, where torch uses several, else when it is asked for.

    Args:
        work: to be done once.
        given: its arguments.

    Returns:
        Waits for the result.
    """
    if torch.get_num_threads() == 1:
        return functools.partial(work, *given)
    return _ahead().submit(work, *given).result


def _cuts(total: int, fewest: int) -> list[int]:
    parts = max(1, min(torch.get_num_threads(), total // fewest))
    return [part * total // parts for part in range(1, parts)]


def _run(loop: Callable[..., None], bounds: Sequence[int], given: tuple[Any, ...]) -> None:
    started = [pool().submit(loop, begin, end, *given) for begin, end in pairwise(bounds[1:])]
    loop(bounds[0], bounds[1], *given)
    for part in started:
        part.result()


@functools.cache
def pool() -> ThreadPoolExecutor:
    """That waits for work without spinning; the caller's own thread does a part too."""
    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), thread_name_prefix="loops")


@functools.cache
def _ahead() -> ThreadPoolExecutor:
    """Of its own, so that no loop stands behind what is done ahead."""
    return ThreadPoolExecutor(1, thread_name_prefix="ahead")
