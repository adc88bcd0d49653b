"""Measures what `dare doctor` judges: versions, devices, one real lookup, one real all-reduce.

Imports only the standard library up front, so that it works beside a torch that does not import.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

PROJECT = "dare-torchrec"
LIBRARIES = ("torchx", "pyarrow", "iopath", "fsspec", "torchdata", "torchmetrics")
"""Libraries whose version is reported, beside torch, torchrec and fbgemm."""

BROKEN = (ImportError, OSError, RuntimeError, AttributeError)
"""What a library that does not fit raises when it is imported or first used."""


@dataclass(frozen=True)
class Devices:
    """What this process can compute on."""

    torch_cuda: str | None
    """CUDA version torch was built for, None for a CPU build."""
    driver: str | None
    """Version of the NVIDIA driver, None where nvidia-smi does not answer."""
    gpus: tuple[tuple[str, int], ...]
    """Name and bytes of memory of each GPU torch can use."""


def installed_versions() -> dict[str, str]:
    """Versions of the packages looked at, by name; those not installed are left out."""
    found = {}
    for name in ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", *LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def lookup_error(device: str) -> float:
    """Largest error of one FBGEMM lookup, forward and after one SGD step, by hand arithmetic."""
    import torch
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    cuda = device == "cuda"
    location = EmbeddingLocation.DEVICE if cuda else EmbeddingLocation.HOST
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(4, 4, location, ComputeDevice.CUDA if cuda else ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=0.5,
        device=torch.device(device),
    )
    (weight,) = tables.split_embedding_weights()
    before = torch.arange(16.0).reshape(4, 4)
    weight.data.copy_(before)
    # Two bags, of rows 0 and 2, and of row 2: with gradients 1 and 3 row 2 moves by 0.5 * (1 + 3).
    ids, offsets = torch.tensor([0, 2, 2]), torch.tensor([0, 2, 3])
    pooled = tables(ids.to(device), offsets.to(device))
    pooled.backward(torch.tensor([[1.0], [3.0]]).expand(2, 4).contiguous().to(device))
    pooled_wrong = pooled.detach().cpu() - torch.stack([before[0] + before[2], before[2]])
    moved_wrong = before - weight.detach().cpu() - torch.tensor([[0.5], [0.0], [2.0], [0.0]])
    return float(torch.maximum(pooled_wrong.abs().max(), moved_wrong.abs().max()))


def gloo_sum() -> float:
    """Sum 3 over one gloo rank that meets itself through a file."""
    import torch
    import torch.distributed as dist

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store").as_uri()
        timeout = timedelta(seconds=30)
        dist.init_process_group("gloo", init_method=store, rank=0, world_size=1, timeout=timeout)
        try:
            value = torch.tensor([3.0])
            dist.all_reduce(value)
            return float(value.item())
        finally:
            dist.destroy_process_group()


def attempt(probe: Callable[[], float]) -> float | str:
    """What the probe returns, or one line of what a library raised in it."""
    try:
        return probe()
    except BROKEN as error:
        return first_line(error)


def first_line(error: BaseException) -> str:
    """Name and first line of an error, and of what it came from."""
    line = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return line if error.__cause__ is None else f"{line} ({first_line(error.__cause__)})"


def devices(driver: str | None) -> Devices:
    """Ask torch for its build and GPUs.

    Raises:
        ImportError, OSError: torch does not import.
    """
    import torch

    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    gpus = tuple((found.name, found.total_memory) for found in properties)
    return Devices(torch_cuda=torch.version.cuda, driver=driver, gpus=gpus)


def has_nccl() -> bool:
    """Whether torch was built with NCCL."""
    import torch.distributed as dist

    return dist.is_nccl_available()


def driver_version() -> str | None:
    """Version of the NVIDIA driver, None where nvidia-smi does not answer."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.splitlines()[0].strip() if answer.stdout.strip() else None


def memory_bytes() -> int:
    """Memory of the host, or of the container where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(total, int(text)) if text.isdigit() else total


def pinned_versions() -> dict[str, str]:
    """Exact versions that this project's own metadata asks for."""
    try:
        requirements = importlib.metadata.requires(PROJECT) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    exact = (re.match(r"([\w.-]+)(?:\[.*\])?==([\w.]+)", text) for text in requirements)
    return {match.group(1): match.group(2) for match in exact if match}
