"""A scheduler takes the machine back: torchrun tells all processes, and the step is saved."""

import json
import re
import signal
import time

import pytest

from tests.commands import TARGETS, rows_of
from tests.torchrun import begin_torchrun, on_two_ranks

STEPS = ("--data.batch_size=8", "--telemetry.log_every=1", "--data.workers=1")
PATIENCE_S = 120


def _wait_for(happened, process):
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.dist
@pytest.mark.slow
def test_sigterm_to_torchrun_saves_within_seconds_and_the_run_ends_as_if_it_had_not_come(
    data, tmp_path
):
    """Readers get the signal too, since torchrun signals whole process groups."""
    options = [*data, *STEPS, f"--out_dir={tmp_path}", "--loop.steps=80"]
    log, run = tmp_path / "log", tmp_path / "run"
    process = begin_torchrun("train", *options, log=log)
    metrics = run / "metrics.jsonl"
    _wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 10, process)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert process.wait(PATIENCE_S) != 0  # Else the scheduler would take it for finished.
    seconds = time.monotonic() - began
    told = log.read_text()
    found = re.search(r"stopped by SIGTERM at step (\d+), which is saved; --resume goes on", told)
    assert found, told
    assert told.count("which is saved") == 1
    assert "DataLoader worker" not in told
    step = int(found[1])
    assert 10 < step < 80
    assert (run / "checkpoints" / f"step-{step:08d}" / "manifest.json").exists()
    assert json.loads((run / "ended.json").read_text())["state"] == "stopped"
    # torchrun kills what has not ended after 30 s.
    assert seconds < 30
    resumed, _ = on_two_ranks("train", *options, "--resume")
    straight, _ = on_two_ranks("train", *options, "--name=straight")
    assert resumed["samples"] == straight["samples"] <= TARGETS["train"]
    assert rows_of(run, "train/loss") == rows_of(tmp_path / "straight", "train/loss")
