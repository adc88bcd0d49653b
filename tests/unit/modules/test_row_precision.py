"""Rows in fewer bytes are off by no more than their format's step."""

import pytest
import torch

from modules.row_precision import decode, encode, stored_columns


def test_a_row_of_8_bits_has_its_range_over_255_as_step():
    row = torch.tensor([[-1.0, 0.02, 50.0, 126.5]])  # Range 127.5: the step is 0.5, the bias -1.
    stored = encode(row, "int8")
    assert stored.shape == (1, stored_columns(4, "int8")) == (1, 12)
    assert stored[0, :4].tolist() == [0, 2, 102, 255]
    assert stored[0, 4:].contiguous().view(torch.float32).tolist() == [0.5, -1.0]
    assert decode(stored, "int8").tolist() == [[-1.0, 0.0, 50.0, 126.5]]


def test_no_number_is_off_by_more_than_half_a_step():
    rows = torch.randn(1000, 16, generator=torch.Generator().manual_seed(1))
    half = (rows.amax(1) - rows.amin(1)) / 510
    error = (decode(encode(rows, "int8"), "int8") - rows).abs().amax(1)
    assert (error <= half * (1 + 1e-4)).all()
    assert (error > 0.8 * half).any()  # The bound is near.


def test_bf16_keeps_8_digits_of_a_number():
    rows = torch.randn(1000, 16, generator=torch.Generator().manual_seed(1))
    error = (decode(encode(rows, "bf16"), "bf16") - rows).abs()
    assert (error <= rows.abs() / 256).all()
    assert error.max() > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_row_of_equal_numbers_comes_back(precision):
    rows = torch.full((2, 8), 0.25)
    assert decode(encode(rows, precision), precision).equal(rows)
