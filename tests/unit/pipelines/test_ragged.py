import numpy as np
import pyarrow as pa

from pipelines.ragged import backward_ranges, flat, list_column, ranges


def test_a_part_of_a_list_column_has_its_own_values_and_offsets_from_0() -> None:
    whole = pa.array([[1, 2], [], [3], [4, 5, 6]])
    for column in (whole.slice(1, 2), pa.chunked_array([whole.slice(1, 1), whole.slice(2, 1)])):
        values, offsets = flat(column)
        assert values.to_pylist() == [3]
        assert offsets.tolist() == [0, 0, 1]


def test_flat_and_list_column_undo_each_other() -> None:
    for rows in ([[1, 2], [], [3]], [[]], []):
        column = pa.array(rows, pa.list_(pa.int64()))
        assert list_column(*flat(column)).to_pylist() == rows


def test_ranges_are_slices_after_each_other_forward_and_backward() -> None:
    length = np.array([2, 0, 3])
    assert ranges(np.array([5, 9, 0]), length).tolist() == [5, 6, 0, 1, 2]
    assert backward_ranges(np.array([7, 9, 3]), length).tolist() == [6, 5, 2, 1, 0]
