"""How jagged requests lie in a dense grid while they are scored.

Letters: R requests, T targets, M targets of the fullest request, L behaviours of the longest
history (newest first, so column l holds position l + 1), K kept, N jagged total, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class RequestGrid:
    """The shape of one batch: which cells of [R, M] are targets, which of [R, L] behaviours."""

    history_offset_R1: Tensor
    """Where each request's behaviours start among all, with the total at the end."""
    target_offset_R1: Tensor
    """Where each request's targets start among all, with the total at the end."""
    num_history: int
    """L."""
    num_targets: int
    """M."""
    total_targets: int
    """T."""

    @property
    def num_requests(self) -> int:
        """R."""
        return self.target_offset_R1.numel() - 1

    def behaviour_RL(self) -> Tensor:
        """True where a behaviour is, False on padding."""
        length_R1 = self.history_offset_R1.diff().unsqueeze(1)
        column_L = torch.arange(self.num_history, device=length_R1.device)
        return column_L < length_R1

    def history(self, value_ND: Tensor) -> Tensor:
        """Jagged behaviours as value_RLD, zeros on padding."""
        return padded(value_ND, self.history_offset_R1, self.num_history)

    def targets(self, value_TD: Tensor) -> Tensor:
        """Jagged targets as value_RMD, zeros on padding."""
        return padded(value_TD, self.target_offset_R1, self.num_targets)

    def from_targets(self, value_RMD: Tensor) -> Tensor:
        """The targets' cells of a grid, in the order of the batch: value_TD."""
        value_CD = value_RMD.flatten(0, 1)
        if self.total_targets == value_CD.size(0):
            return value_CD
        return value_CD.index_select(0, self.target_cell_T())

    def target_cell_T(self) -> Tensor:
        """Cell r * M + m of each target in the flattened grid."""
        count_R = self.target_offset_R1.diff()
        request_T = torch.repeat_interleave(
            torch.arange(self.num_requests, device=count_R.device),
            count_R,
            output_size=self.total_targets,
        )
        number_T = torch.arange(self.total_targets, device=count_R.device)
        return request_T * self.num_targets + number_T - self.target_offset_R1[request_T]

    def kept_rows(self, value_ND: Tensor, index_RMK: Tensor) -> Tensor:
        """Rows of kept behaviours, straight from the jagged values.

        Args:
            value_ND: jagged behaviours.
            index_RMK: columns of the kept ones; on padding, any column.

        Returns:
            value_RMKD. What padding returns is some behaviour's row: its weight must be zero.
        """
        if value_ND.size(0) == 0:
            # Tied to the lookup all the same: over ranks, its backward is a collective.
            return value_ND.sum() + value_ND.new_zeros(*index_RMK.shape, value_ND.size(1))
        row_RMK = index_RMK + self.history_offset_R1[:-1, None, None]
        row_C = row_RMK.clamp(max=value_ND.size(0) - 1).flatten()
        return value_ND.index_select(0, row_C).view(*index_RMK.shape, -1)


class Histories(NamedTuple):
    """Jagged rows of behaviours, and the targets that are multiplied with them."""

    parts: Sequence[Tensor]
    """Of the behaviours, feature by feature, each [N, its width]; or joined, in one."""
    query_RMD: Tensor
    """Of the targets."""
    offset_R1: Tensor
    """Where each request's behaviours start, with the total at the end."""


def padded(value_ND: Tensor, offset_G1: Tensor, longest: int) -> Tensor:
    """Jagged rows of G groups as value_GLD, zeros on padding.

    Args:
        value_ND: rows, group by group.
        offset_G1: where each group starts, with the total at the end.
        longest: L.
    """
    groups = offset_G1.numel() - 1
    if value_ND.size(0) == groups * longest:
        return value_ND.view(groups, longest, value_ND.size(1))
    dense: Tensor = torch.ops.fbgemm.jagged_to_padded_dense(value_ND, [offset_G1], [longest])
    return dense


def padded_ids(id_N: Tensor, offset_G1: Tensor, longest: int) -> Tensor:
    """Jagged ids of G groups as id_GL, -1 on padding; FBGEMM pads no integers of 64 bits.

    Args:
        id_N: ids, group by group.
        offset_G1: where each group starts, with the total at the end.
        longest: L.
    """
    column_L = torch.arange(longest, device=id_N.device)
    place_GL = offset_G1[:-1, None] + column_L
    # The one more at the end is what all padding reads.
    padded_N1 = torch.cat([id_N, id_N.new_full((1,), -1)])
    return padded_N1[place_GL.where(column_L < offset_G1.diff().unsqueeze(1), id_N.numel())]
