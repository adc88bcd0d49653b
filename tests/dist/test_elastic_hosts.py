"""Two hosts train, one is lost, the other goes on alone, and a second one joins again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from launch.components import SETTINGS
from tests.commands import TARGETS, data_options, prepare_small, rows_of
from tests.torchx_requests import ROOT

EPOCHS = 8
RECIPE = ROOT / "launch" / "recipes" / "synthetic_dare.yaml"
# A lost host is noticed after 3 s; otherwise as jobs have it.
MEETING = "last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=3"
LAUNCHER = [
    *("torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=9"),
    *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:29551", "--rdzv-id=elastic"),
    f"--rdzv-conf={MEETING}",
]


def start_host(folder, number, options):
    """An agent as `torchx run dare.train` starts it; what it tells goes to a file."""
    train = ["-m", "trainer", "train", f"--config={RECIPE}", *options, "--resume"]
    with (folder / f"host{number}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "launch.agent", *LAUNCHER, *train],
            env={**os.environ, **SETTINGS},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def lose(host):
    """Kill an agent and its process, as a host without power would."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(host.pid)], capture_output=True, text=True, check=True
    )
    for process in (host.pid, *map(int, found.stdout.split())):
        os.kill(process, signal.SIGKILL)
    host.wait()


def wait_for(text, folder, seconds=120):
    """Wait until the first host tells something."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if text in (told := (folder / "host0.log").read_text()):
            return
        time.sleep(0.2)
    pytest.fail(f"not told within {seconds} s: {text}\n{told[-2000:]}")


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_host_is_lost_and_comes_back_and_every_request_is_trained_once(tmp_path):
    options = [
        *data_options(prepare_small(tmp_path / "data")),
        *("--data.batch_size=16", "--telemetry.log_every=1", "--checkpoint.every=20"),
        *(f"--loop.epochs={EPOCHS}", f"--out_dir={tmp_path}"),
    ]
    hosts = [start_host(tmp_path, number, options) for number in (0, 1)]
    try:
        wait_for("step 50 ", tmp_path)
        lose(hosts[1])
        wait_for("2 readers have begun the epoch, 1 go on", tmp_path)
        wait_for("step 90 ", tmp_path)
        hosts.append(start_host(tmp_path, 2, options))
        wait_for("1 readers have begun the epoch, 2 go on", tmp_path)
        assert [hosts[0].wait(180), hosts[2].wait(60)] == [0, 0]
    finally:
        for host in hosts:
            if host.poll() is None:
                lose(host)
    told = "".join((tmp_path / f"host{number}.log").read_text() for number in (0, 2))
    (result,) = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    assert (result["ranks"], result["samples"]) == (2, EPOCHS * TARGETS["train"])
    steps = list(rows_of(tmp_path / "synthetic_dare", "train/loss"))
    assert steps == list(range(1, result["steps"] + 1))
