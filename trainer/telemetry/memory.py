"""Peak memory of this process, on its device."""

from __future__ import annotations

import gc
import re
import resource
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory_bytes(device: torch.device) -> float:
    """Peak bytes: allocated on a CUDA device, else resident in this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    # Not `ru_maxrss` on Linux: a process begins with that of the one that started it.
    peak = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text()) if _STATUS.exists() else None
    if peak is not None:
        return float(peak[1]) * 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def reset_peak_memory() -> None:
    """Let the peak begin anew from what is held now, before another run in this process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if _CLEAR.exists():
        _CLEAR.write_text("5")
