"""How far a long loop is: a bar where stderr is a terminal, else a log line now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

_QUIET_S = 10.0
T = TypeVar("T")


def told(things: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Hand things on, and tell how many are done.

    Args:
        things: to hand on.
        what: they are, in the plural.
        total: how many there are, where it is known.
    """
    if sys.stderr.isatty():
        yield from tqdm(things, desc=what, total=total, leave=False)
        return
    spoken = time.monotonic()
    for done, thing in enumerate(things):
        if time.monotonic() - spoken > _QUIET_S:
            logger.info("%s %s", f"{done:,} of {total:,}" if total else f"{done:,}", what)
            spoken = time.monotonic()
        yield thing
