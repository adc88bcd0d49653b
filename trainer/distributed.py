"""What a process is among the others: rank, world, device, groups."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from trainer.reliability.fresh_store import fresh_store
from trainer.reliability.progress import Progress
from trainer.reliability.stopping import StopRequest

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


@contextmanager
def run_context() -> Iterator[RunContext]:
    """Join the process group that the launcher's variables describe, or make one of one process.

    NCCL with CUDA, gloo without.

    Raises:
        ValueError: the launcher started more processes on a host than it has GPUs.
        RuntimeError: nobody answers at the launcher's address.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    device = _device(local_rank)
    started_here = not dist.is_initialized()
    if started_here:
        backend = "nccl" if device.type == "cuda" else "gloo"
        if "RANK" in os.environ:
            _join(backend, rank, world)
        else:
            store = torch._C._distributed_c10d.HashStore()
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
    control = dist.new_group(backend="gloo") if world > 1 else None
    try:
        yield RunContext(rank, world, local_rank, local_world, device, control)
    finally:
        if started_here:
            dist.destroy_process_group()


def _join(backend: str, rank: int, world: int) -> None:
    try:
        store, _, _ = next(rendezvous("env://", timeout=RENDEZVOUS_TIMEOUT))
    except dist.DistError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RuntimeError(
            f"rank {rank} of {world} found nobody at {address} (MASTER_ADDR, MASTER_PORT) within "
            f"{RENDEZVOUS_TIMEOUT.total_seconds():.0f} s; start all hosts with the address of the "
            "first one, and let its port through"
        ) from error
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store = fresh_store(store, rank, world, RENDEZVOUS_TIMEOUT)
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
