"""Two processes under torchrun, as the README starts them."""

import json
import math
import os
import subprocess
import sys

import pytest

from tests.commands import TARGETS, dare_without_report


@pytest.mark.dist
def test_two_ranks_train_every_target_once(data, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29517"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "trainer", "train", *data, f"--out_dir={tmp_path}"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["ranks"], result["samples"]) == (2, TARGETS["train"])
    alone = dare_without_report("train", *data, f"--out_dir={tmp_path / 'alone'}").result
    assert set(result) == set(alone)
    assert all(math.isfinite(result[name]) for name in ("auc", "gauc", "ne", "logloss"))
    assert result["gauc_users"] == alone["gauc_users"]
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
