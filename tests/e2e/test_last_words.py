"""What ends a job of several ranks is told once, and a mistake is not tried again."""

import shutil
import time

import pytest

from launch.settings import SETTINGS
from tests.broken_data import options_of, prepare_files
from tests.commands import rows_of
from tests.saved import assert_same_tensors
from tests.torchrun import torchrun
from trainer.checkpoints.store import Store

OURS = "launch.torchrun"


def _told(done):
    return [line for line in done.stderr.splitlines() if line.startswith("dare")]


@pytest.mark.dist
@pytest.mark.parametrize("of_component", [False, True])
def test_a_mistake_ends_the_job_at_once_and_is_told_once(tmp_path, monkeypatch, of_component):
    """Also with the settings of a TorchX component, where torchrun keeps no store for its ranks."""
    meeting = []
    if of_component:
        for name, value in SETTINGS.items():
            monkeypatch.setenv(name, value)
        meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    options = ["--loop.epochs=many", f"--out_dir={tmp_path}"]
    done = torchrun("train", *options, restarts=3, launcher=OURS, options=meeting)
    assert done.returncode == 2
    (line,) = _told(done)
    assert "loop.epochs" in line
    assert "Traceback" not in done.stderr


@pytest.mark.dist
def test_a_failure_is_tried_again_and_a_rank_that_lost_another_leaves_it_to_that_one_to_say_why(
    tmp_path, data
):
    """The other rank's disk is full once; the second start goes on to the end."""
    fault = {"rank": 1, "where": "save", "after": 2, "what": "full", "once": f"{tmp_path}/once"}
    options = [*data, f"--out_dir={tmp_path}", "--checkpoint.every=3", "--resume"]
    done = torchrun("train", *options, fault=fault, restarts=1, launcher=OURS)
    assert done.returncode == 0, done.stderr
    (line,) = _told(done)
    assert "could not be written: " in line


def _damage_the_last_rows(file):
    """Clear the second half of its rows, whose footer stays; returns what it held."""
    before = file.read_bytes()
    rows_end = len(before) - 8 - int.from_bytes(before[-8:-4], "little")
    half = rows_end // 2
    file.write_bytes(before[:half] + bytes(rows_end - half) + before[rows_end:])
    return before


def _evaluating(folder, out):
    """Options of a run that is scored after steps 4 and 8."""
    options = [*options_of(folder, "user"), f"--out_dir={out}", "--data.batch_size=8"]
    return [*options, "--loop.steps=8", "--loop.evaluate_every=4", "--telemetry.log_every=1"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run on two ranks that nothing happens to, and the data beside it."""
    out = tmp_path_factory.mktemp("straight")
    options = _evaluating(prepare_files(out / "data", "user"), out)
    done = torchrun("train", *options, launcher=OURS)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", ["false", "true"])
def test_an_evaluation_whose_data_is_damaged_for_one_rank_costs_no_training(
    tmp_path, straight, asynchronous
):
    """The second rank reads the second half of the rows, and the first one waits for it."""
    folder = shutil.copytree(straight / "data", tmp_path / "data")
    options = _evaluating(folder, tmp_path)
    options += [f"--checkpoint.asynchronous={asynchronous}"]
    (file,) = (folder / "val").iterdir()
    before = _damage_the_last_rows(file)
    began = time.monotonic()
    done = torchrun("train", *options, restarts=3, launcher=OURS)
    assert time.monotonic() - began < 60
    assert done.returncode == 2, done.stderr
    (line,) = _told(done)
    assert line.startswith(f"dare train: error: {file} row group ")
    assert "Traceback" not in done.stderr
    run = tmp_path / "run"
    saved = Store(str(run / "checkpoints"))
    assert saved.complete() == ["step-00000004"]
    assert saved.manifest("step-00000004").metrics == {}
    file.write_bytes(before)
    resumed = torchrun("train", *options, "--resume", launcher=OURS)
    assert resumed.returncode == 0, resumed.stderr
    for name in ("train/loss", "eval/auc", "eval/logloss"):
        assert rows_of(run, name) == rows_of(straight / "run", name), name
    last = "checkpoints/step-00000008"
    assert_same_tensors(run / last, straight / "run" / last)


@pytest.mark.dist
@pytest.mark.slow
def test_data_that_is_damaged_for_one_rank_ends_all_within_seconds_in_one_message(tmp_path):
    """Its footer is whole, so that only who reads the rows meets it."""
    folder = prepare_files(tmp_path / "data", "user")
    options = [*options_of(folder, "user"), f"--out_dir={tmp_path}", "--checkpoint.every=2"]
    files = sorted((folder / "train").iterdir())
    before = _damage_the_last_rows(files[-1])
    began = time.monotonic()
    done = torchrun("train", *options, "--data.shuffle_requests=0", restarts=3, launcher=OURS)
    assert time.monotonic() - began < 60
    assert done.returncode == 2, done.stderr
    (line,) = _told(done)
    assert line.startswith(f"dare train: error: {files[-1]} row group ")
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "run" / "checkpoints").glob("step-*/manifest.json"))
    files[-1].write_bytes(before)
    done = torchrun("train", *options, "--data.shuffle_requests=0", "--resume", launcher=OURS)
    assert done.returncode == 0, done.stderr
    assert '"samples": 384' in done.stdout
