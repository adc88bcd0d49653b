"""`python -m launch.torchrun`: torchrun that starts nothing again after a mistake of the user.

torchrun knows no exit codes: it starts all ranks again whatever ended them, as often as
`--max-restarts` says. Of a mistake in config or data, which ranks end with 2, that makes the same
message several times. Here it ends the job, with the same exit code. And each rank is told where a
store is that outlives it, so that one of them may speak for all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed import run
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import ProcessFailure
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher import api

MISTAKE = 2
"""The exit code of a rank."""
STORE = "DARE_LAUNCHER"
"""Variable with HOST:PORT of the store on which the agents of all hosts meet."""


class Agent(LocalElasticAgent):
    """What starts and watches the ranks of a host."""

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        store = worker_group.store
        while isinstance(store, PrefixStore):
            store = store.underlying_store
        if isinstance(store, TCPStore):  # Not of a rendezvous by etcd, or by a file.
            os.environ[STORE] = f"{store.host}:{store.port}"
        started: dict[int, Any] = super()._start_workers(worker_group)
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if _is_mistake(result.failures.values()):
            self._remaining_restarts = 0
        return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run torchrun.

    Args:
        arguments: of torchrun; those of the command line where not given.

    Returns:
        The exit code, 0 or that of a mistake, which its rank has told.

    Raises:
        ChildFailedError: torchrun's, of any other failure.
    """
    api.LocalElasticAgent = Agent  # type: ignore[attr-defined]  # It takes no class of agents.
    try:
        run.main(arguments)
    except ChildFailedError as error:
        if not _is_mistake(error.failures.values()):
            raise
        return MISTAKE
    return 0


def _is_mistake(failures: Iterable[ProcessFailure]) -> bool:
    return any(failure.exitcode == MISTAKE for failure in failures)


if __name__ == "__main__":
    sys.exit(main())
