"""One number a row and column shard, brought to other column shards, by hand."""

import pytest
import torch

from trainer.checkpoints.row_state import _mean_of_parts

PARTS = torch.tensor([[1.0, 10.0], [4.0, 40.0], [7.0, 70.0]])  # Three shards of two rows.
EDGES = [0, 4, 8, 16]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ([0, 16], [(4 * 1 + 4 * 4 + 8 * 7) / 16, (4 * 10 + 4 * 40 + 8 * 70) / 16]),
        ([0, 8], [2.5, 25.0]),
        ([4, 8], [4.0, 40.0]),
        ([8, 12], [7.0, 70.0]),
        ([6, 12], [(2 * 4 + 4 * 7) / 6, (2 * 40 + 4 * 70) / 6]),
    ],
)
def test_the_mean_over_columns_is_that_of_the_parts_by_their_widths(
    columns: list[int], expected: list[float]
) -> None:
    mean = _mean_of_parts(PARTS, EDGES, columns)
    torch.testing.assert_close(mean, torch.tensor(expected))
