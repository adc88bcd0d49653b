"""Compiling loops for the processor with Numba, and keeping what is compiled for later runs.

What is kept saves some seconds of a start. A process that can keep or read nothing, as where
neither the program's folder nor a home can be written, or the disk is full, compiles for itself.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

_Loop = TypeVar("_Loop", bound=Callable[..., Any])
_DAMAGED = (EOFError, pickle.UnpicklingError)


class _Kept(FunctionCache):
    """As Numba keeps it, without ending the process where that fails.

    What this file and `prefetch.py` say is compiled into loops of other files, whose dates are all
    that Numba looks at: so it is a part of the key.
    """

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return *super()._index_key(sig, codegen), _sources()  # type: ignore[no-untyped-call]

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is kept for these types of arguments; None where it is not there to be read."""
        try:
            return super().load_overload(  # type: ignore[no-untyped-call]
                sig, target_context
            )
        except OSError:
            return None
        except _DAMAGED:  # By a host that lost its power, say.
            with contextlib.suppress(OSError):
                self.flush()  # type: ignore[no-untyped-call]
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled for these types of arguments, where that can be done."""
        with contextlib.suppress(OSError, *_DAMAGED):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]


@functools.cache
def _sources() -> str:
    """Of what is compiled into loops of other files."""
    here = Path(__file__)
    content = [path.read_bytes() for path in (here, here.with_name("prefetch.py"))]
    return hashlib.sha256(b"".join(content)).hexdigest()


def compiled(loop: _Loop) -> _Loop:
    """Compile a function when it is first called with arguments of some types.

    It lets other threads run meanwhile, and divides as NumPy does: with Python's errors a division
    may raise, and no loop with one becomes vectors.

    Args:
        loop: of numbers and NumPy arrays.
    """
    return _compiled(loop, set())


def compiled_in_any_order(loop: _Loop) -> _Loop:
    """The same with sums in the order that is fastest, the same one each time.

    Left to itself, a sum of float32 is taken number by number, since another order rounds
    otherwise.
    """
    return _compiled(loop, {"reassoc", "contract"})


def _compiled(loop: _Loop, freedoms: set[str]) -> _Loop:
    # `cache=True` would be an error here where there is no folder to keep anything in.
    function: Any = numba.njit(nogil=True, error_model="numpy", fastmath=freedoms)(loop)
    with contextlib.suppress(RuntimeError):
        function._cache = _Kept(loop)  # type: ignore[no-untyped-call]
    return cast(_Loop, function)
