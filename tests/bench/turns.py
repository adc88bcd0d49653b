"""Steps in turns, so that programs that are compared never work at the same time.

A program trains a few steps unmeasured, says that it is ready, and then waits: each line that it
reads is a turn of so many steps. What it has to say are JSON lines, one a turn, and one at the end.
This file needs the standard library alone, since it runs in the peers' own environments too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")
FIRST_STEPS = 2
"""Unmeasured: what is made once, such as the optimizer's state, is made here."""
_STATUS = Path("/proc/self/status")


def add_turns(parser: argparse.ArgumentParser) -> None:
    """What the race gives each program."""
    parser.add_argument("--data", required=True, help="folder of the rows, in all formats")
    parser.add_argument("--steps", type=int, required=True, help="of a turn")


class Done(Exception):  # noqa: N818
    """No turn is left: how a peer's own training loop is left, which knows no other end."""


class Turns:
    """The turns of one program.

    Standard output is taken: what a peer prints there goes to standard error from here on.

    Args:
        steps: of a turn.
        figures: what is told at the end beside the rates.
    """

    def __init__(self, steps: int, figures: dict[str, Any]) -> None:
        self.steps, self._figures = steps, figures
        self._rates: list[float] = []
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def __iter__(self) -> Iterator[int]:
        """Whenever a turn is to begin, its number; the last JSON line once there are no more."""
        self._tell({"ready": True})
        for number, _ in enumerate(sys.stdin):
            yield number
        rates = [round(rate, 1) for rate in self._rates]
        self._tell({"samples_per_s": rates, "peak_memory_bytes": peak_bytes(), **self._figures})

    def taken(self, samples: int, seconds: float) -> None:
        """Tell of a turn."""
        self._rates.append(samples / seconds)
        self._tell({"rate": self._rates[-1], "seconds": seconds})

    def _tell(self, line: dict[str, Any]) -> None:
        print(json.dumps(line), file=self._out, flush=True)


def paced(batches: Iterator[Item], turns: Turns, size: Callable[[Item], int]) -> Iterator[Item]:
    """Batches for a training loop that asks for the next one when it is done with the last.

    So what lies between two of them is all that the loop does: reading, step, and its own sums.

    Args:
        batches: without end.
        turns: when to hand them out.
        size: samples of a batch.

    Raises:
        Done: no turn is left.
    """
    for _ in range(FIRST_STEPS):
        yield next(batches)
    for _ in turns:
        started, samples = time.perf_counter(), 0
        for _ in range(turns.steps):
            batch = next(batches)
            samples += size(batch)
            yield batch
        turns.taken(samples, time.perf_counter() - started)
    raise Done


def peak_bytes() -> int:
    """Peak resident bytes of this process.

    Not `ru_maxrss` on Linux: a process begins with that of the one that started it.
    """
    peak = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text()) if _STATUS.exists() else None
    return 1024 * (int(peak[1]) if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
