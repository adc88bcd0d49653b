"""Processes that a test has started, and what they have started."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Children of a process, their children and so on; torchrun gives ranks sessions of their own.

    Empty where it is gone.
    """
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in children for each in (int(child), *descendants(int(child)))]


def kill_tree(pid: int) -> None:
    """End a process and all that it has started, at once."""
    for each in (pid, *descendants(pid)):
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue


def running_with(text: str) -> list[int]:
    """Processes that have a text in their command line, such as a folder that only they work in."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if text.encode() in command and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found
