"""A step's checkpoint and its scores: beside training, and wherever a kill comes between them."""

import errno
import functools
import json
import os
import signal
import threading
from unittest import mock

import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException

from tests.commands import dare_on_ranks, dare_without_report, rows_of
from tests.ranks import run_on_ranks
from tests.saved import tensors_of
from trainer import loop
from trainer.checkpoints.store import Store
from trainer.checkpoints.writer import CheckpointWriter
from trainer.telemetry.telemetry import Telemetry

SCORED = (
    *("--data.batch_size=256", "--telemetry.log_every=1", "--loop.steps=12"),
    *("--loop.evaluate_every=4", "--checkpoint.keep_last=1"),
    *("--optim.sparse.learning_rate=0.5", "--optim.dense.learning_rate=0.1"),
)
PATIENCE_S = 20


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """A run that saves at once; its best step is the first one that is scored."""
    out = tmp_path_factory.mktemp("straight")
    result = dare_without_report("train", *data, *SCORED, f"--out_dir={out}").result
    assert result["best_step"] == 4, "another step is the best, so this shows nothing"
    return out / "run"


def _assert_same_end(run, straight):
    results = [json.loads((folder / "result.json").read_text()) for folder in (run, straight)]
    for name in ("steps", "best_step", "val_auc", "auc", "logloss"):
        assert results[0][name] == results[1][name], name
    for name in ("train/loss", "eval/auc", "eval/logloss"):
        assert rows_of(run, name) == rows_of(straight, name), name
    kept, expected = (Store(str(folder / "checkpoints")) for folder in (run, straight))
    assert kept.complete() == expected.complete() == ["step-00000004", "step-00000012"]
    for name in kept.complete():
        assert kept.manifest(name).metrics == expected.manifest(name).metrics


def test_training_goes_on_while_a_step_that_was_scored_is_written(data, tmp_path, straight):
    """Each write waits for the step after its own; at the end there is none."""
    make_room, logs = CheckpointWriter._make_room, Telemetry.step
    trained = {step: threading.Event() for step in range(1, 13)}
    gone_on = {}

    def make_room_late(writer, name):
        step = int(name.removeprefix("step-"))
        if step < 12:
            gone_on[step] = trained[step + 1].wait(PATIENCE_S)
        make_room(writer, name)

    def step_and_tell(telemetry, step, **told):
        logs(telemetry, step, **told)
        trained[step].set()

    options = [*data, *SCORED, f"--out_dir={tmp_path}", "--checkpoint.asynchronous=true"]
    with (
        mock.patch.object(CheckpointWriter, "_make_room", make_room_late),
        mock.patch.object(Telemetry, "step", step_and_tell),
    ):
        assert dare_without_report("train", *options).code == 0
    assert gone_on == {4: True, 8: True}
    _assert_same_end(tmp_path / "run", straight)


@pytest.mark.parametrize("asynchronous", ["false", "true"])
@pytest.mark.parametrize(
    ("owner", "method", "told"),
    [
        (CheckpointWriter, "_make_room", "checkpoint {} could not be written: [Errno 28] No space"),
        (Store, "write_scores", "the evaluation of {} could not be written: [Errno 28] No space"),
    ],
)
def test_a_step_or_scores_that_could_not_be_written_end_the_run_in_a_line(
    data, tmp_path, straight, asynchronous, owner, method, told
):
    whole, calls = getattr(owner, method), []

    def full_at_the_second(self, name, *arguments):
        calls.append(name)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(self, name, *arguments)

    options = [*data, *SCORED, f"--out_dir={tmp_path}", f"--checkpoint.asynchronous={asynchronous}"]
    with mock.patch.object(owner, method, full_at_the_second):
        outcome = dare_without_report("train", *options)
    assert (outcome.code, outcome.out) == (1, "")
    (line,) = [line for line in outcome.err.splitlines() if "error" in line]
    assert told.format(tmp_path / "run" / "checkpoints" / "step-00000008") in line
    assert dare_without_report("train", *options, "--resume").code == 0
    _assert_same_end(tmp_path / "run", straight)


