"""Runs of several processes under torchrun, as the README starts them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def torchrun(
    *arguments: str,
    ranks: int = 2,
    restarts: int = 0,
    fault: dict[str, Any] | None = None,
    timeout_s: float = 150,
    launcher: str = "torch.distributed.run",
    options: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a command of `dare` on several ranks of this machine.

    Args:
        arguments: of `dare`.
        ranks: processes.
        restarts: how often torchrun starts them again.
        fault: of `tests.faulty`, which happens to one of them.
        timeout_s: seconds until all must have ended.
        launcher: module that is torchrun.
        options: of the launcher.
    """
    module = "trainer" if fault is None else "tests.faulty"
    words = _launcher(ranks, f"--max-restarts={restarts}", "--shutdown-timeout=5", *options)
    words[2] = launcher
    return subprocess.run(
        [*words, "-m", module, *arguments],
        env=_environment() | ({} if fault is None else {"FAULT": json.dumps(fault)}),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill torchrun and its ranks, frozen ones too, for which it would wait 30 s."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    for child in children:
        os.killpg(int(child), signal.SIGKILL)
    process.wait()


def begin_torchrun(
    *arguments: str, log: Path, ranks: int = 2, fault: dict[str, Any] | None = None
) -> subprocess.Popen[bytes]:
    """Begin to run a command of `dare` on several ranks; what they tell goes to a file."""
    module = "trainer" if fault is None else "tests.faulty"
    with log.open("wb") as told:
        return subprocess.Popen(
            [*_launcher(ranks), "-m", module, *arguments],
            env=_environment() | ({} if fault is None else {"FAULT": json.dumps(fault)}),
            stdout=told,
            stderr=told,
        )


def _launcher(ranks: int, *options: str) -> list[str]:
    with socket.socket() as free:  # Tests run side by side.
        free.bind(("", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
    return [*launcher, f"--master-port={port}", "--monitor-interval=0.1", *options]


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return {**os.environ, **quiet, "PYTHONPATH": root}


def on_two_ranks(*arguments: str) -> tuple[dict[str, Any], str]:
    """The result that a command on two ranks printed, and what it logged; it must go well."""
    done = torchrun(*arguments)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return json.loads(done.stdout), done.stderr
