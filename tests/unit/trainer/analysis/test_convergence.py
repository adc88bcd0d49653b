"""Curves and steps to a level from `metrics.jsonl` written by hand."""

import json

import pytest

from tests.small_run import small_config
from trainer.analysis.convergence import (
    ConvergenceOptions,
    convergence,
    first_steps,
    reached_by_all,
    read_curves,
)
from trainer.analysis.options import Job, run_names
from trainer.distributed import run_context

SLOW = [(100, 0.60, 0.70, 0.66), (200, 0.70, 0.75, 0.60), (300, 0.74, 0.78, 0.58)]
FAST = [(100, 0.70, 0.76, 0.61), (200, 0.80, 0.82, 0.55), (300, 0.79, 0.81, 0.56)]


def write_metrics(folder, rows):
    folder.mkdir(parents=True)
    lines = [{"step": 50, "train/loss": 0.7}]
    for step, auc, accuracy, logloss in rows:
        lines.append({"step": step, "train/loss": 0.6})
        values = {"eval/auc": auc, "eval/accuracy": accuracy, "eval/logloss": logloss}
        lines.append({"step": step, **values})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def found_by(folder, **options):
    config = small_config(f"--out_dir={folder.parent}", f"--name={folder.name}")
    with run_context() as context:
        return convergence(Job(config, "", context), ConvergenceOptions(**options))


def test_curves_are_the_evaluations_and_nothing_else(tmp_path):
    curves = read_curves(write_metrics(tmp_path / "slow", SLOW))
    assert curves["auc"] == [[100, 200, 300], [0.60, 0.70, 0.74]]
    assert curves["accuracy"] == [[100, 200, 300], [0.70, 0.75, 0.78]]
    assert curves["logloss"] == [[100, 200, 300], [0.66, 0.60, 0.58]]


def test_a_value_that_was_not_finite_is_left_out(tmp_path):
    folder = write_metrics(tmp_path / "run", [(1, None, 0.5, 0.7), (2, 0.6, None, 0.6)])
    assert read_curves(folder)["auc"] == [[2], [0.6]]
    assert read_curves(folder)["accuracy"] == [[1], [0.5]]


def test_steps_to_a_level_are_the_first_evaluation_at_or_above_it():
    curves = {"slow": [[100, 200, 300], [0.6, 0.7, 0.74]], "fast": [[100, 200], [0.7, 0.8]]}
    assert first_steps(curves, [0.7, 0.8, 0.9]) == [
        {"level": 0.7, "steps": {"slow": 200, "fast": 100}},
        {"level": 0.8, "steps": {"slow": None, "fast": 200}},
        {"level": 0.9, "steps": {"slow": None, "fast": None}},
    ]
    assert reached_by_all(curves) == [0.74]
    assert reached_by_all({}) == []


def test_a_level_is_passed_once_even_if_it_is_lost_again():
    curves = {"unsteady": [[1, 2, 3, 4], [0.5, 0.8, 0.4, 0.9]]}
    assert first_steps(curves, [0.7])[0]["steps"] == {"unsteady": 2}
    assert reached_by_all(curves) == [0.9]


def test_runs_are_compared_at_the_best_level_that_all_reach(tmp_path):
    slow, fast = write_metrics(tmp_path / "slow", SLOW), write_metrics(tmp_path / "fast", FAST)
    found = found_by(slow, beside=(str(fast),)).content
    assert found["steps_to_reach"] == {
        "accuracy": [{"level": 0.78, "steps": {"slow": 300, "fast": 200}}],
        "auc": [{"level": 0.74, "steps": {"slow": 300, "fast": 200}}],
    }
    assert found["curves"]["logloss"]["fast"] == {
        "step": [100, 200, 300],
        "value": [0.61, 0.55, 0.56],
    }


def test_levels_can_be_asked_for(tmp_path):
    slow = write_metrics(tmp_path / "slow", SLOW)
    found = found_by(slow, reach_auc=(0.7, 0.99), reach_accuracy=(0.75,)).content
    assert found["steps_to_reach"] == {
        "accuracy": [{"level": 0.75, "steps": {"slow": 200}}],
        "auc": [
            {"level": 0.7, "steps": {"slow": 200}},
            {"level": 0.99, "steps": {"slow": None}},
        ],
    }


def test_a_run_of_before_accuracy_was_counted_shows_the_rest(tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    (old / "metrics.jsonl").write_text('{"step": 10, "eval/auc": 0.6, "eval/logloss": 0.6}\n')
    found = found_by(old)
    assert found.content["curves"]["accuracy"] == {}
    assert found.content["steps_to_reach"]["accuracy"] == []
    assert len(found.figure.axes) == 2


def test_a_run_without_evaluations_is_refused(tmp_path):
    empty = tmp_path / "empty"
    with pytest.raises(ValueError, match=r"holds no evaluation; train with loop\.eval"):
        found_by(empty)


def test_runs_are_named_by_as_much_of_their_path_as_tells_them_apart():
    assert run_names(["runs/dare", "runs/twin"]) == ["dare", "twin"]
    assert run_names(["a/dare", "b/dare"]) == ["a/dare", "b/dare"]
    with pytest.raises(ValueError, match="--beside names a run twice, or a/dare itself"):
        run_names(["a/dare", "b/dare", "a/dare"])
