"""What a process is doing, and since when: told to its watchdog."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

STARTING = "starting"


@dataclass(frozen=True)
class Doing:
    """One thing that a process does."""

    phase: str
    step: int
    """Finished steps."""
    since: float
    """`time.monotonic()` when it began."""


class Progress:
    """The phase a process is in; written by its main thread, read by the watchdog's."""

    def __init__(self) -> None:
        self.now = Doing(STARTING, 0, time.monotonic())

    def enter(self, phase: str) -> None:
        """Begin something, which is progress."""
        self.now = Doing(phase, self.now.step, time.monotonic())

    def finish_step(self, step: int) -> None:
        """Count a finished step; what follows is the next one."""
        self.now = Doing("training", step, time.monotonic())

    @contextmanager
    def phase(self, phase: str) -> Iterator[None]:
        """Be in a phase, then go on with what was before."""
        outer = self.now.phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(outer)
