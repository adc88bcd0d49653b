"""The watchdog tells of a wait long before it ends the job."""

import json
import time

import pytest
from torch._C._distributed_c10d import HashStore

from trainer.reliability import watchdog
from trainer.reliability.progress import CONNECTING, Progress
from trainer.reliability.watchdog import Watchdog, WatchdogConfig

PATIENT = WatchdogConfig(hang_s=40)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watchdog, "NOTE_S", 0.1)
    monkeypatch.setattr(watchdog, "_BEAT_S", 0.05)


def _watched(store, folder, progress):
    return Watchdog(PATIENT, progress, folder, store=store, rank=0, world=2)


def test_a_start_that_does_not_get_on_says_in_which_phase_and_who_is_missing(tmp_path, capfd):
    store, progress = HashStore(), Progress()
    told = {"host": "b", "step": 0, "phase": CONNECTING, "seconds": 0.0, "beats": 3}
    store.set("watchdog/1", json.dumps(told))  # Then it was frozen.
    with progress.phase(CONNECTING), _watched(store, tmp_path, progress):
        time.sleep(0.6)
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        "dare train: warning: no progress for 0 s: rank 1 not to be heard, rank 0 connecting with "
        "the other ranks; the job ends after 40 s (watchdog.hang_s, .slow_s)"
    )


@pytest.mark.parametrize("phase", ["saving", "restoring"])
def test_what_is_slow_by_nature_is_not_told_of(tmp_path, capfd, phase):
    progress = Progress()
    with progress.phase(phase), _watched(HashStore(), tmp_path, progress):
        time.sleep(0.4)
    assert capfd.readouterr().err == ""


def test_steps_that_get_on_are_not_told_of(tmp_path, capfd):
    progress = Progress()
    with _watched(HashStore(), tmp_path, progress):
        for step in range(1, 9):
            progress.finish_step(step)
            time.sleep(0.05)
    assert capfd.readouterr().err == ""
