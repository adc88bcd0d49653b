"""Two processes under torchrun, as the README starts them."""

import json
import math
import os
import subprocess
import sys

import pytest

from tests.commands import TARGETS, dare_without_report, rows_of


def _on_two_ranks(*arguments):
    """The result of a run under torchrun, and what it logged."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29517"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "trainer", "train", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.dist
def test_two_ranks_train_every_target_once(data, tmp_path):
    result, _ = _on_two_ranks(*data, f"--out_dir={tmp_path}")
    assert (result["ranks"], result["samples"]) == (2, TARGETS["train"])
    alone = dare_without_report("train", *data, f"--out_dir={tmp_path / 'alone'}").result
    assert set(result) == set(alone)
    assert all(math.isfinite(result[name]) for name in ("auc", "gauc", "ne", "logloss"))
    assert result["gauc_users"] == alone["gauc_users"]


@pytest.mark.dist
def test_an_epoch_begun_by_two_ranks_is_gone_on_with_by_one_and_ended_by_two(data, tmp_path):
    options = [*data, f"--out_dir={tmp_path}", "--data.batch_size=256", "--telemetry.log_every=1"]
    first, _ = _on_two_ranks(*options, "--loop.steps=3", "--checkpoint.asynchronous=true")
    assert (first["steps"], first["ranks"]) == (3, 2)
    second = dare_without_report("train", *options, "--loop.steps=7", "--resume").result
    assert (second["steps"], second["ranks"]) == (7, 1)
    assert second["samples"] == 3 * 2 * 256 + 4 * 256
    third, log = _on_two_ranks(*options, "--resume")
    assert "1 readers have begun the epoch, 2 go on" in log
    assert (third["samples"], third["ranks"]) == (TARGETS["train"], 2)
    losses = list(rows_of(tmp_path / "run", "train/loss").values())
    assert len(losses) == third["steps"]
    assert losses[-1] < losses[0]
    assert 0.5 < third["auc"] < 1
    assert third["logloss"] < math.log(2)
    imbalance = rows_of(tmp_path / "run", "train/behaviour_imbalance")
    assert all(1 <= value <= 2 for value in imbalance.values())
