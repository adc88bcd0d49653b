"""Two processes under torchrun, as the README starts them."""

import json
import math
import os
import subprocess
import sys

import pytest

from tests.commands import TARGETS, dare_without_report


def on_two_ranks(*arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29517"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "trainer", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.dist
def test_bench_trains_on_two_ranks_and_prints_once(tmp_path):
    sizes = ["--items=500", "--history_length=8", "--top_k=4", "--batch_size=64", "--steps=2"]
    done = on_two_ranks("bench", "train", *sizes, "--repeats=2", f"--folder={tmp_path}")
    result = json.loads(done.stdout)
    assert result["ranks"] == 2
    assert result["samples_per_s"] > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.dist
def test_two_ranks_train_every_target_once(data, tmp_path):
    done = on_two_ranks("train", *data, f"--out_dir={tmp_path}")
    result = json.loads(done.stdout)
    assert (result["ranks"], result["samples"]) == (2, TARGETS["train"])
    alone = dare_without_report("train", *data, f"--out_dir={tmp_path / 'alone'}").result
    assert set(result) == set(alone)
    assert all(math.isfinite(result[name]) for name in ("auc", "gauc", "ne", "logloss"))
    assert result["gauc_users"] == alone["gauc_users"]
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
