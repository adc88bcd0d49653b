"""What this process asks of the memory allocators of its host: to keep what a step frees.

Every step asks for the same large tensors again. By default glibc gives freed memory back to the
kernel, which clears each of its pages, 4 KiB at a time, before it hands it out anew: up to a third
of a step's processor time. Here glibc keeps blocks of up to 32 MiB, the most that it can, and torch
asks for pages of 2 MiB. A process's memory at its peak is the same; it shrinks less in between.
"""

from __future__ import annotations

import ctypes
import os
import platform

_TORCH = "THP_MEM_ALLOC_ENABLE"
"""Read once by torch, at its first tensor: large ones lie on huge pages where there are any."""
_GLIBC = {"MALLOC_MMAP_THRESHOLD_": (-3, 32 << 20), "MALLOC_TRIM_THRESHOLD_": (-1, (1 << 31) - 1)}
"""Its environment variables, and the number and value with which `mallopt` (3) takes them."""


def keep_freed_memory() -> None:
    """Set the allocators of this process, and of those that it starts, before torch loads.

    Variables that the user has set stay as they are.
    """
    os.environ.setdefault(_TORCH, "1")
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for name, (number, value) in _GLIBC.items():
        # glibc reads the variables when a process starts, so this one is told by the call.
        if os.environ.setdefault(name, str(value)) == str(value):
            mallopt(number, value)
