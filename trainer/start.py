"""What `dare` and `python -m trainer` run: a command, with a Ctrl-C that may come at any time."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from types import FrameType

from trainer.telling import end_stdout, forgive_stderr, tell_at_once

ONE_PRESS_S = 1.0
"""A terminal and a launcher may both hand on one Ctrl-C."""
_EXIT_CODE = 128 + signal.SIGINT


def run() -> None:
    """Run the command that the command line names, and end the process with its exit code."""
    listens = signal.getsignal(signal.SIGINT) != signal.SIG_IGN  # As under nohup.
    if listens:
        signal.signal(signal.SIGINT, leave_at_once)
    forgive_stderr()
    from trainer.cli import main

    try:
        if listens and sys.argv[1:2] != ["train"]:  # It listens itself, once there is something.
            signal.signal(signal.SIGINT, _Interrupts())
        code = main()
    except KeyboardInterrupt:
        code = _EXIT_CODE
    except SystemExit as ended:  # As after --help.
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    # All is written and told. A Ctrl-C that comes so late would only cut short what Python and its
    # libraries do at their end, with a traceback, or with the signal in place of the exit code.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = end_stdout(code)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or code == _EXIT_CODE:
        # While Python takes itself down, a group's threads ended about one process in twenty with
        # SIGABRT (torch 2.13, gloo), which fails the whole job; and where a Ctrl-C once passed
        # through an `exec` of a string, it ends by that signal, whatever the exit code.
        atexit._run_exitfuncs()
        os._exit(end_stdout(code))
    sys.exit(code)


class _LeaveAtOnce:
    """What a Ctrl-C does while Python still loads a program, where there is nothing to save.

    As an exception it would end in a traceback, or in a library that takes it for a fault of its
    own; while Python prints that, a second Ctrl-C leaves `lost sys.stderr`.
    """

    def __init__(self) -> None:
        self._told = False

    def __call__(self, _: int, __: FrameType | None) -> None:
        if self._told:  # A second Ctrl-C is heard while the line is written, and right after it.
            return
        self._told = True
        tell_at_once("dare: interrupted; what is written stays")
        os._exit(_EXIT_CODE)


leave_at_once = _LeaveAtOnce()


class _Interrupts:
    """Raises KeyboardInterrupt once for one press, so that none comes while the first is told."""

    def __init__(self) -> None:
        self._at = -ONE_PRESS_S

    def __call__(self, _: int, __: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._at > ONE_PRESS_S:
            self._at = now
            raise KeyboardInterrupt
