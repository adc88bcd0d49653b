"""What is told on stderr and stdout where nobody listens any more: it is lost, and nothing else."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast

logger = logging.getLogger(__name__)

_FAILURE = 1


class _Forgiving:
    """A stream that loses what cannot be written: its reader has gone, or its disk is full.

    In a terminal Ctrl-C ends `tee` too, so that the line that tells of a stop has no reader.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or lose, all of a text."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what is held back, where that can be written."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # isatty, fileno, encoding


def forgive_stderr() -> None:
    """Let no log line, bar or message that stderr does not take end this process."""
    if sys.stderr is not None:  # As where it was closed before the start.
        sys.stderr = cast(TextIO, _Forgiving(sys.stderr))


@contextmanager
def told_to_file(path: Path) -> Iterator[None]:
    """Let stdout and stderr go to a new file; what its disk does not take is lost.

    Raises:
        OSError: the file cannot be made.
    """
    file = path.open("w", encoding="utf-8", errors="backslashreplace")
    told = cast(TextIO, _Forgiving(file))
    try:
        with redirect_stdout(told), redirect_stderr(told):
            yield
    finally:
        with suppress(OSError):
            file.close()


def tell_at_once(text: str) -> None:
    """Write a line to stderr past Python's streams, which may be in the middle of another one."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())


def print_result(text: str, path: Path) -> None:
    """Print a line that a file holds too, so that losing it is no failure.

    Args:
        text: to print.
        path: of that file.
    """
    try:
        if sys.stdout is not None:  # As where it was closed before the start.
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
    except OSError as error:
        logger.warning("stdout does not take the result, which is in %s: %s", path, error)
        _drop_stdout()


def end_stdout(code: int) -> int:
    """Write what stdout still holds back.

    Args:
        code: with which the process is to end.

    Returns:
        The same; 1 in place of 0 where that could not be written.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        tell_at_once(f"dare: error: stdout does not take what is printed: {error}")
        _drop_stdout()
        return code or _FAILURE
    return code


def _drop_stdout() -> None:
    """Python would try again at its end, and change the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
