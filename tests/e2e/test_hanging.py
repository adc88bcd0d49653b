"""A job in which a rank hangs ends, and says which rank, where, and since when."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.torchrun import begin_torchrun, kill_all, torchrun
from trainer.reliability.watchdog import Heard, diagnose, standing

QUICK = ("--watchdog.hang_s=3", "--watchdog.slow_s=60", "--data.batch_size=64")


def _heard(rank, phase, *, step=7, beats=5):
    return Heard(rank, f"host{rank}", step, phase, 12.0, beats)


def _later(heard):
    return [Heard(**{**vars(one), "beats": one.beats + 1}) for one in heard]


def test_a_rank_that_reads_is_named_and_not_those_that_wait_for_it():
    ranks = [_heard(0, "training"), _heard(1, "reading data"), _heard(2, "training")]
    text = "rank 1 on host1 is reading data after step 7 (for 12 s); the others wait for it"
    assert diagnose(ranks, _later(ranks), 3) == text


def test_a_rank_that_tells_nothing_any_more_is_named_before_all_others():
    before = [_heard(0, "reading data"), _heard(1, "training")]
    after = [*_later(before[:1]), before[1]]
    text = "rank 1 on host1 is training after step 7 (for 12 s): is no longer to be heard"
    assert text in diagnose(before, after, 2)


def test_a_rank_that_has_never_told_anything_is_named():
    ranks = [_heard(0, "training")]
    assert "rank 1: is no longer to be heard" in diagnose(ranks, _later(ranks), 2)


def test_of_ranks_that_all_train_those_with_the_fewest_steps_are_named():
    ranks = [_heard(0, "training", step=8), _heard(1, "training", step=7)]
    assert diagnose(ranks, _later(ranks), 2).startswith("rank 1 on host1 is training after step 7")


def test_a_rank_that_reads_before_the_first_step_is_named_and_not_those_that_start():
    ranks = [_heard(0, "starting", step=0), _heard(1, "reading data", step=0)]
    assert diagnose(ranks, _later(ranks), 2).startswith("rank 1 on host1 is reading data")


def test_where_all_stand_at_the_same_place_no_single_one_is_blamed():
    ranks = [_heard(0, "training"), _heard(1, "training")]
    assert "all hang, in a collective or on what they share" in diagnose(ranks, _later(ranks), 2)


def test_a_note_says_where_all_stand_without_blame():
    before = [_heard(0, "starting"), _heard(1, "starting"), _heard(2, "saving")]
    after = [*_later(before[:2]), before[2]]
    text = "ranks 2, 3 not to be heard, ranks 0, 1 starting"
    assert standing(before, after, 4) == text
    many = [_heard(rank, "starting") for rank in range(200)]
    assert standing(many, _later(many), 200) == "200 ranks starting"


def test_a_read_that_never_ends_ends_the_run_with_its_name(data, tmp_path):
    fault = {"rank": 0, "where": "read", "after": 12, "what": "hang", "once": f"{tmp_path}/once"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.faulty", "train", *data, f"--out_dir={tmp_path}", *QUICK],
        env={**os.environ, "FAULT": json.dumps(fault), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 124, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith("dare train: error: no progress for 3 s (watchdog.hang_s, .slow_s): ")
    assert "is reading data after step" in line
    assert "Traceback" not in done.stderr
    stack = (tmp_path / "run" / "stacks" / "rank-0.txt").read_text()
    assert 'faulty.py", line' in stack
    assert json.loads((tmp_path / "run" / "ended.json").read_text())["state"] == "failed"


@pytest.mark.dist
@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("hang", "is reading data after step"),
        pytest.param("freeze", "no longer to be heard", marks=pytest.mark.slow),
    ],
)
def test_of_two_ranks_the_one_that_hangs_is_named(data, tmp_path, what, told):
    fault = {"rank": 1, "where": "read", "after": 12, "what": what, "once": f"{tmp_path}/once"}
    log, sign = tmp_path / "log", "dare train: error: no progress"
    process = begin_torchrun("train", *data, f"--out_dir={tmp_path}", *QUICK, log=log, fault=fault)
    deadline = time.monotonic() + 120
    while sign not in log.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    kill_all(process)
    (line,) = [line for line in log.read_text().splitlines() if sign in line]
    assert "rank 1 on " in line
    assert "rank 0 on " not in line
    assert told in line
    assert "rank 1 " in line
    assert "where each rank stood" in line


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("meet", "rank 1 did not come within 15 s"),
        ("connect", ": is no longer to be heard; the others wait for it"),
    ],
)
def test_a_rank_that_freezes_in_the_start_is_named(data, tmp_path, where, told):
    """Before it was there, and after; torch itself would wait for half an hour."""
    fault = {"rank": 1, "where": where, "after": 0, "what": "freeze", "once": f"{tmp_path}/once"}
    options = [*data, f"--out_dir={tmp_path}", "--watchdog.hang_s=3", "--watchdog.slow_s=15"]
    done = torchrun("train", *options, fault=fault)
    (line,) = [line for line in done.stderr.splitlines() if "dare train: error" in line]
    assert told in line
    assert "rank 1 " in line
