"""Ids by the row that they name, beside a sort of torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.named_rows import named_rows, sum_ids


@pytest.mark.parametrize("rows", [1, 2, 257, 512, 513, 100_001, 4_068_791, 1 << 27, 1 << 40])
@pytest.mark.parametrize("ids", [0, 1, 31, 5_000])
def test_ids_are_in_order_of_their_rows_and_then_of_their_places(rows: int, ids: int) -> None:
    row_N = torch.randint(0, rows, (ids,), generator=torch.Generator().manual_seed(ids))
    row_N[: ids // 3] = rows - 1  # The largest, often.
    named = named_rows(row_N, rows)
    row_U, count_U = row_N.unique(return_counts=True)
    assert named.row_U.equal(row_U)
    assert named.start_U1.tolist() == [0, *count_U.cumsum(0).tolist()]
    assert named.order_N.equal(row_N.sort(stable=True).indices)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(row_N=st.lists(st.integers(0, 1_000_000), max_size=40), above=st.integers(1, 1 << 30))
def test_any_ids_are_sorted_whatever_the_table_has_above_them(row_N, above) -> None:
    row_N = torch.tensor(row_N, dtype=torch.int64)
    named = named_rows(row_N, 1_000_000 + above)
    assert row_N[named.order_N].equal(row_N.sort().values)
    assert named.row_U.equal(row_N.unique())


def test_ids_that_are_a_view_are_read_as_they_are() -> None:
    row_N = torch.tensor([5, 9, 3, 9, 5, 9])
    assert named_rows(row_N[::2], 10).order_N.tolist() == [1, 0, 2]


def test_gradients_of_equal_ids_are_summed() -> None:
    named = named_rows(torch.tensor([4, 1, 4]), 5)
    assert named.row_U.tolist() == [1, 4]
    grads = sum_ids(named, torch.tensor([[1.0, 2.0], [5.0, 6.0], [10.0, 20.0]]))
    assert grads.tolist() == [[5, 6], [11, 22]]
