"""A run's folder belongs to one job at a time, and must be writable before training starts."""

import errno
import os
from pathlib import Path
from unittest import mock

import pytest

from tests.commands import dare_without_report
from trainer.checkpoints.checkpoint import Checkpoints
from trainer.checkpoints.store import Store
from trainer.checkpoints.writable import check_writable
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


@pytest.mark.parametrize("of_a_run", [False, True])
def test_a_second_job_on_a_folder_of_checkpoints_is_refused(data, tmp_path, of_a_run):
    """Also on one that a run keeps in its own folder."""
    first = ["--name=first", f"--out_dir={tmp_path}", "--loop.steps=2"]
    folder = tmp_path / "first" / "checkpoints" if of_a_run else tmp_path / "all"
    first += [] if of_a_run else [f"--checkpoint.folder={folder}"]
    others = []

    def train_another(*_: object, **__: object) -> None:
        second = ["--name=second", f"--out_dir={tmp_path}", f"--checkpoint.folder={folder}"]
        others.append(dare_without_report("train", *data, *second, "--overwrite"))

    with mock.patch.object(Checkpoints, "latest", train_another):
        assert dare_without_report("train", *data, *first, "--overwrite").code == 0
    assert others[0].code == 2
    assert f"{folder} is held by process {os.getpid()} on " in others[0].err
    assert "wait for its end, or choose another checkpoint.folder" in others[0].err


def test_a_renamed_run_goes_on_with_what_its_folder_holds(data, tmp_path):
    options = [*data, f"--out_dir={tmp_path}"]
    assert dare_without_report("train", *options, "--loop.steps=2").code == 0
    (tmp_path / "run").rename(tmp_path / "renamed")
    resumed = dare_without_report(
        "train", *options, "--name=renamed", "--resume", "--loop.steps=3"
    ).result
    assert (resumed["name"], resumed["steps"]) == ("renamed", 3)


@pytest.mark.parametrize("place", ["checkpoints", "keep/here/checkpoints"])
def test_overwriting_keeps_the_locks_that_it_holds_and_nothing_else(data, tmp_path, place):
    run = tmp_path / "run"
    options = [*data, f"--out_dir={tmp_path}", "--loop.steps=2"]
    options += [f"--checkpoint.folder={run / place}"] if place != "checkpoints" else []
    assert dare_without_report("train", *options).code == 0
    (run / "mine").symlink_to(tmp_path)
    (run / "keep" / "notes").mkdir(parents=True)
    (run / "keep" / "notes" / "mine").symlink_to(tmp_path)
    locks = [run / ".lock", run / place / ".lock"]
    before = [lock.stat().st_ino for lock in locks]
    assert dare_without_report("train", *options, "--overwrite").code == 0
    assert [lock.stat().st_ino for lock in locks] == before
    assert not (run / "mine").is_symlink()
    assert not (run / "keep" / "notes").exists()
    assert tmp_path.is_dir()


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
        told = f"{tmp_path} is not the same folder on all ranks: .* ranks 1 do not see"
        with pytest.raises(ValueError, match=told):
            check_writable(Store(str(tmp_path)), _Elsewhere(context))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
