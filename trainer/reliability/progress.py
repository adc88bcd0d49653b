"""What a process is doing, and since when: told to its watchdog."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

STARTING, CONNECTING = "starting", "connecting with the other ranks"
_SLOW = (STARTING, "restoring", "saving", "reporting")
NOTE_S = 60.0
"""After which a wait is told of, long before it ends the job; not of what is slow by nature."""
_QUICK = (CONNECTING,)
"""Done in seconds, though part of what may take long."""


@dataclass(frozen=True)
class Doing:
    """One thing that a process does."""

    phase: str
    step: int
    """Finished steps."""
    since: float
    """`time.monotonic()` when it began."""
    slow: bool
    """Whether it, or what it is part of, may take long."""


class Progress:
    """The phase a process is in; written by its main thread, read by the watchdog's."""

    def __init__(self) -> None:
        self.now = Doing(STARTING, 0, time.monotonic(), slow=True)

    def resume_at(self, step: int) -> None:
        """Begin with so many finished steps."""
        self.now = replace(self.now, step=step, since=time.monotonic())

    def finish_step(self, step: int) -> None:
        """Count a finished step; what follows is the next one."""
        self.now = Doing("training", step, time.monotonic(), slow=False)

    @contextmanager
    def phase(self, phase: str) -> Iterator[None]:
        """Be in a phase, then go on with what was before."""
        outer = self.now
        slow = phase not in _QUICK and (outer.slow or phase in _SLOW)
        self.now = Doing(phase, outer.step, time.monotonic(), slow)
        try:
            yield
        finally:
            self.now = replace(outer, since=time.monotonic())
