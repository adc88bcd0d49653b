"""Ctrl-C and SIGTERM: the step is saved, the exit code says why, and the run goes on from there."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from pipelines.lockstep import BatchStream
from tests.commands import TARGETS, dare_without_report, rows_of
from trainer.checkpoints.store import Store
from trainer.reliability.stopping import StopRequest
from trainer.task import TrainTask

STEPS = ("--data.batch_size=256", "--telemetry.log_every=1")
OVERFITS = (
    *STEPS,
    "--loop.steps=12",
    "--loop.evaluate_every=4",
    "--checkpoint.keep_last=1",
    "--optim.sparse.learning_rate=0.5",
    "--optim.dense.learning_rate=0.1",
)


def _signalled(monkeypatch, number, *, call, training=True):
    """Let a signal come in the forward pass of a call."""
    whole, calls = TrainTask.forward, count(1)

    def forward(task, batch):
        if task.training == training and next(calls) == call:
            os.kill(os.getpid(), number)
        return whole(task, batch)

    monkeypatch.setattr(TrainTask, "forward", forward)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """A run that nothing happens to."""
    out = tmp_path_factory.mktemp("straight")
    outcome = dare_without_report("train", *data, *STEPS, f"--out_dir={out}", "--name=straight")
    return outcome.result, out / "straight"


def _same(resumed, folder, straight):
    assert resumed["samples"] == TARGETS["train"]
    assert resumed["auc"] == straight[0]["auc"]
    assert rows_of(folder, "train/loss") == rows_of(straight[1], "train/loss")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_step_and_the_run_goes_on_as_if_it_had_not_come(
    data, tmp_path, straight, monkeypatch, number, code, workers
):
    options = [*data, *STEPS, f"--out_dir={tmp_path}", f"--data.workers={workers}"]
    with monkeypatch.context() as patched:
        _signalled(patched, number, call=5)
        outcome = dare_without_report("train", *options)
    assert (outcome.code, outcome.out) == (code, "")
    assert "Traceback" not in outcome.err
    folder = tmp_path / "run"
    note = json.loads((folder / "ended.json").read_text())
    assert note["state"] == ("stopped" if code == 143 else "interrupted")
    # The step that it came in, and the batches that were on their way.
    assert 5 <= note["step"] <= 9
    assert f"at step {note['step']}, which is saved; --resume goes on" in outcome.err
    assert [path.name for path in (folder / "checkpoints").glob("*step-*")] == [
        f"step-{note['step']:08d}"
    ]
    resumed = dare_without_report("train", *options, "--resume").result
    assert not (folder / "ended.json").exists()
    if workers == 0:
        _same(resumed, folder, straight)
    else:
        assert resumed["samples"] == TARGETS["train"]


def test_a_signal_during_the_last_evaluation_leaves_the_last_step_saved(
    data, tmp_path, straight, monkeypatch
):
    options = [*data, *STEPS, f"--out_dir={tmp_path}"]
    with monkeypatch.context() as patched:
        _signalled(patched, signal.SIGTERM, call=1, training=False)
        assert dare_without_report("train", *options).code == 143
    steps = straight[0]["steps"]
    note = json.loads((tmp_path / "run" / "ended.json").read_text())
    assert note["step"] == steps
    resumed = dare_without_report("train", *options, "--resume").result
    _same(resumed, tmp_path / "run", straight)
    assert resumed["val_auc"] == straight[0]["val_auc"]


def test_a_signal_during_an_evaluation_on_the_way_saves_its_step_without_a_score(
    data, tmp_path, straight, monkeypatch
):
    options = [*data, *STEPS, f"--out_dir={tmp_path}", "--loop.evaluate_every=4"]
    with monkeypatch.context() as patched:
        _signalled(patched, signal.SIGTERM, call=1, training=False)
        assert dare_without_report("train", *options).code == 143
    saved = Store(str(tmp_path / "run" / "checkpoints"))
    assert saved.complete() == ["step-00000004"]
    assert saved.manifest("step-00000004").metrics == {}
    resumed = dare_without_report("train", *options, "--resume").result
    assert resumed["samples"] == TARGETS["train"]
    assert rows_of(tmp_path / "run", "train/loss") == rows_of(straight[1], "train/loss")


@pytest.fixture(scope="module")
def overfitted(data, tmp_path_factory):
    """A run whose best step is the first one that is scored."""
    out = tmp_path_factory.mktemp("overfitted")
    result = dare_without_report("train", *data, *OVERFITS, f"--out_dir={out}").result
    assert result["best_step"] == 4, "another step is the best, so this shows nothing"
    return result, out / "run"


def test_an_evaluation_that_a_signal_cut_short_is_made_up_by_the_resume(
    data, tmp_path, overfitted, monkeypatch
):
    options = [*data, *OVERFITS, f"--out_dir={tmp_path}"]
    with monkeypatch.context() as patched:
        _signalled(patched, signal.SIGTERM, call=1, training=False)
        assert dare_without_report("train", *options).code == 143
    resumed = dare_without_report("train", *options, "--resume").result
    for name in ("best_step", "val_auc", "auc", "logloss"):
        assert resumed[name] == overfitted[0][name], name
    for name in ("eval/auc", "train/loss"):
        assert rows_of(tmp_path / "run", name) == rows_of(overfitted[1], name)


def test_a_signal_before_the_first_step_leaves_no_checkpoint(data, tmp_path, monkeypatch):
    whole = BatchStream._read

    def read(stream):
        os.kill(os.getpid(), signal.SIGTERM)
        return whole(stream)

    with monkeypatch.context() as patched:
        patched.setattr(BatchStream, "_read", read)
        outcome = dare_without_report("train", *data, f"--out_dir={tmp_path}")
    assert outcome.code == 143
    assert "before its first step" in outcome.err
    assert dare_without_report("train", *data, f"--out_dir={tmp_path}", "--resume").code == 0


def test_a_second_ctrl_c_leaves_at_once(data, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.reliability.stopping.ONE_PRESS_S", 0.0)
    whole = TrainTask.forward

    def forward(task, batch):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        return whole(task, batch)

    monkeypatch.setattr(TrainTask, "forward", forward)
    outcome = dare_without_report("train", *data, f"--out_dir={tmp_path}")
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "dare train: interrupted; what is written stays"
    assert not list((tmp_path / "run").glob("checkpoints/*step-*"))


def test_a_ctrl_c_that_ends_the_reader_of_stderr_too_saves_the_step(data, tmp_path):
    """As in a terminal, under `2>&1 | tee log`, where nobody reads what is told any more."""
    options = [*data, f"--out_dir={tmp_path}", "--telemetry.log_every=1", "--loop.epochs=1000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "train", *options],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    while b"step 2 " not in process.stdout.readline():
        assert process.poll() is None
    process.stdout.close()
    time.sleep(0.1)  # Some lines are lost before the press.
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    note = json.loads((tmp_path / "run" / "ended.json").read_text())
    assert (note["state"], note["reason"][:17]) == ("interrupted", "stopped by Ctrl-C")
    assert (tmp_path / "run" / "checkpoints" / f"step-{note['step']:08d}").is_dir()


def test_one_press_that_comes_twice_is_one(capfd):
    """A terminal tells all processes, and a launcher hands on what it is told."""
    request = StopRequest()
    with request.listening(tells=True):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert request.asked()
    assert capfd.readouterr().err.count("Ctrl-C") == 1


def test_signals_are_as_before_after_a_run(data, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    dare_without_report("train", *data, f"--out_dir={tmp_path}", "--loop.steps=1")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
