"""Processes that torchrun starts again on two hosts find each other again."""

import os
import subprocess
import sys

import pytest

from launch.components import SETTINGS
from tests.slurm.cluster import free_ports

PROGRAM = """
import os, time
import torch
import torch.distributed as dist

again = os.environ["TORCHELASTIC_RESTART_COUNT"] == "1"
if again and os.environ["RANK"] == "0":
    time.sleep(2)  # Later than rank 1, who must wait for it.
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
if not again:
    os._exit(1)
print("ranks", int(total))
dist.destroy_process_group()
"""


@pytest.mark.dist
def test_a_rank_waits_for_one_that_is_started_again_later(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (port,) = free_ports(1)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d"]
    shape = [f"--rdzv-endpoint=localhost:{port}", "--nnodes=2", "--nproc-per-node=1"]
    hosts = [
        subprocess.Popen(
            [*launcher, *shape, "--max-restarts=1", "program.py"],
            cwd=tmp_path,
            env={**os.environ, **SETTINGS},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for host in hosts:
            out, err = host.communicate(timeout=100)
            assert out == "ranks 2\n", err
            assert host.returncode == 0
    finally:
        for host in hosts:
            host.terminate()  # torchrun ends its ranks.
            host.wait()
