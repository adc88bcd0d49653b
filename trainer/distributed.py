"""What a process is among the others: rank, world, device, groups."""

from __future__ import annotations

import datetime
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store
from torch.distributed.rendezvous import rendezvous

from trainer.reliability.ending import broken_connection, is_broken_connection
from trainer.reliability.fresh_store import fresh_store
from trainer.reliability.progress import CONNECTING, NOTE_S, Progress
from trainer.reliability.stopping import StopRequest
from trainer.reliability.watchdog import Watchdog, WatchdogConfig

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

UNWATCHED = WatchdogConfig(hang_s=0)

FIRST_STEP_TIMEOUT = datetime.timedelta(minutes=30)
RENDEZVOUS_TIMEOUT = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class RunContext:
    """A process of a run."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    device: torch.device
    control: dist.ProcessGroup | None
    """A gloo group of all ranks for votes and metrics, off the training group; None for one."""
    stop: StopRequest = field(default_factory=StopRequest)
    """Whether it was asked to end."""
    progress: Progress = field(default_factory=Progress)
    """What it is doing."""

    @property
    def is_main(self) -> bool:
        """Whether this rank prints and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all ranks; a collective."""
        if self.control is not None:
            dist.barrier(group=self.control)

    def gather(
        self, mine: dict[str, Any], group: dist.ProcessGroup | None = None
    ) -> dict[str, Any]:
        """The entries of all ranks, on each of them; a collective over `control` or a group."""
        if self.world == 1:
            return mine
        every: list[dict[str, Any]] = [{}] * self.world
        dist.all_gather_object(every, mine, group=group or self.control)
        return {name: value for one in every for name, value in one.items()}

    def on_main(self, task: Callable[[], None], group: dist.ProcessGroup | None = None) -> None:
        """Run a task on rank 0 while the others wait; a collective over `control` or a group.

        Raises:
            OSError: the task's, on every rank.
            ValueError: the same.
        """
        failure: list[OSError | ValueError | None] = [None]
        if self.is_main:
            try:
                task()
            except (OSError, ValueError) as error:
                failure = [error]
        if self.world > 1:
            dist.broadcast_object_list(failure, src=0, group=group or self.control)
        if failure[0] is not None:
            raise failure[0]

    def from_main(self, task: Callable[[], _T]) -> _T:
        """What a task on rank 0 returns, on every rank; a collective over `control`.

        What a rank sees in a shared folder may be older than what another sees, so decisions that
        follow from it are rank 0's.

        Raises:
            OSError: the task's, on every rank.
            ValueError: the same.
        """
        found: list[Any] = [None]

        def run() -> None:
            found[0] = task()

        self.on_main(run)
        if self.world > 1:
            dist.broadcast_object_list(found, src=0, group=self.control)
        return cast(_T, found[0])

    def any(self, mine: bool) -> bool:
        """Whether it is so on any rank; a collective over `control`."""
        if self.control is None:
            return mine
        flag = torch.tensor(float(mine))
        dist.all_reduce(flag, group=self.control)
        return bool(flag)


@contextmanager
def run_context(watch: WatchdogConfig = UNWATCHED, folder: Path = Path()) -> Iterator[RunContext]:
    """Join the process group that the launcher's variables describe, or make one of one process.

    NCCL with CUDA, gloo without.

    Args:
        watch: when a job that makes no progress is ended; by default never.
        folder: of the run, for what is written then.

    Raises:
        ValueError: the launcher started more processes on a host than it has GPUs, or does not
            say where they meet.
        RuntimeError: nobody answers at the launcher's address, some ranks do not come, or the
            connection to one of them breaks.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    device, progress = _device(local_rank), Progress()
    started_here = not dist.is_initialized()
    store: Store = _meet(rank, world, watch) if started_here else _default_store()
    try:
        with (
            Watchdog(watch, progress, folder, store=store, rank=rank, world=world),
            ExitStack() as connected,
        ):
            with progress.phase(CONNECTING):
                if started_here:
                    _connect("nccl" if device.type == "cuda" else "gloo", store, rank, world)
                    connected.callback(dist.destroy_process_group)
                control = dist.new_group(backend="gloo") if world > 1 else None
            yield RunContext(
                rank, world, local_rank, local_world, device, control, progress=progress
            )
    except RuntimeError as error:
        if world > 1 and is_broken_connection(error):
            raise broken_connection(error) from error
        raise


def _default_store() -> Store:
    store: Store = dist.distributed_c10d._get_default_store()
    return store


def _meet(rank: int, world: int, watch: WatchdogConfig) -> Store:
    """A store that the ranks of this start share; all of them are there."""
    if "RANK" not in os.environ:
        if world > 1:
            raise ValueError(
                f"WORLD_SIZE is {world}, and RANK is not set; start several ranks with torchrun or "
                "torchx, which set both, and a single process without WORLD_SIZE"
            )
        return HashStore()
    limit = RENDEZVOUS_TIMEOUT
    if watch.hang_s:  # May be more seconds than a timedelta holds.
        least_s = min(limit.total_seconds(), max(watch.hang_s, watch.slow_s))
        limit = datetime.timedelta(seconds=least_s)
    host, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    address = f"{host}:{port} (MASTER_ADDR, MASTER_PORT)"
    note = threading.Timer(NOTE_S, _tell_of_wait, [f"rank {rank} of {world}", address, limit])
    note.daemon = True
    note.start()
    try:
        store, _, _ = next(rendezvous("env://", timeout=limit))
    except ValueError as error:  # A variable is missing.
        raise ValueError(
            f"{error}; start several ranks with torchrun or torchx, which set it, and a single "
            "process without RANK"
        ) from error
    except dist.DistError as error:
        raise RuntimeError(
            f"rank {rank} of {world} found nobody at {address} within "
            f"{limit.total_seconds():.0f} s; start all hosts with the address of the "
            "first one, and let its port through"
        ) from error
    finally:
        note.cancel()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return fresh_store(store, rank, world, limit)
    return store


def _tell_of_wait(who: str, address: str, limit: datetime.timedelta) -> None:
    logger.warning(
        "%s has waited %.0f s at %s for others to come; it ends after %.0f s",
        *(who, NOTE_S, address, limit.total_seconds()),
    )


def _connect(backend: str, store: Store, rank: int, world: int) -> None:
    store.set_timeout(FIRST_STEP_TIMEOUT)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world, timeout=FIRST_STEP_TIMEOUT
    )


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {local_rank} has no GPU, this host has {torch.cuda.device_count()}; "
            "start at most one process a GPU (--nproc-per-node)"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
