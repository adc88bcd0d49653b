"""`dare runs` and `dare runs compare` on runs that were really trained."""

import contextlib
import json
import socket
import subprocess
import sys
import time

import pytest

from tests.commands import dare, dare_without_report
from trainer.reliability.lock import locked


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """A folder in which `runs/` holds a finished DARE, a finished TWIN, and one that broke."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for name, *options in (
            ("dare_a", "--loop.evaluate_every=4"),
            ("twin_b", "--model.preset=twin", "--loop.epochs=2"),
        ):
            done = dare_without_report("train", *data, f"--name={name}", *options)
            assert done.code == 0, done.err
        broken = ["--name=broken", "--checkpoint.every=2", "--optim.sparse.learning_rate=1e30"]
        assert dare("train", *data, *broken, "--loop.check_loss_every=1").code == 2
    return home


@pytest.fixture(autouse=True)
def at_home(runs, monkeypatch):
    monkeypatch.chdir(runs)


def _listed(*arguments):
    outcome = dare("runs", "--json", *arguments)
    assert (outcome.code, outcome.err) == (0, "")
    return {row["name"]: row for row in json.loads(outcome.out)}


def test_trained_runs_are_listed_with_what_their_results_say(runs):
    listed = _listed()
    assert list(listed) == ["broken", "dare_a", "twin_b"]
    for name, steps in (("dare_a", 10), ("twin_b", 20)):
        row, result = listed[name], json.loads((runs / "runs" / name / "result.json").read_text())
        assert (row["state"], row["step"], row["total_steps"]) == ("finished", steps, steps)
        assert (row["val_auc"], row["test_auc"]) == (result["val_auc"], result["auc"])
        assert (row["preset"], row["ranks"], row["path"]) == (name[:4], 1, f"runs/{name}")
        assert row["note"] == ""
    assert listed["broken"]["state"] == "failed"
    assert listed["broken"]["note"].startswith("the loss of rank 0 is ")
    assert listed["broken"]["test_auc"] is None


def test_the_table_has_a_line_a_run_in_the_order_that_is_asked_for():
    outcome = dare("runs", "--state", "finished,running", "--sort", "step")
    heads, first, second = outcome.out.splitlines()
    named = "name state step AUC val AUC test preset ranks written path"
    assert heads.split() == named.split()
    assert first.split()[:5] == ["twin_b", "finished", "20", "of", "20"]
    assert second.split()[:5] == ["dare_a", "finished", "10", "of", "10"]
    assert first.index("runs/") == second.index("runs/") == heads.index("path")
    best = max(_listed("--state=finished").values(), key=lambda row: row["val_auc"])
    assert dare("runs", "--sort=auc").out.splitlines()[1].split()[0] == best["name"]


def test_a_run_is_running_while_its_folder_is_held_and_is_not_disturbed(runs):
    with locked(runs / "runs" / "dare_a", "go"):
        assert _listed()["dare_a"]["state"] == "running"
        assert _listed("runs/dare_a", "--state=running")["dare_a"]["note"].startswith("process ")
    assert _listed()["dare_a"]["state"] == "finished"


@contextlib.contextmanager
def _training(data, checkpoints):
    """A run in a process of its own, once it has saved a checkpoint; killed when it is left."""
    options = ["--name=ended", "--checkpoint.every=2", "--loop.epochs=1000"]
    run = subprocess.Popen(
        [sys.executable, "-m", "trainer", "train", *data, *options, "--telemetry.log_every=1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while not list(checkpoints.glob("step-*[0-9]/manifest.json")):
            assert run.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        yield run
    finally:
        run.kill()
        run.wait()


def test_a_run_is_running_then_stopped_where_it_was_killed(runs, data):
    checkpoints = runs / "runs" / "ended" / "checkpoints"
    with _training(data, checkpoints) as run:
        row = _listed("runs/ended")["ended"]
        assert (row["state"], row["total_steps"]) == ("running", 10_000)
        assert row["note"].startswith(f"process {run.pid} on ")
    row = _listed("runs/ended")["ended"]
    assert (row["state"], row["test_auc"], row["ranks"]) == ("stopped", None, 1)
    assert (
        row["note"] == f"process {run.pid} on {socket.gethostname()} ended without a word: killed?"
    )
    assert row["step"] >= 2


def test_runs_are_compared_by_name_on_one_page(runs):
    outcome = dare("runs", "compare", "dare_a", "runs/twin_b", "--out", "pages/both.html")
    assert (outcome.code, outcome.out, outcome.err) == (0, "pages/both.html\n", "")
    page = (runs / "pages" / "both.html").read_text()
    for told in ("model.preset", "loop.epochs", "loop.evaluate_every", "Training loss",
                 "Validation AUC", "seconds of training", "targets trained"):  # fmt: skip
        assert told in page
    assert "data.history_length" not in page  # Alike in both.
    for name in ("dare_a", "twin_b"):
        auc = json.loads((runs / "runs" / name / "result.json").read_text())["auc"]
        assert f"{auc:.5f}" in page
        assert f'href="../runs/{name}/config.yaml"' in page


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "nowhere is no folder"),
        (["--state", "done"], "--state is done; states are running, finished, stopped"),
        (["--sort", "size"], "invalid choice: 'size'"),
        (["compare"], "runs given: 0; a page compares 2 to 12"),
        (["compare", "dare_a"], "runs given: 1"),
        (["compare", "dare_a", "dare_z"], "dare_z is no run"),
        (["compare", "dare_a", "runs/dare_a"], "a run is given twice"),
        (["compare", "dare_a", "twin_b", "--out", "runs"], "runs"),
    ],
)
def test_a_mistake_is_one_line(arguments, told):
    outcome = dare("runs", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith("dare runs: error: ")
    assert told in line


def test_no_runs_are_told(tmp_path):
    assert dare("runs", str(tmp_path)).out == f"no runs below {tmp_path}\n"
    assert dare("runs", "--state=interrupted").out.startswith("no runs below runs; ")
    assert json.loads(dare("runs", str(tmp_path), "--json").out) == []
