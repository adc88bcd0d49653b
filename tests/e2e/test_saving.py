"""Saving that is cut short, on a full disk, far away, or beside training."""

import errno
import json
import os
import pickle
import resource
import shutil
import time
from hashlib import sha256
from unittest import mock

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.commands import TARGETS, dare, dare_without_report, rows_of
from trainer.checkpoints.tensor_files import _DigestingStream
from trainer.checkpoints.writer import CheckpointWriter

STEPS = ("--loop.steps=6", "--checkpoint.every=2", "--telemetry.log_every=1")


def _full_after(saves):
    """A disk that is full when so many checkpoints' tensors are on it."""
    whole, written = _DigestingStream.write, []

    def write(stream, data):
        if stream.name.endswith(".distcp") and stream.name not in written:
            written.append(stream.name)
        if len(written) > saves:
            whole(stream, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(stream, data)

    return mock.patch.object(_DigestingStream, "write", write)


@pytest.mark.parametrize("asynchronous", ["false", "true"])
def test_a_full_disk_leaves_the_last_good_checkpoint_and_a_line(data, tmp_path, asynchronous):
    options = [*data, f"--out_dir={tmp_path}", *STEPS, f"--checkpoint.asynchronous={asynchronous}"]
    with _full_after(1):
        outcome = dare_without_report("train", *options)
    assert (outcome.code, outcome.out) == (1, "")
    (line,) = [line for line in outcome.err.splitlines() if "error" in line]
    assert "step-00000004 could not be written: [Errno 28] No space left" in line
    assert "step-00000002 is the newest complete one" in line
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in folder.glob("*step-*")] == ["step-00000002"]
    resumed = dare_without_report("train", *options, "--resume").result
    assert resumed["steps"] == 6
    straight = dare_without_report("train", *options, "--name=straight").result
    assert resumed["auc"] == straight["auc"]
    assert rows_of(tmp_path / "run", "train/loss") == rows_of(tmp_path / "straight", "train/loss")


