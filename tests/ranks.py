"""Runs a function on several gloo ranks of this machine, for the tests in `tests/dist`."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessContext, start_processes

COLLECTIVE_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 480.0
_IMPORTED = ["tests.small_run", "trainer.job"]
"""By the server that ranks are forked from, once for all of them."""
_ENDING = {signal.SIGINT, signal.SIGTERM}


def run_on_ranks(
    world: int,
    function: Callable[[int], None],
    *,
    start: Literal["forkserver", "spawn"] = "forkserver",
    timeout_s: float = RUN_TIMEOUT_S,
) -> None:
    """Call `function(rank)` in `world` fresh processes with a gloo process group between them.

    Bind more arguments with `functools.partial`.

    Args:
        world: processes to start.
        function: importable by name (module level), because processes do not share this one's.
        start: from a server that has imported everything but has run nothing; or from nothing,
            4 s of a core each, where the environment of now counts for Python itself.
        timeout_s: seconds until all ranks must have returned.

    Raises:
        torch.multiprocessing.ProcessRaisedException: a rank raised; the message is its traceback.
        torch.multiprocessing.ProcessExitedException: a rank died without a traceback.
        TimeoutError: a rank was still running after `timeout_s`; all are killed.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        if start == "forkserver":
            _ensure_server()
        with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
            started = start_processes(  # type: ignore[no-untyped-call]
                _one_rank,
                args=(world, f"{folder}/rendezvous", function),
                nprocs=world,
                join=False,
                start_method=start,
            )
            assert isinstance(started, ProcessContext)
            _wait(started, timeout_s)
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _ensure_server() -> None:
    """As `pipelines.workers` starts it, whose workers are forked from the same one."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(_IMPORTED)
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(started: ProcessContext, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    try:
        while not started.join(timeout=max(0.1, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                running = [r for r, p in enumerate(started.processes) if p.is_alive()]
                raise TimeoutError(f"ranks {running} were still running after {timeout_s} s")
    finally:
        for process in started.processes:
            if process.is_alive():
                process.kill()
            process.join()


def _one_rank(rank: int, world: int, rendezvous: str, function: Callable[[int], None]) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    # The launcher's variables, which torchrec reads to learn how many ranks share a host.
    for name, value in (
        ("RANK", rank),
        ("LOCAL_RANK", rank),
        ("WORLD_SIZE", world),
        ("LOCAL_WORLD_SIZE", world),
    ):
        os.environ[name] = str(value)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=Path(rendezvous).as_uri(),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
    )
    try:
        function(rank)
    finally:
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # As in trainer/start.py.
