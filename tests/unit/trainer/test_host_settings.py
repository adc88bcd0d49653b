"""What a process asks of its host's libraries, seen by what it then does."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from trainer import host_settings

GLIBC = platform.libc_ver()[0] == "glibc"
NAMES = ("THP_MEM_ALLOC_ENABLE", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
BLOCKS = """
import resource, sys
from trainer.host_settings import apply_host_settings
if sys.argv[1] == "keep":
    apply_host_settings()
import numpy as np
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        held = [np.empty(3 << 20, np.float64) for _ in range(4)]
        for block in held:
            block[::512] = 1
        del held, block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def faults_of_large_blocks(mode: str) -> int:
    """Pages that four blocks of 24 MiB, freed together, take from the kernel the second 5 times."""
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    command = [sys.executable, "-c", BLOCKS, mode]
    ran = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    return int(ran.stdout)


@pytest.mark.skipif(not GLIBC, reason="only glibc is told")
def test_blocks_that_are_freed_are_used_again_without_new_pages() -> None:
    left = faults_of_large_blocks("leave")
    assert left > 10_000
    assert faults_of_large_blocks("keep") < left / 100


@pytest.mark.skipif(not GLIBC, reason="only glibc is told")
def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1048576")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    told = []
    monkeypatch.setattr(host_settings.ctypes, "CDLL", lambda _: Told(told))
    host_settings.apply_host_settings()
    assert told == [(-3, 32 << 20)]
    assert [os.environ[name] for name in NAMES] == ["0", str(32 << 20), "1048576"]


class Told:
    """Stands for the C library."""

    def __init__(self, told: list[tuple[int, int]]) -> None:
        self.mallopt = lambda number, value: told.append((number, value))
