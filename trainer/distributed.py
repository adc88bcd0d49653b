"""What a process is among the others: rank, world, device, groups."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

FIRST_STEP_TIMEOUT = datetime.timedelta(minutes=30)


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

    @property
    def is_main(self) -> bool:
        """Whether this rank prints and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all ranks; a collective."""
        if self.control is not None:
            dist.barrier(group=self.control)


@contextmanager
def run_context() -> Iterator[RunContext]:
    """Join the process group that the launcher's variables describe, or make one of one process.

    NCCL with CUDA, gloo without.

    Raises:
        ValueError: the launcher started more processes on a host than it has GPUs.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    device = _device(local_rank)
    started_here = not dist.is_initialized()
    if started_here:
        backend = "nccl" if device.type == "cuda" else "gloo"
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=FIRST_STEP_TIMEOUT)
        else:
            store = torch._C._distributed_c10d.HashStore()
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
    control = dist.new_group(backend="gloo") if world > 1 else None
    try:
        yield RunContext(rank, world, local_rank, local_world, device, control)
    finally:
        if started_here:
            dist.destroy_process_group()


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
