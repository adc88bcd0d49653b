"""Hosts that leave a job and come back: it goes on, and trains every request exactly once."""

import contextlib
import json
import time

import pytest
from torch._C._distributed_c10d import TCPStore

from launch.components import SETTINGS
from tests.agents import Agent
from tests.commands import TARGETS
from tests.recorded import starts_of, surviving, targets_of
from trainer.reliability.ending import NOTE_FILE

PATIENCE_S = 150


@contextlib.contextmanager
def _agents(arguments, tmp_path):
    """A way to start agents by address, all of which end with the block."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = []

    def start(address):
        env = {**SETTINGS, "RECORD": str(tmp_path), "PACE_S": "0.05"}
        log = tmp_path / f"agent-{len(started)}.log"
        # A loss costs the other a restart, a gain costs nobody one.
        started.append(
            Agent(*arguments, address=address, port=store.port, restarts=2, log=log, env=env)
        )
        return started[-1]

    try:
        yield start
    finally:
        for agent in started:
            agent.kill()


def _wait_for(folder, world, steps):
    """Let a start of so many ranks train some steps."""
    known = len(starts_of(folder))
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        starts = starts_of(folder)
        if len(starts) >= known and starts and starts[-1].world == world:
            newest = starts[-1]
            if newest.last - newest.first >= steps:
                return
        time.sleep(0.05)
    logs = "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("agent-*.log")))
    pytest.fail(f"no {steps} steps with {world} ranks within {PATIENCE_S} s:\n{logs}")


@pytest.mark.dist
@pytest.mark.slow
def test_a_host_that_is_lost_or_drained_and_comes_back_leaves_each_request_trained_once(
    data, dataset, tmp_path
):
    arguments = ["train", *data, f"--out_dir={tmp_path}", "--data.batch_size=16", "--resume"]
    arguments += ["--checkpoint.every=5", "--telemetry.log_every=5"]
    with _agents(arguments, tmp_path) as start:
        first, second = start("127.0.0.2"), start("127.0.0.1")
        _wait_for(tmp_path, world=2, steps=12)
        second.kill()  # It ran rank 0, which holds the run's folder.
        _wait_for(tmp_path, world=1, steps=3)
        second = start("127.0.0.1")
        _wait_for(tmp_path, world=2, steps=3)
        assert second.terminate() != 0
        _wait_for(tmp_path, world=1, steps=3)
        second = start("127.0.0.3")
        _wait_for(tmp_path, world=2, steps=3)
        assert [first.process.wait(PATIENCE_S), second.process.wait(PATIENCE_S)] == [0, 0]
    starts = [each for each in starts_of(tmp_path) if each.steps]
    assert [each.world for each in starts][-5:] == [2, 1, 2, 1, 2]
    *_, both, alone, again, drained, last = starts
    assert alone.first == both.last - both.last % 5, "the newest checkpoint"
    assert again.first == alone.last, "who joins lets the others save first"
    assert drained.first == again.last
    assert last.first == drained.last
    assert surviving(starts) == targets_of(dataset / "train")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["samples"] == TARGETS["train"]
    assert result["steps"] == last.last
    assert not (tmp_path / "run" / NOTE_FILE).exists()
