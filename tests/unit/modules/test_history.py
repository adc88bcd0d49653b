"""Jagged requests in a dense grid: every cell by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.history import RequestGrid


def make_grid(history: list[int], targets: list[int]) -> RequestGrid:
    return RequestGrid(
        history_offset_R1=offsets(history),
        target_offset_R1=offsets(targets),
        num_history=max(1, *history),
        num_targets=max(1, *targets),
        total_targets=sum(targets),
    )


def offsets(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers).unsqueeze(1)


def test_a_behaviour_is_where_the_history_reaches() -> None:
    grid = make_grid([2, 0, 3], [1, 1, 1])
    assert grid.num_requests == 3
    assert grid.behaviour_RL().tolist() == [
        [True, True, False],
        [False, False, False],
        [True, True, True],
    ]


def test_jagged_values_lie_in_the_grid_with_zeros_behind_them() -> None:
    grid = make_grid([2, 0, 1], [1, 2, 1])
    assert grid.history(column(1, 2, 3)).squeeze(2).tolist() == [[1, 2], [0, 0], [3, 0]]
    assert grid.targets(column(4, 5, 6, 7)).squeeze(2).tolist() == [[4, 0], [5, 6], [7, 0]]


def test_equally_long_requests_are_a_view() -> None:
    grid = make_grid([2, 2], [1, 1])
    value_ND = column(1, 2, 3, 4)
    dense = grid.history(value_ND)
    assert dense.squeeze(2).tolist() == [[1, 2], [3, 4]]
    assert dense.data_ptr() == value_ND.data_ptr()


def test_targets_leave_the_grid_in_the_order_they_came() -> None:
    grid = make_grid([1, 1, 1], [2, 1, 3])
    assert grid.target_cell_T().tolist() == [0, 1, 3, 6, 7, 8]
    values = column(10, 11, 20, 30, 31, 32)
    assert torch.equal(grid.from_targets(grid.targets(values)), values)


def test_a_full_grid_needs_no_selection() -> None:
    grid = make_grid([1, 1], [2, 2])
    values = column(1, 2, 3, 4)
    assert torch.equal(grid.from_targets(grid.targets(values)), values)


def test_kept_rows_come_from_the_requests_own_history() -> None:
    grid = make_grid([2, 0, 3], [1, 1, 1])
    value_ND = column(10, 11, 30, 31, 32)
    index_RMK = torch.tensor([[[1, 0]], [[0, 1]], [[2, 0]]])
    kept = grid.kept_rows(value_ND, index_RMK).squeeze(3).squeeze(1)
    assert kept[0].tolist() == [11, 10]
    assert kept[2].tolist() == [32, 30]


def test_padding_columns_behind_the_last_history_do_not_reach_outside() -> None:
    grid = make_grid([3, 1], [1, 1])
    kept = grid.kept_rows(column(1, 2, 3, 9), torch.tensor([[[0, 1, 2]], [[0, 1, 2]]]))
    assert kept.shape == (2, 1, 3, 1)
    assert kept[1, 0, 0].item() == 9


def test_a_batch_without_any_behaviour_keeps_zeros() -> None:
    grid = make_grid([0, 0], [1, 2])
    assert not grid.behaviour_RL().any()
    kept = grid.kept_rows(torch.zeros(0, 4), torch.zeros(2, 2, 1, dtype=torch.long))
    assert kept.shape == (2, 2, 1, 4)
    assert kept.eq(0).all()
    assert grid.history(torch.zeros(0, 4)).shape == (2, 1, 4)
