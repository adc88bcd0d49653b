"""Processes that torchrun starts again on two hosts find each other again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.components import SETTINGS
from tests.slurm.cluster import free_ports

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, pathlib, sys, time
from trainer.distributed import run_context

failing, late = sys.argv[1].split(","), sys.argv[2]
rank = os.environ["RANK"]
mark = pathlib.Path("started-" + rank)
again = mark.exists()
mark.touch()
if again and rank == late:
    time.sleep(2)
with run_context() as context:
    context.wait()
    if not again and rank in failing:
        os._exit(1)
    if not again:
        time.sleep(100)  # Until torchrun hears of the other host's failure.
    context.wait()
print("together", os.environ["WORLD_SIZE"])
"""


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize(
    ("failing", "late", "own_store"),
    [
        # Rank 1 is back first, and must not take the addresses that the dead rank 0 has left.
        ("0,1", "0", "0"),
        # The first host's torchrun counts no restart, the second's one.
        ("1", "none", "0"),
        ("1", "none", "1"),
    ],
)
def test_ranks_of_two_hosts_meet_again(tmp_path, failing, late, own_store):
    """Also on the store that torchrun keeps unless it is told not to."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (port,) = free_ports(1)
    stores = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": own_store}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d"]
    shape = [f"--rdzv-endpoint=localhost:{port}", "--nnodes=2", "--nproc-per-node=1"]
    hosts = [
        subprocess.Popen(
            [*launcher, *shape, "--max-restarts=1", "program.py", failing, late],
            cwd=tmp_path,
            env={**os.environ, **SETTINGS, "PYTHONPATH": str(ROOT)} | stores,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for host in hosts:
            out, err = host.communicate(timeout=60)
            assert out == "together 2\n", err
            assert host.returncode == 0
    finally:
        for host in hosts:
            host.terminate()  # torchrun ends its ranks.
            host.wait()