def _train_and_be_killed(options, place, _rank):
    """At step 4: before its scores are written, in turn once they are told, or before they are."""
    logs, write_scores, told = Telemetry.log, CheckpointWriter._write_scores, threading.Event()

    def kill(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def kill_once_told(*_):
        assert told.wait(PATIENCE_S)
        kill()

    def log_and_tell(telemetry, step, scalars):
        logs(telemetry, step, scalars)
        told.set()

    def write_scores_and_be_killed(*arguments):
        write_scores(*arguments)
        kill()

    patches = {
        "unscored": {CheckpointWriter: ("_write_scores", kill)},
        "unscored, told": {
            CheckpointWriter: ("_write_scores", kill_once_told),
            Telemetry: ("log", log_and_tell),
        },
        "scored, untold": {Telemetry: ("log", kill)},
        "scored": {CheckpointWriter: ("_write_scores", write_scores_and_be_killed)},
    }
    for owner, (method, replacement) in patches[place].items():
        setattr(owner, method, replacement)
    dare_without_report("train", *options)


@pytest.fixture(scope="module")
def straight_elsewhere(data, tmp_path_factory):
    """The same in a process of its own, where sums of floats may be rounded otherwise."""
    out = tmp_path_factory.mktemp("elsewhere")
    assert dare_on_ranks(1, "train", *data, *SCORED, f"--out_dir={out}").result["best_step"] == 4
    return out / "run"


@pytest.mark.dist
@pytest.mark.parametrize(
    ("place", "asynchronous"),
    [
        pytest.param("unscored", "false", marks=pytest.mark.slow),
        ("scored, untold", "false"),
        pytest.param("unscored", "true", marks=pytest.mark.slow),
        ("unscored, told", "true"),
        ("scored", "true"),
    ],
)
def test_a_kill_between_a_step_and_its_scores_loses_and_repeats_none(
    data, tmp_path, straight_elsewhere, place, asynchronous
):
    options = [*data, *SCORED, f"--out_dir={tmp_path}", f"--checkpoint.asynchronous={asynchronous}"]
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        run_on_ranks(1, functools.partial(_train_and_be_killed, options, place))
    saved = Store(str(tmp_path / "run" / "checkpoints"))
    assert saved.complete() == ["step-00000004"]
    assert bool(saved.manifest("step-00000004").metrics) == place.startswith("scored")
    assert dare_on_ranks(1, "train", *options, "--resume").code == 0
    _assert_same_end(tmp_path / "run", straight_elsewhere)


def _train_and_keep_what_is_scored(options, folder, rank):
    """The running statistics of batch norms, as each evaluation finds them."""
    evaluate, found = loop.evaluate, []

    def evaluate_and_keep(run, *arguments, **how):
        state = {f"model.{name}": value for name, value in run.model.state_dict().items()}
        found.append({name: state[name].clone() for name in state if ".running_" in name})
        return evaluate(run, *arguments, **how)

    with mock.patch.object(loop, "evaluate", evaluate_and_keep):
        assert dare_without_report("train", *options).code == 0
    torch.save(found, folder / f"scored-{rank}.pt")


@pytest.mark.dist
def test_what_three_ranks_score_is_what_they_have_saved(data, tmp_path):
    """To the bit: a mean of three equal numbers may be another one."""
    options = [*data, f"--out_dir={tmp_path}", "--data.batch_size=100", "--loop.steps=6"]
    options += ["--loop.evaluate_every=2", "--checkpoint.keep_last=9"]
    run_on_ranks(3, functools.partial(_train_and_keep_what_is_scored, options, tmp_path))
    for rank in range(3):
        *scored, _ = torch.load(tmp_path / f"scored-{rank}.pt")  # The last is of the test split.
        assert len(scored) == 3
        for step, statistics in zip((2, 4, 6), scored, strict=True):
            saved = tensors_of(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")
            assert len(statistics) == 4
            for name, value in statistics.items():
                assert torch.equal(value, saved[name]), (rank, step, name)
