"""A run's folder belongs to one job at a time, and must be writable before training starts."""

import errno
import os
from pathlib import Path
from unittest import mock

import pytest

from tests.commands import dare_without_report
from trainer.checkpoints.checkpoint import CheckpointConfig, Checkpoints
from trainer.checkpoints.store import Store
from trainer.distributed import RunContext, run_context
from trainer.reliability import lock
from trainer.reliability.lock import locked


def test_a_second_job_on_a_run_is_refused_with_the_first_ones_process(data, tmp_path):
    options = [*data, f"--out_dir={tmp_path}", "--loop.steps=2"]
    assert dare_without_report("train", *options).code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.json")}
    for how in ("--resume", "--overwrite"):
        with locked(tmp_path / "run", "go"):
            outcome = dare_without_report("train", *options, how)
        assert (outcome.code, outcome.out) == (2, "")
        assert f"{tmp_path / 'run'} is held by process {os.getpid()} on " in outcome.err
        assert "wait for its end, or choose another --name" in outcome.err
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_overwriting_keeps_the_lock_that_it_holds(data, tmp_path):
    options = [*data, f"--out_dir={tmp_path}", "--loop.steps=2"]
    assert dare_without_report("train", *options).code == 0
    (tmp_path / "run" / "mine").symlink_to(tmp_path)
    before = (tmp_path / "run" / ".lock").stat().st_ino
    assert dare_without_report("train", *options, "--overwrite").code == 0
    assert (tmp_path / "run" / ".lock").stat().st_ino == before
    assert not (tmp_path / "run" / "mine").is_symlink()


def test_where_there_are_no_locks_a_warning_says_so(data, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    outcome = dare_without_report("train", *data, f"--out_dir={tmp_path}", "--loop.steps=1")
    assert outcome.code == 0
    assert "two jobs could write to it at once: [Errno" in outcome.err


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_takes_no_checkpoints_is_told_before_the_first_step(data, tmp_path, number):
    refused = OSError(number, os.strerror(number))
    with mock.patch.object(Store, "write", side_effect=refused):
        outcome = dare_without_report("train", *data, f"--out_dir={tmp_path}")
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert f"{tmp_path}/run/checkpoints cannot be written to" in line
    assert os.strerror(number) in line
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_checkpoint_folder_below_a_file_is_told_before_the_first_step(data, tmp_path):
    file = Path(tmp_path) / "file"
    file.touch()
    outcome = dare_without_report("train", *data, f"--checkpoint.folder={file}/x")
    assert outcome.code == 2
    assert f"{file}/x cannot be written to" in outcome.err


class _Elsewhere:
    """A second rank that does not see what the first one writes."""

    def __init__(self, context: RunContext) -> None:
        self.context = context

    def __getattr__(self, name: str) -> object:
        return getattr(self.context, name)

    def gather(self, mine: dict[str, bool]) -> dict[str, bool]:
        return {**mine, "1": False}


def test_a_folder_that_another_rank_does_not_see_is_told_before_the_first_step(tmp_path):
    with run_context() as context:
        there = Checkpoints(str(tmp_path), CheckpointConfig(), context)
        there.context = _Elsewhere(context)  # type: ignore[assignment]
        told = f"{tmp_path} is not the same folder on all ranks: .* ranks 1 do not see"
        with pytest.raises(ValueError, match=told):
            there.check_writable()
    assert list(tmp_path.iterdir()) == []
