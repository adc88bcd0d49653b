"""Compiled loops side by side, in as many threads as torch uses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


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
    total = int(start_G1[-1])
    parts = max(1, min(torch.get_num_threads(), total // fewest))
    cuts = torch.arange(1, parts) * total // parts
    inner = torch.searchsorted(start_G1, cuts.to(start_G1.dtype)).tolist()
    bounds = [0, *inner, start_G1.numel() - 1]
    started = [pool().submit(loop, begin, end, *given) for begin, end in pairwise(bounds[1:])]
    loop(bounds[0], bounds[1], *given)
    for part in started:
        part.result()


@functools.cache
def pool() -> ThreadPoolExecutor:
    """That waits for work without spinning; the caller's own thread does a part too."""
    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), thread_name_prefix="loops")
