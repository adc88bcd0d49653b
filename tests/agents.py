"""Agents of torchrun that meet on this machine as they would on hosts of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.processes import kill_tree

MEETING = (
    "is_host=false,join_timeout=120,last_call_timeout=1,close_timeout=10,heartbeat_timeout=10,"
    "keep_alive_interval=1,keep_alive_max_attempt=3"
)


class Agent:
    """One torchrun with one rank.

    Args:
        arguments: of `dare`.
        address: of the loopback network; the lowest one's ranks come first.
        port: of the store at which agents meet. It is nobody's of them, so that any may be lost.
        restarts: how often it starts failed ranks again.
        log: a file for what it and its rank say.
        env: variables.
    """

    def __init__(
        self,
        *arguments: str,
        address: str,
        port: int,
        restarts: int,
        log: Path,
        env: dict[str, str],
    ) -> None:
        launcher = ["-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1"]
        launcher += [
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint=127.0.0.1:{port}",
            "--rdzv-id=elastic",
        ]
        launcher += [f"--rdzv-conf={MEETING}", f"--local-addr={address}"]
        launcher += [f"--max-restarts={restarts}", "--monitor-interval=0.1"]
        quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        quiet["PYTHONPATH"] = str(Path(__file__).parents[1])
        self.log = log
        with log.open("a") as out:
            self.process = subprocess.Popen(
                [sys.executable, *launcher, "-m", "tests.recorded", *arguments],
                env={**os.environ, **quiet, **env},
                stdout=out,
                stderr=out,
            )

    def kill(self) -> None:
        """End it and its rank at once, as when a host is lost; nothing of it stays behind."""
        kill_tree(self.process.pid)
        self.process.wait()

    def terminate(self) -> int:
        """Ask it to end, as a scheduler that drains a host does; its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=120)
