"""What tests of compiled loops share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from modules.threads import pool


@pytest.fixture
def use_threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads loops have; afterwards there are as many as before."""
    before = torch.get_num_threads()

    def use(threads: int) -> None:
        torch.set_num_threads(threads)
        pool.cache_clear()

    yield use
    use(before)
