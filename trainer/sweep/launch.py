"""How a run is started: by a command, as a process of its own, or in this process."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trainer.telemetry.logs import configure_logging
from trainer.telling import told_to_file

HERE = "here"
_PATIENCE_S = 15 + float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30"))
"""What torchrun gives its ranks to save, and some."""

Runner = Callable[[Sequence[str], Path], int]
"""Calls `dare` with arguments, writes what it tells to a file, returns the exit code."""


def make_runner(launcher: str) -> Runner:
    """How runs are started.

    Args:
        launcher: a command that takes the arguments of `dare`, such as
            `torchrun --nproc-per-node 2 -m trainer`; empty for one process; `here` for this one.

    Raises:
        ValueError: there is no such program; or this is one of several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "this is one of several processes; start it once, with --launcher "
            '"torchrun --nproc-per-node N -m trainer" for its runs'
        )
    if launcher == HERE:
        return _run_here
    first, *rest = shlex.split(launcher) or [sys.executable, "-m", "trainer"]
    # What is installed beside this Python is meant, whether or not it is on the path.
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which(first, path=places)
    if program is None:
        raise ValueError(f"--launcher begins with {first}, which is no program here")

    def launch(arguments: Sequence[str], log: Path) -> int:
        with log.open("wb") as told, _leaving_on_sigterm():
            process = subprocess.Popen(
                [program, *rest, *arguments], stdin=subprocess.DEVNULL, stdout=told, stderr=told
            )
            try:
                return process.wait()
            except KeyboardInterrupt:
                # The run was interrupted too, and ends by itself.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_PATIENCE_S)
                raise
            finally:
                _end(process)

    return launch


@contextlib.contextmanager
def _leaving_on_sigterm() -> Iterator[None]:
    """Leave as by `sys.exit` where a scheduler ends this process, so that no run is left behind."""

    def leave(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a run that is not over; a launcher then ends its processes."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
        process.kill()
        process.wait()


def _run_here(arguments: Sequence[str], log: Path) -> int:
    from trainer.cli import main  # It imports this.
    from trainer.telemetry.memory import reset_peak_memory  # It loads torch.

    with told_to_file(log):
        reset_peak_memory()
        code = main(arguments)
    configure_logging(0)  # The run's went to its file.
    return code


def last_error(log: Path, code: int) -> str:
    """Why a run failed, in a line.

    Args:
        log: what it told.
        code: its exit code; negative for a signal.
    """
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    told = [line.strip() for line in lines if line.strip()]
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    # Launchers tell at length that a process failed, after it has told why.
    for pattern in (r"dare \w+: error: (.*)", r"((?:\w+\.)*\w*(?:Error|Exception): .*)"):
        errors = [found[1] for line in told if (found := re.match(pattern, line))]
        if errors:
            return errors[-1]
    return told[-1] if told else f"exit code {code}, without a word"
