"""Ranks that are killed: torchrun starts the job again, which ends as if nothing had happened."""

import json

import pytest
import torch
from torch.distributed.checkpoint.state_dict_loader import load

from tests.commands import TARGETS, rows_of
from tests.torchrun import on_two_ranks, torchrun
from trainer.checkpoints.tensor_files import TensorReader

STEPS = ("--data.batch_size=128", "--telemetry.log_every=1", "--checkpoint.every=3")


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """A run on two ranks that nothing happens to."""
    out = tmp_path_factory.mktemp("straight")
    return on_two_ranks("train", *data, *STEPS, f"--out_dir={out}")[0], out / "run"


def _tensors(run):
    """All of the last checkpoint: tables, optimizer state, dense weights, random generators."""
    folder = str(max((run / "checkpoints").glob("step-*")))
    entries = TensorReader(folder).read_metadata().state_dict_metadata
    found = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
    }
    load(found, storage_reader=TensorReader(folder), no_dist=True)
    return found


def _check(done, run, straight, rounded=""):
    """The same to the bit; entries with this in their names but for rounding."""
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["samples"] == TARGETS["train"]
    assert result["auc"] == straight[0]["auc"]
    assert rows_of(run, "train/loss") == rows_of(straight[1], "train/loss")
    tensors, expected = _tensors(run), _tensors(straight[1])
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        if rounded and rounded in name:
            torch.testing.assert_close(tensor, expected[name], msg=name)
        else:
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.dist
@pytest.mark.parametrize(
    ("rank", "where", "after"),
    [
        pytest.param(0, "forward", 11, marks=pytest.mark.slow),
        pytest.param(1, "read", 7, marks=pytest.mark.slow),
        (1, "save", 25),
    ],
)
def test_a_rank_that_is_killed_anywhere_leaves_the_same_tables(
    data, tmp_path, straight, rank, where, after
):
    """`save` is in the middle of the tensors of a checkpoint; `make soak` draws places anew."""
    fault = {"rank": rank, "where": where, "after": after, "what": "kill"}
    fault["once"] = f"{tmp_path}/once"
    options = [*data, *STEPS, f"--out_dir={tmp_path}", "--resume"]
    done = torchrun("train", *options, fault=fault, restarts=1)
    assert (tmp_path / "once").exists()
    _check(done, tmp_path / "run", straight)


@pytest.mark.dist
@pytest.mark.slow
def test_a_rank_that_is_asked_to_stop_takes_all_with_it_and_all_go_on(data, tmp_path, straight):
    """As where a scheduler drains one host: 143 fails the job, and torchrun starts it again."""
    fault = {"rank": 1, "where": "forward", "after": 6, "what": "terminate"}
    fault["once"] = f"{tmp_path}/once"
    options = [*data, *STEPS[:2], f"--out_dir={tmp_path}", "--resume"]
    done = torchrun("train", *options, fault=fault, restarts=1)
    assert "which is saved; --resume goes on" in done.stderr
    assert "resumed " in done.stderr
    # Each save averages the running statistics of the ranks, and it saved at another step.
    _check(done, tmp_path / "run", straight, rounded=".running_")


@pytest.mark.dist
def test_without_restarts_the_others_say_that_a_rank_is_gone(data, tmp_path):
    fault = {"rank": 1, "where": "forward", "after": 6, "what": "kill", "once": f"{tmp_path}/once"}
    done = torchrun("train", *data, *STEPS, f"--out_dir={tmp_path}", fault=fault)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "dare train: error" in line]
    assert lines
    assert all("the connection to another rank broke" in line for line in lines)
    assert "third_party/gloo" not in done.stderr
