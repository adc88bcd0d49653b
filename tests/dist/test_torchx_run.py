"""Training jobs through `torchx run -s local_cwd`, from their start to their end."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import TARGETS, data_options, prepare_small, rows_of
from tests.torchx_requests import ROOT, check_installed

RECIPE = ROOT / "launch" / "recipes" / "synthetic_dare.yaml"
ODD = "; touch owned; $(touch owned) `touch owned` \"'\n$HOME %41 ${app_id} && x"
"""A folder's name, of which a shell would make commands."""


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = prepare_small(tmp_path_factory.mktemp("data"))
    # Without a search that cuts, so that no rounding decides about whole behaviours.
    return [*data_options(folder), "--model.search.top_k=20", "--telemetry.log_every=1"]


def run(*command, folder):
    """The result that a command's training prints, whatever stands before it in its line."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (result,) = re.findall(r"(?m)^(?:train/\d )?(\{.*\})$", done.stdout + done.stderr)
    return json.loads(result)


def torchx(component, *arguments, folder):
    """What a training job of the local scheduler prints."""
    program = Path(sys.executable).parent / "torchx"
    return run(program, "run", "-s", "local_cwd", component, *arguments, folder=folder)


@pytest.fixture(scope="module")
def by_torchrun(options, tmp_path_factory):
    """Result and losses of two processes under torchrun."""
    folder = tmp_path_factory.mktemp("torchrun")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    train = ["-m", "trainer", "train", f"--config={RECIPE}", *options, f"--out_dir={folder}"]
    result = run("env", "OMP_NUM_THREADS=1", *launcher, *train, folder=folder)
    return result, rows_of(folder / "synthetic_dare", "train/loss")


@pytest.mark.dist
def test_a_job_of_one_host_ends_as_under_torchrun_and_in_a_folder_of_any_name(
    by_torchrun, options, tmp_path
):
    here = tmp_path / "here"
    here.mkdir()
    where = [f"--config={RECIPE}", "-j=1x2", "--", *options, "--out_dir", str(tmp_path / ODD)]
    result = torchx(f"{ROOT}/launch/components.py:train", *where, folder=here)
    theirs, losses = by_torchrun
    assert (result["ranks"], result["samples"]) == (2, 2 * TARGETS["train"])
    for name in ("auc", "gauc", "ne", "logloss", "steps"):
        assert result[name] == theirs[name]
    assert rows_of(tmp_path / ODD / "synthetic_dare", "train/loss") == losses
    assert not list(here.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"here", ODD}


@pytest.mark.dist
def test_two_hosts_of_an_installed_package_meet_and_train_as_one(by_torchrun, options, tmp_path):
    """Other shards than in one host, so sums round differently."""
    check_installed()
    where = [f"--config={RECIPE}", "-j=2x1", "--rdzv_port=29541", "--", *options]
    result = torchx("dare.train", *where, folder=tmp_path)
    assert (result["ranks"], result["samples"]) == (2, 2 * TARGETS["train"])
    theirs, losses = by_torchrun
    assert rows_of(tmp_path / "runs" / "synthetic_dare", "train/loss") == pytest.approx(
        losses, rel=1e-4
    )
    assert result["auc"] == pytest.approx(theirs["auc"], abs=1e-3)
