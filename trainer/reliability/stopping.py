"""Ctrl-C and SIGTERM: a wish to stop, on which all ranks agree before they act."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trainer.reliability.ending import State
from trainer.start import ONE_PRESS_S
from trainer.telling import tell_at_once

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
READ_S = 5.0
"""A read that is under way when the wish comes is waited for so long."""


class Stopped(Exception):  # noqa: N818 - no error: what was asked for has happened.
    """Training has ended early because it was asked to.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {_name(number)}")
        self.exit_code = 128 + number
        """As shells count: 143 for SIGTERM, 130 for Ctrl-C; not 0, so that schedulers start the
        job again."""
        self.state: State = "interrupted" if number == signal.SIGINT else "stopped"


class _OverdueError(Exception):
    """What is under way has taken too long since the wish."""


class StopRequest:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._at = 0.0
        self._waits = False
        self.at_once = False
        """Whether Ctrl-C has come a second time."""

    def asked(self) -> bool:
        """Whether it was."""
        return self._number is not None

    def stopped(self) -> Stopped:
        """To raise once all has come to an end; where another rank was asked, as for SIGTERM."""
        return Stopped(self._number or signal.SIGTERM)

    @contextmanager
    def listening(self, *, tells: bool) -> Iterator[None]:
        """Note signals instead of ending; for the main thread.

        Args:
            tells: write to stderr that a signal has come.

        Raises:
            KeyboardInterrupt: of a second Ctrl-C.
        """

        def note(number: int, _: FrameType | None) -> None:
            again = self._number == number == signal.SIGINT
            if again and time.monotonic() - self._at > ONE_PRESS_S:
                self.at_once = True
                raise KeyboardInterrupt
            if not again and tells:
                # Not through the logger, in the middle of which the signal may have come.
                text = "; once more leaves at once" if number == signal.SIGINT else ""
                tell_at_once(f"{_name(number)}: the step ends and is saved{text}")
            self._number, self._at = number, time.monotonic()
            if self._waits:
                signal.setitimer(signal.ITIMER_REAL, READ_S)

        before = {number: signal.signal(number, note) for number in _SIGNALS}
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._ring)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Leave the block, without an error, once it goes on for `READ_S` after the wish.

        Where Python itself does not get to run in the block, when it does.
        """
        try:
            self._waits = True
            if self.asked():  # After who reads has looked, before it said that it waits.
                signal.setitimer(signal.ITIMER_REAL, READ_S)
            yield
        except _OverdueError:
            pass
        finally:
            self._waits = False
            if self.asked():
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, _: int, __: FrameType | None) -> None:
        if self._waits:
            raise _OverdueError


def _name(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
