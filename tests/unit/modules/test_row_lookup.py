"""Rows of tables that caches hold, and of others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from modules import row_lookup
from modules.row_lookup import look_up


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("width", [1, 5, 16, 40])
@pytest.mark.parametrize("held", [True, False])
def test_each_id_gets_its_row(held, width, dtype, monkeypatch, use_threads) -> None:
    monkeypatch.setattr(row_lookup, "_IN_CACHE", 1 << 40 if held else 0)
    generator = torch.Generator().manual_seed(width)
    weight = torch.randn(300, width, generator=generator).to(dtype)
    row_N = torch.randint(0, 300, (20_001,), generator=generator)
    for threads in (1, 2, 5):
        use_threads(threads)
        found_ND = torch.full((len(row_N), width), torch.nan, dtype=dtype)
        look_up(weight, row_N, found_ND)
        assert found_ND.equal(weight[row_N])


@pytest.mark.parametrize("wrong", [-1, 7, 1 << 40])
@pytest.mark.parametrize("held", [True, False])
def test_an_id_outside_the_table_is_an_error(
    held: bool, wrong: int, monkeypatch: pytest.MonkeyPatch, use_threads: Callable[[int], None]
) -> None:
    monkeypatch.setattr(row_lookup, "_IN_CACHE", 1 << 40 if held else 0)
    use_threads(2)
    row_N = torch.zeros(9_000, dtype=torch.int64)
    row_N[8_000] = wrong
    message = "out of range" if held else f"id {wrong} is outside its table of 7 rows"
    with pytest.raises(IndexError, match=message):
        look_up(torch.zeros(7, 4), row_N, torch.empty(9_000, 4))


def test_without_ids_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_lookup, "_IN_CACHE", 0)
    look_up(torch.zeros(7, 4), torch.zeros(0, dtype=torch.int64), torch.empty(0, 4))
