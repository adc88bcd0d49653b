"""A run from log to report, its folder, its result, and scoring its checkpoints again."""

import json
import math
import re

import pytest

from tests.commands import TARGETS, dare, dare_without_report, rows_of

METRICS = ("auc", "gauc", "gauc_unweighted", "ne", "logloss", "calibration")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A finished run of two epochs: its folder and what the command left."""
    out = tmp_path_factory.mktemp("run")
    outcome = dare(
        "train",
        *data,
        f"--out_dir={out}",
        "--name=first",
        "--loop.epochs=2",
        "--telemetry.tensorboard=true",
        "--telemetry.log_every=5",
    )
    return out / "first", outcome


def test_a_run_leaves_all_it_promises(run):
    folder, _ = run
    left = {path.name for path in folder.iterdir()}
    assert left == {
        *("config.yaml", "plan.json", "metrics.jsonl", "tensorboard"),
        *("checkpoints", "result.json", "report.html", ".lock"),
    }
    assert list((folder / "tensorboard").glob("events*"))


def test_stdout_is_the_result_and_nothing_else(run):
    folder, outcome = run
    assert outcome.result == json.loads((folder / "result.json").read_text())


def test_stderr_is_the_trainers_own_lines_only(run):
    _, outcome = run
    for line in outcome.err.splitlines():
        assert re.match(r"\d\d:\d\d:\d\d INFO    ", line), line


def test_a_result_holds_every_figure(run):
    result = run[1].result
    sizes = ("oracle_auc", "seconds", "samples_per_s", "peak_memory_bytes")
    for name in (*METRICS, *sizes):
        assert math.isfinite(result[name]), name
    assert result["samples"] == 2 * TARGETS["train"]
    assert result["steps"] == 20
    assert result["samples_per_s"] == pytest.approx(result["samples"] / result["seconds"], rel=0.01)
    assert 0.6 < result["auc"] < result["oracle_auc"] < 1
    assert result["split"] == "test"


def test_a_report_needs_no_network(run):
    page = (run[0] / "report.html").read_text()
    assert "<svg" in page or "data:image" in page
    for found in re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)""", page):
        target = "".join(found).strip("\"'")
        assert target.startswith(("data:", "#")), target
    assert "@import" not in page


def test_a_folder_that_holds_a_run_is_refused(run, data):
    folder, _ = run
    before = (folder / "metrics.jsonl").read_bytes()
    again = dare("train", *data, f"--out_dir={folder.parent}", "--name=first")
    assert again.code == 2
    assert "--resume" in again.err
    assert "--overwrite" in again.err
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_overwrite_starts_anew_once_the_config_is_right(data, tmp_path):
    options = [*data, f"--out_dir={tmp_path}", "--name=old"]
    assert dare_without_report("train", *options, "--loop.steps=3").result["steps"] == 3
    wrong = dare("train", *options, "--overwrite", "--data.test=nowhere")
    assert (wrong.code, wrong.out) == (2, "")
    assert (tmp_path / "old" / "result.json").exists()
    assert dare_without_report("train", *options, "--overwrite", "--loop.steps=2").result
    kept = [path.name for path in (tmp_path / "old" / "checkpoints").glob("*step-*")]
    assert kept == ["step-00000002"]
    assert list(rows_of(tmp_path / "old", "train/loss")) == [2]


@pytest.fixture(scope="module")
def overfitted(data, tmp_path_factory):
    """A run whose best checkpoint is neither of the last two."""
    out = tmp_path_factory.mktemp("overfitted")
    outcome = dare_without_report(
        "train",
        *data,
        f"--out_dir={out}",
        "--name=long",
        "--loop.epochs=5",
        "--loop.evaluate_every=10",
        "--checkpoint.every=5",
        "--optim.schedule.warmup_steps=10",
        "--optim.dense.learning_rate=0.02",
        "--optim.sparse.learning_rate=0.2",
    )
    return out / "long", outcome.result


def test_the_best_and_the_last_checkpoints_stay(overfitted):
    folder, result = overfitted
    auc = rows_of(folder, "eval/auc")
    best = max(auc, key=auc.__getitem__)
    assert list(auc) == [10, 20, 30, 40, 50]
    assert best < 45, "the data no longer overfits, so this test shows nothing"
    kept = sorted(int(path.name[5:]) for path in (folder / "checkpoints").glob("*step-*"))
    assert kept == [best, 45, 50]
    assert result["best_step"] == best
    assert result["val_auc"] == auc[best]


@pytest.mark.parametrize("at", ["best", "last", "step-00000045"])
def test_evaluate_scores_the_checkpoint_that_is_asked_for(overfitted, at):
    folder, result = overfitted
    config = f"--config={folder / 'config.yaml'}"
    scored = dare("evaluate", config, "--split=test", f"--at={at}").result
    step = {"best": result["best_step"], "last": 50}.get(at, 45)
    assert scored["checkpoint"] == f"step-{step:08d}"
    same = [scored[name] == result[name] for name in METRICS]
    assert all(same) if at == "best" else not any(same)


def test_evaluate_finds_again_what_training_saw_on_val(overfitted):
    folder, _ = overfitted
    config = f"--config={folder / 'config.yaml'}"
    scored = dare("evaluate", config, "--split=val", "--at=last").result
    assert scored["auc"] == rows_of(folder, "eval/auc")[50]


def test_evaluate_needs_only_the_split_it_scores(overfitted):
    folder, result = overfitted
    config = [f"--config={folder / 'config.yaml'}", "--data.train=nowhere", "--data.val=nowhere"]
    assert dare("evaluate", *config).result["auc"] == result["auc"]


def test_evaluate_names_what_there_is(overfitted):
    folder, result = overfitted
    outcome = dare("evaluate", f"--config={folder / 'config.yaml'}", "--at=step-00000007")
    assert outcome.code == 2
    for name in ("step-00000007", "step-00000045", f"step-{result['best_step']:08d}", "last"):
        assert name in outcome.err
