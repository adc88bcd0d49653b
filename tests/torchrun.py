"""Runs of several processes under torchrun, as the README starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def torchrun(
    *arguments: str,
    ranks: int = 2,
    restarts: int = 0,
    fault: dict[str, Any] | None = None,
    timeout_s: float = 150,
    port: int = 29517,
) -> subprocess.CompletedProcess[str]:
    """Run a command of `dare` on several ranks of this machine.

    Args:
        arguments: of `dare`.
        ranks: processes.
        restarts: how often torchrun starts them again.
        fault: of `tests.faulty`, which happens to one of them.
        timeout_s: seconds until all must have ended.
        port: of the rendezvous.
    """
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
    launcher += [f"--master-port={port}", f"--max-restarts={restarts}", "--monitor-interval=0.1"]
    module = "trainer" if fault is None else "tests.faulty"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    env["PYTHONPATH"] = str(Path(__file__).parents[1])
    env |= {} if fault is None else {"FAULT": json.dumps(fault)}
    return subprocess.run(
        [sys.executable, *launcher, "-m", module, *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def on_two_ranks(*arguments: str) -> tuple[dict[str, Any], str]:
    """The result that a command on two ranks printed, and what it logged; it must go well."""
    done = torchrun(*arguments)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return json.loads(done.stdout), done.stderr
