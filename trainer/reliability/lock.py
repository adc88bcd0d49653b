"""One job at a time on a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # It loads torch, which listing runs does not need.
    from trainer.distributed import RunContext

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def locked(folder: Path, otherwise: str) -> Iterator[None]:
    """Hold a folder, which is made where it is not there, until the block is left.

    The system lets go of it when the process ends, however it ends; the file stays.

    Args:
        folder: to hold.
        otherwise: what the user can do but wait, for the message.

    Raises:
        ValueError: another process, or another block of this one, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "that has just begun"
            raise ValueError(
                f"{folder} is held by process {holder}, which works there; "
                f"wait for its end, or {otherwise}"
            ) from error
        try:
            _write(file.fileno(), f"{os.getpid()} on {socket.gethostname()}\n")
            yield
        finally:
            _write(file.fileno(), "")
            # By word, not by closing alone: a process that was forked meanwhile has it open too.
            fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def locked_by_main(folder: Path, otherwise: str, context: RunContext) -> Iterator[None]:
    """Hold a folder for all ranks of a job; entering is a collective.

    Where the file system has no locks, a warning says so and the job goes on.

    Raises:
        ValueError: as `locked`, on every rank.
    """
    with contextlib.ExitStack() as held:

        def take() -> None:
            try:
                held.enter_context(locked(folder, otherwise))
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                logger.warning("%s: two jobs could write to it at once: %s", folder, error)

        context.on_main(take)
        yield


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, text.encode())


def holder(folder: Path) -> str | None:
    """Who holds a folder, `PID on HOST`; None where nobody does. Does not get in a holder's way.

    Who let go of it left no word in its file. Where there is one, a process of this host that is
    gone was killed; only for others the lock itself is asked, shared and for a moment.

    Args:
        folder: that may not be there.

    Raises:
        OSError: its file cannot be read.
    """
    path = folder / LOCK_FILE
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            told = " ".join(file.read(200).split())
            if not told or _is_gone(told):
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return told
            fcntl.flock(file, fcntl.LOCK_UN)
    except FileNotFoundError:
        pass
    return None


def _is_gone(told: str) -> bool:
    """Whether the process of these words was of this host and is no more."""
    pid, _, host = told.partition(" on ")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    return Path("/proc/self").exists() and not Path("/proc", pid).exists()
