"""Rows of a table in fewer bytes: bf16, or 8 bits a number with a scale and a bias a row.

The 8 bits are FBGEMM's rowwise format: D bytes q, then scale s and bias b as float32, and a number
is `s * q + b` with b the row's least number and s its range over 255. So no number is further off
than half a step, `(most - least) / 510`, besides float32's own rounding. Letters: N rows, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from fbgemm_gpu import sparse_ops  # noqa: F401  Registers the operators.
from torch import Tensor

RowPrecision = Literal["fp32", "bf16", "int8"]
SCALE_BYTES = 8
"""Of scale and bias, behind each row of int8."""
STORED_TYPES: dict[RowPrecision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.uint8,
}


def stored_columns(width: int, precision: RowPrecision) -> int:
    """Columns of a stored row of so many numbers."""
    return width + (SCALE_BYTES if precision == "int8" else 0)


def encode(rows_ND: Tensor, precision: RowPrecision) -> Tensor:
    """Rows as they are stored.

    Args:
        rows_ND: float32.
        precision: to store them in.
    """
    if precision == "int8":
        fused: Tensor = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(rows_ND.contiguous())
        return fused
    return rows_ND.to(STORED_TYPES[precision])


def decode(stored: Tensor, precision: RowPrecision) -> Tensor:
    """Stored rows as float32, value_ND."""
    if precision == "int8":
        value_ND: Tensor = torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat(stored.contiguous())
        return value_ND
    return stored.float()
