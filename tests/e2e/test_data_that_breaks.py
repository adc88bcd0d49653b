"""Parquet that breaks while a run reads it: one line, what is saved stays, a resume makes it up.

Files are broken by the logging of a step, so that the step is known; readers are a few batches
ahead of it. An epoch has 48 steps.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from unittest import mock

import pyarrow as pa
import pytest

from tests.broken_data import FILES, options_of, prepare_files, table, with_type
from tests.broken_data import write as write_table
from tests.commands import dare_without_report, rows_of
from tests.saved import assert_same_tensors
from trainer.telemetry.telemetry import Telemetry

MID_EPOCH, BREAKS_AT, STEPS = 48, 12, 56


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return prepare_files(tmp_path_factory.mktemp("whole") / "data", "user")


@pytest.fixture(scope="module")
def undisturbed(whole, tmp_path_factory):
    """The run that meets no fault, by number of workers."""
    out = tmp_path_factory.mktemp("undisturbed")
    for workers in (0, 2):
        assert _train(whole, out, workers, f"--name={workers}").code == 0
    return out


def _train(folder, out, workers, *options):
    return dare_without_report(
        "train",
        *options_of(folder, "user"),
        f"--out_dir={out}",
        f"--data.workers={workers}",
        "--data.batch_size=8",
        "--loop.epochs=2",
        f"--loop.steps={STEPS}",
        "--checkpoint.every=8",
        "--telemetry.log_every=1",
        *options,
    )


@contextlib.contextmanager
def _at_step(step, fault):
    """Let something happen once a step is logged."""
    logs = Telemetry.step

    def step_and_fault(self, number, **told):
        logs(self, number, **told)
        if number == step:
            fault()

    with mock.patch.object(Telemetry, "step", step_and_fault):
        yield


def _other_types(path):
    write_table(path, with_type("user", "item", pa.list_(pa.string()), ["1", "2", "3", "4"]))


def _cut_off(path):
    os.truncate(path, path.stat().st_size // 2)


FAULTS = {
    "gone": (lambda path: path.unlink(), "is not a readable parquet file: No such file"),
    "cut off": (_cut_off, "is not a readable parquet file: "),
    "emptied": (lambda path: os.truncate(path, 0), "Parquet file size is 0 bytes; put the whole"),
    "fewer rows": (
        lambda path: write_table(path, table("user").slice(0, 0)),
        "is not the file that it was: its row group",
    ),
    "other columns": (
        lambda path: write_table(path, table("user").drop_columns("category")),
        "has no column category",
    ),
    "other types": (_other_types, "column item is list<element: string>, it needs list<item: int6"),
}


def _assert_same_end(run, other):
    last = f"checkpoints/step-{STEPS:08}"
    assert_same_tensors(run / last, other / last)


@pytest.mark.parametrize(
    ("fault", "workers"), [*((fault, 0) for fault in FAULTS), ("gone", 2), ("other columns", 2)]
)
def test_a_run_whose_data_breaks_ends_in_a_line_and_is_resumed_to_the_same_tables(
    whole, undisturbed, tmp_path, fault, workers
):
    folder = shutil.copytree(whole, tmp_path / "data")
    files = sorted((folder / "train").iterdir())
    broken, problem = FAULTS[fault]

    def fault_of_all():
        for file in files:
            broken(file)

    with _at_step(BREAKS_AT, fault_of_all):
        outcome = _train(folder, tmp_path, workers)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Traceback" not in outcome.err
    (line,) = [line for line in outcome.err.splitlines() if "error" in line]
    assert line.startswith(f"dare train: error: {folder / 'train' / 'part-'}")
    assert problem in line
    run = tmp_path / "run"
    saved = sorted(path.name for path in (run / "checkpoints").glob("*step-*"))
    assert BREAKS_AT - 8 < int(saved[-1].removeprefix("step-")) < MID_EPOCH
    assert not (run / "result.json").exists()

    shutil.rmtree(folder)
    shutil.copytree(whole, folder)
    resumed = _train(folder, tmp_path, workers, "--resume")
    assert resumed.result["samples"] == FILES * 24 * 4 + (STEPS - MID_EPOCH) * 8
    _assert_same_end(run, undisturbed / str(workers))
    losses = rows_of(undisturbed / str(workers), "train/loss")
    assert list(losses) == list(range(1, STEPS + 1))
    assert rows_of(run, "train/loss") == losses


def test_data_that_breaks_between_epochs_is_told_once_the_next_is_read(whole, tmp_path):
    """One window holds an epoch, so that files are read when it begins."""
    folder = shutil.copytree(whole, tmp_path / "data")
    window = "--data.shuffle_requests=100000"
    with _at_step(3, (folder / "train" / "part-1.parquet").unlink):
        outcome = _train(folder, tmp_path, 0, window)
    assert outcome.code == 2
    (line,) = [line for line in outcome.err.splitlines() if "error" in line]
    assert "part-1.parquet is not a readable parquet file: No such file or directory" in line
    saved = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("*step-*"))
    assert int(saved[-1].removeprefix("step-")) > MID_EPOCH - 16


@pytest.mark.parametrize("asynchronous", ["false", "true"])
@pytest.mark.parametrize("last", [STEPS, STEPS - 3])
def test_data_of_an_evaluation_that_breaks_is_told_and_training_is_kept(
    whole, undisturbed, tmp_path, last, asynchronous
):
    """Also where the last step is due to be saved for its evaluation only."""
    folder = shutil.copytree(whole, tmp_path / "data")
    options = [f"--checkpoint.asynchronous={asynchronous}", f"--loop.steps={last}"]
    with _at_step(last, (folder / "val" / "part-0.parquet").unlink):
        outcome = _train(folder, tmp_path, 0, *options)
    assert outcome.code == 2
    (line,) = [line for line in outcome.err.splitlines() if "error" in line]
    assert f"{folder / 'val'}: no .parquet file is there" in line
    saved = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert saved[-1] == f"step-{last:08}"
    shutil.copy(whole / "val" / "part-0.parquet", folder / "val")
    assert _train(folder, tmp_path, 0, "--resume").code == 0
    _assert_same_end(tmp_path / "run", undisturbed / "0")


def test_a_reader_that_is_killed_ends_the_run_in_a_line(whole, undisturbed, tmp_path):
    """As by the system where memory is short."""

    def kill_a_reader():
        readers = multiprocessing.active_children()
        assert len(readers) == 2
        readers[0].kill()

    with _at_step(BREAKS_AT, kill_a_reader):
        outcome = _train(whole, tmp_path, 2)
    assert (outcome.code, outcome.out) == (1, "")
    (line,) = [line for line in outcome.err.splitlines() if "error" in line]
    assert "one of the processes that read ahead was killed or ended" in line
    assert "lower data.workers (2)" in line
    assert _train(whole, tmp_path, 2, "--resume").code == 0
    _assert_same_end(tmp_path / "run", undisturbed / "2")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stop_does_not_wait_for_storage_that_does_not_answer(
    whole, undisturbed, tmp_path, monkeypatch, workers
):
    """Opening a pipe that nobody writes to takes for ever, in a reading process too."""
    monkeypatch.setattr("trainer.reliability.stopping.READ_S", 0.5)
    folder = shutil.copytree(whole, tmp_path / "data")
    began = []

    def stall_and_stop():
        for file in (folder / "train").iterdir():
            file.unlink()
            os.mkfifo(file)
        began.append(time.monotonic())
        threading.Timer(2, os.kill, [os.getpid(), signal.SIGTERM]).start()

    with _at_step(BREAKS_AT, stall_and_stop):
        outcome = _train(folder, tmp_path, workers)
    assert outcome.code == 143, outcome.err
    assert "which is saved; --resume goes on" in outcome.err
    assert not multiprocessing.active_children()
    assert 2.4 < time.monotonic() - began[0] < 12
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)
    assert _train(folder, tmp_path, workers, "--resume").code == 0
    _assert_same_end(tmp_path / "run", undisturbed / str(workers))
