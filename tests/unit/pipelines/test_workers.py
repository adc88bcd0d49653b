"""Processes that read ahead end when what they read for does, however it ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.processes import descendants, kill_tree

READS = """
import time
from torch.utils.data import DataLoader
from pipelines.workers import begin_reader, forkserver
loader = DataLoader(
    range(1000), num_workers=2, multiprocessing_context=forkserver(), worker_init_fn=begin_reader
)
batches = iter(loader)
next(batches)
print("reading", flush=True)
time.sleep(600)
"""


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_readers_and_their_server_end_with_training_that_is_killed():
    """They would keep their memory, and a job that is started again would add as many each time."""
    process = subprocess.Popen(
        [sys.executable, "-c", READS], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    started = []
    try:
        assert process.stdout.readline() == b"reading\n"
        started = descendants(process.pid)
        assert sum("forkserver" in _command(pid) for pid in started) == 3  # The server, two of it.
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        while left := [pid for pid in started if _runs(pid)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
    finally:
        for pid in (process.pid, *started):
            kill_tree(pid)


def _command(pid):
    return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes())
