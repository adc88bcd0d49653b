"""Asking a processor for memory before it is read, inside compiled loops.

Rows of a large table are not in a cache, and a loop that waits for each does little else: with the
rows of a few turns ahead under way, a step of Adam over 400,000 rows of 16 numbers takes a quarter
of the time (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

AHEAD = 32
"""Turns of a loop that memory is asked for before it is read."""
_LINE = 16
"""float32 of a cache line."""
_WRITE, _KEEP, _DATA = 1, 3, 1
"""Arguments of LLVM's intrinsic: to be written, into the nearest cache, data."""


def _prefetch(_typing: Any, array: Any, place: Any) -> tuple[Any, Any]:  # noqa: ARG001
    """The cache line of `array.ravel()[place]`, of a contiguous array; outside nothing happens."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.bitcast(builder.gep(base, [arguments[1]]), byte)
        called = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, number, number, number]),
            "llvm.prefetch.p0",
        )
        builder.call(called, [address, number(_WRITE), number(_KEEP), number(_DATA)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


_ask = cast(Callable[[npt.NDArray[np.float32], int], None], intrinsic(_prefetch))


@numba.njit(nogil=True)
def ask_for_row(array: npt.NDArray[np.float32], row: int, width: int) -> None:
    """Let a row of a contiguous array come into the cache.

    Args:
        array: [rows, width], or [rows] where the width is 1.
        row: that will be read or written soon.
        width: numbers of a row.
    """
    for place in range(row * width, (row + 1) * width, _LINE):
        _ask(array, place)