def test_what_the_system_says_of_a_failed_write_is_told(data, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        outcome = dare_without_report("train", *data, f"--out_dir={tmp_path}", "--loop.steps=1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome.code == 1
    assert "could not be written: [Errno 27] File too large; there is no other yet" in outcome.err
    assert list((tmp_path / "run" / "checkpoints").glob("*step-*")) == []


def test_a_disk_that_is_full_at_the_last_save_is_told(data, tmp_path):
    options = [*data, f"--out_dir={tmp_path}", "--loop.steps=2", "--checkpoint.asynchronous=true"]
    with _full_after(0):
        outcome = dare_without_report("train", *options)
    assert outcome.code == 1
    assert "could not be written" in outcome.err
    assert "there is no other yet" in outcome.err


def _after_a_while(writer, name, make_room=CheckpointWriter._make_room):
    time.sleep(0.1)  # Some steps.
    make_room(writer, name)


def test_saving_beside_training_keeps_the_values_of_its_step(data, tmp_path):
    """Training goes on before a byte is written: a checkpoint of later values would differ."""
    losses = {}
    for name, asynchronous in (("at_once", "false"), ("beside", "true")):
        options = [*data, f"--out_dir={tmp_path}", f"--name={name}", *STEPS]
        options += [f"--checkpoint.asynchronous={asynchronous}", "--checkpoint.keep_last=9"]
        with mock.patch.object(CheckpointWriter, "_make_room", _after_a_while):
            assert dare_without_report("train", *options).code == 0
        losses[name] = rows_of(tmp_path / name, "train/loss")
    assert losses["at_once"] == losses["beside"]
    for step in (2, 4, 6):
        digests = [
            json.loads((folder / "manifest.json").read_text())["files"]["__0_0.distcp"]["sha256"]
            for folder in (tmp_path / name / "checkpoints" / f"step-{step:08d}" for name in losses)
        ]
        assert digests[0] == digests[1], step


@pytest.fixture
def far_away():
    """A folder in this process's memory, which has no folders to rename."""
    yield "memory://bucket/run"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def _names(folder):
    paths = fsspec.filesystem("memory").ls(folder.removeprefix("memory:/"), detail=False)
    return sorted(path.rpartition("/")[2] for path in paths)


def test_a_run_saves_resumes_and_is_scored_far_away(data, tmp_path, far_away):
    options = [*data, f"--out_dir={tmp_path}", f"--checkpoint.folder={far_away}", *STEPS]
    stopped = [*options, "--loop.steps=4"]
    assert dare_without_report("train", *stopped).code == 0
    assert not (tmp_path / "run" / "checkpoints").exists()
    memory = fsspec.filesystem("memory")
    # A save that was interrupted: all its tensors, no manifest.
    memory.copy("/bucket/run/step-00000004", "/bucket/run/step-00000005", recursive=True)
    memory.rm_file("/bucket/run/step-00000005/manifest.json")
    resumed = dare_without_report("train", *options, "--resume").result
    assert resumed["steps"] == 6
    assert _names(far_away) == ["step-00000004", "step-00000006"]
    here = [*data, f"--out_dir={tmp_path}", "--name=here", *STEPS]
    straight = dare_without_report("train", *here).result
    scored = dare("evaluate", *options, "--at=last").result
    assert (scored["checkpoint"], scored["auc"]) == ("step-00000006", straight["auc"])
    assert rows_of(tmp_path / "run", "train/loss") == rows_of(tmp_path / "here", "train/loss")
    assert sorted(_names(far_away + "/step-00000006")) == [
        ".metadata",
        "__0_0.distcp",
        "config.yaml",
        "loader.json",
        "manifest.json",
        "metrics.json",
        "plan.json",
        "telemetry.json",
    ]


def test_scores_whose_write_is_cut_short_cost_no_checkpoint(data, tmp_path, far_away):
    """As where storage empties a file before it fills it: the resume makes the scores up."""
    whole = MemoryFileSystem.pipe_file

    def cut_short(files, path, value, **how):
        if not files.exists(path.rpartition("/")[0] + "/manifest.json"):
            return whole(files, path, value, **how)
        whole(files, path, value[: len(value) // 2], **how)
        raise OSError(errno.EIO, "Input/output error")

    options = [*data, f"--out_dir={tmp_path}", *STEPS]
    broken = [*options, f"--checkpoint.folder={far_away}"]
    with mock.patch.object(MemoryFileSystem, "pipe_file", cut_short):
        outcome = dare_without_report("train", *broken)
    assert (outcome.code, outcome.out) == (1, "")
    (line,) = [line for line in outcome.err.splitlines() if "error" in line]
    assert f"the evaluation of {far_away}/step-00000006 could not be written: [Errno 5]" in line
    resumed = dare_without_report("train", *broken, "--resume")
    assert "step-00000006 at step 6" in resumed.err
    straight = dare_without_report("train", *options, "--name=straight").result
    same = ("steps", "best_step", "val_auc", "auc", "logloss")
    assert [resumed.result[name] for name in same] == [straight[name] for name in same]


class _Command:
    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        return os.system, (self.text,)


def test_metadata_from_far_away_runs_no_code(data, tmp_path, far_away):
    options = [*data, f"--out_dir={tmp_path}", f"--checkpoint.folder={far_away}", "--loop.steps=1"]
    assert dare_without_report("train", *options).code == 0
    memory, folder = fsspec.filesystem("memory"), "/bucket/run/step-00000001"
    content = pickle.dumps(_Command(f"touch {tmp_path / 'ran'}"))
    memory.pipe_file(f"{folder}/.metadata", content)
    manifest = json.loads(memory.cat_file(f"{folder}/manifest.json"))
    manifest["files"][".metadata"] = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    del manifest["digest"]
    memory.pipe_file(f"{folder}/manifest.json", json.dumps(manifest).encode())
    outcome = dare("evaluate", *options)
    assert outcome.code == 2
    assert "checkpoint metadata names posix.system, which is no part of it" in outcome.err
    assert not (tmp_path / "ran").exists()


def test_a_new_run_does_not_take_over_checkpoints_far_away(data, tmp_path, far_away):
    options = [*data, f"--out_dir={tmp_path}", f"--checkpoint.folder={far_away}", "--loop.steps=2"]
    assert dare_without_report("train", *options).code == 0
    outcome = dare_without_report("train", *options, "--name=other")
    assert outcome.code == 2
    assert f"{far_away} holds checkpoints; --resume goes on" in outcome.err
    for command in (["train", *options, "--resume"], ["evaluate", *options]):
        outcome = dare_without_report(*command, "--name=other")
        assert (outcome.code, outcome.out) == (2, "")
        assert f"{far_away}/step-00000002 is of run 'run', this one is 'other'" in outcome.err
        assert "or give --name run to go on with that run" in outcome.err
    elsewhere = [*options, f"--out_dir={tmp_path / 'elsewhere'}"]
    assert dare_without_report("train", *elsewhere, "--resume").result["steps"] == 2
    assert dare_without_report("train", *options, "--loop.steps=1", "--overwrite").code == 0
    assert _names(far_away) == ["step-00000001"]


@pytest.mark.parametrize("whole", [0, 1])
@pytest.mark.parametrize("how", ["--overwrite", "--resume"])
def test_another_run_neither_deletes_checkpoints_nor_sets_them_aside(data, tmp_path, how, whole):
    """Also where only one of them can say whose they are."""
    folder = tmp_path / "all"
    options = [*data, f"--out_dir={tmp_path}", f"--checkpoint.folder={folder}", *STEPS]
    assert dare_without_report("train", *options).code == 0
    saved = ("step-00000004", "step-00000006")
    for name in set(saved) - {saved[whole]}:
        (folder / name / "manifest.json").write_text('{"step": ')
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    outcome = dare_without_report("train", *options, "--name=other", how)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{folder / saved[whole]} is of run 'run', this one is 'other'" in outcome.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_of_an_unknown_scheme_is_refused(data, tmp_path):
    outcome = dare("train", *data, f"--out_dir={tmp_path}", "--checkpoint.folder=nowhere://x")
    assert outcome.code == 2
    assert "checkpoint.folder is nowhere://x: Protocol not known: nowhere" in outcome.err


def test_a_log_point_counts_the_steps_before_the_checkpoint_too(data, tmp_path):
    """Log points at 4 and 8 steps, a checkpoint at 6: the mean at 8 is of four steps."""
    options = [*data, f"--out_dir={tmp_path}", "--telemetry.log_every=4", "--checkpoint.every=6"]
    assert dare_without_report("train", *options, "--loop.steps=8").code == 0
    straight = rows_of(tmp_path / "run", "train/loss")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000008")
    assert dare_without_report("train", *options, "--loop.steps=8", "--resume").code == 0
    assert rows_of(tmp_path / "run", "train/loss") == straight
    assert list(straight) == [4, 8]


def test_small_batches_of_a_behaviour_budget_train_every_target(data, tmp_path):
    options = [*data, f"--out_dir={tmp_path}", "--data.behaviours_per_batch=600"]
    result = dare_without_report("train", *options, "--telemetry.log_every=10").result
    assert result["samples"] == TARGETS["train"]
    assert result["steps"] > 20
    imbalance = rows_of(tmp_path / "run", "train/behaviour_imbalance")
    assert set(imbalance.values()) == {1.0}
