"""What a process asks of its host's libraries before torch loads: threads, numbers, memory.

Every training step asks for the same large tensors again. By default glibc gives freed memory back
to the kernel, which clears each of its pages, 4 KiB at a time, before it hands it out anew: up to a
third of a step's processor time. Here glibc keeps blocks of up to 32 MiB, the most that it can, and
torch asks for pages of 2 MiB. What a process holds at its peak grows by a tenth or less where
tensors are small, and it shrinks less in between (docs/LOG.md).
"""

from __future__ import annotations

import ctypes
import os
import platform

_MALLOPT = {"MALLOC_MMAP_THRESHOLD_": (-3, 32 << 20), "MALLOC_TRIM_THRESHOLD_": (-1, (1 << 31) - 1)}
"""glibc's environment variables, and the number and value with which `mallopt` (3) takes them."""
HOST_SETTINGS = {
    # Long spinning of waiting threads slows a shared machine six-fold, none at all costs 15 %.
    "GOMP_SPINCOUNT": "10000",
    # The same numbers in every run: no change of threads or of kernels by load or alignment.
    "MKL_DYNAMIC": "FALSE",
    "MKL_CBWR": "AUTO,STRICT",
    # Large tensors lie on huge pages where there are any.
    "THP_MEM_ALLOC_ENABLE": "1",
    **{name: str(value) for name, (_, value) in _MALLOPT.items()},
}
"""Environment variables that OpenMP, MKL and torch read once, when torch loads, and glibc when a
process starts."""


def apply_host_settings() -> None:
    """Set up this process and those that it starts; variables that the user has set stay."""
    for name, default in HOST_SETTINGS.items():
        os.environ.setdefault(name, default)
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for name, (number, value) in _MALLOPT.items():
        # It has read the variables already, so it is told by the call.
        if os.environ[name] == str(value):
            mallopt(number, value)
