"""Peak memory is a run's own: not its parent's, not that of a run before it."""

import subprocess
import sys

import pytest
import torch

from trainer.telemetry.memory import peak_memory_bytes, reset_peak_memory

CPU = torch.device("cpu")
HELD = 1000 << 20
TOLD = (
    "import torch; from trainer.telemetry.memory import *; "
    "print(peak_memory_bytes(torch.device('cpu')))"
)


@pytest.fixture
def held():
    """Memory that was touched and given back."""
    block = bytearray(HELD)
    block[::4096] = b"x" * len(block[::4096])
    del block


@pytest.mark.usefixtures("held")
def test_a_process_does_not_begin_with_the_peak_of_the_one_that_started_it():
    assert peak_memory_bytes(CPU) > HELD
    child = subprocess.run(
        [sys.executable, "-c", TOLD], capture_output=True, text=True, check=True
    ).stdout
    # Importing torch takes some 200 MiB, 500 of a CUDA build, whatever the parent once held.
    assert float(child) < 800 << 20


@pytest.mark.usefixtures("held")
def test_a_peak_begins_anew_after_a_reset():
    before = peak_memory_bytes(CPU)
    reset_peak_memory()
    assert peak_memory_bytes(CPU) < before - HELD / 2
