"""What a run's folder tells, whatever state it is in, and whatever is damaged."""

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.trainer.runs.folders import CONFIG, RESULT, add_checkpoint, make_run
from trainer.reliability.ending import leave_note
from trainer.reliability.lock import locked
from trainer.runs.state import read_run
from trainer.runs.table import as_json, as_table

ROWS = [{"step": 10, "total_steps": 40, "train/loss": 0.6}, {"step": 20, "total_steps": 40}]
STOPPED = {"state": "stopped", "step": 20, "reason": "SIGTERM", "time": "2026-11-25T00:00:00"}


def test_a_finished_run_tells_its_result(tmp_path):
    checkpoints = {20: {"auc": 0.74}, 40: {"auc": 0.73}}
    run = read_run(make_run(tmp_path / "a", result=RESULT, rows=ROWS, checkpoints=checkpoints))
    assert (run.name, run.state, run.step, run.total_steps) == ("a", "finished", 40, 40)
    assert (run.val_auc, run.test_auc, run.preset, run.ranks) == (0.74, 0.71, "dare", 2)
    assert (run.path, run.note) == (str(tmp_path / "a"), "")


def test_an_auc_of_validation_is_not_told_as_one_of_the_test_split(tmp_path):
    assert read_run(make_run(tmp_path, result={**RESULT, "split": "val"})).test_auc is None


def test_a_held_folder_is_of_a_running_run_even_where_it_has_finished_before(tmp_path):
    make_run(tmp_path, rows=ROWS, result=RESULT, ended=STOPPED)
    with locked(tmp_path, "go"):
        run = read_run(tmp_path)
    assert (run.state, run.total_steps) == ("running", 40)
    assert run.note == f"process {os.getpid()} on {socket.gethostname()}"
    assert read_run(tmp_path).state == "stopped"


def test_a_run_that_was_killed_is_stopped_where_it_has_checkpoints(tmp_path):
    make_run(tmp_path, rows=ROWS, checkpoints={10: {"auc": 0.6}, 20: {}})
    assert (read_run(tmp_path).state, read_run(tmp_path).note) == ("stopped", "")
    (tmp_path / ".lock").write_text("7 on elsewhere\n")
    run = read_run(tmp_path)
    assert (run.state, run.step, run.total_steps) == ("stopped", 20, 40)
    assert (run.val_auc, run.ranks) == (0.6, 2)
    assert run.note == "process 7 on elsewhere ended without a word: killed?"


def test_a_run_without_checkpoints_has_failed_and_its_log_says_why(tmp_path):
    make_run(tmp_path, rows=ROWS)
    assert read_run(tmp_path).state == "failed"
    assert read_run(tmp_path).note == "ended before its first checkpoint"
    (tmp_path / "log.txt").write_text("12:00 INFO\ndare train: error: no such file\nbye\n")
    assert read_run(tmp_path).note == "no such file"


def test_a_folder_that_was_only_asked_for_is_empty(tmp_path):
    (tmp_path / "asked.json").write_text("{}")
    assert read_run(tmp_path).state == "empty"


@pytest.mark.parametrize("state", ["failed", "stopped", "interrupted"])
def test_a_note_of_the_end_says_state_and_reason(tmp_path, state):
    ended = {**STOPPED, "state": state, "reason": "disk\nfull \x1b[31m"}
    run = read_run(make_run(tmp_path, rows=ROWS, ended=ended, checkpoints={20: {}}))
    assert (run.state, run.note) == (state, "disk full  [31m")


def test_a_note_is_read_as_a_run_leaves_it(tmp_path):
    make_run(tmp_path, rows=ROWS, checkpoints={20: {}})
    leave_note(tmp_path, "interrupted", 20, "stopped by Ctrl-C at step 20, which is saved")
    run = read_run(tmp_path)
    assert (run.state, run.note) == ("interrupted", "stopped by Ctrl-C at step 20, which is saved")


def test_a_note_of_an_earlier_part_of_a_run_does_not_count(tmp_path):
    make_run(tmp_path, rows=[*ROWS, {"step": 21}], ended=STOPPED, checkpoints={20: {}})
    assert read_run(tmp_path).state == "stopped"
    assert read_run(tmp_path).note == ""
    (tmp_path / "metrics.jsonl").write_text(json.dumps(ROWS[0]) + "\n")  # Cut, and newer.
    assert read_run(tmp_path).note == ""


def test_a_result_of_fewer_steps_than_the_newest_checkpoint_is_of_an_earlier_part(tmp_path):
    run = read_run(make_run(tmp_path, rows=ROWS, result=RESULT, checkpoints={60: {}}))
    assert (run.state, run.step, run.test_auc) == ("stopped", 60, None)


def test_checkpoints_elsewhere_are_found_and_remote_ones_only_where_asked(tmp_path):
    away = tmp_path / "away"
    run = make_run(tmp_path / "a", config={**CONFIG, "checkpoint": {"folder": str(away)}})
    add_checkpoint(away, 30, {"auc": 0.8})
    assert (read_run(run).state, read_run(run).val_auc) == ("stopped", 0.8)
    config = {**CONFIG, "checkpoint": {"folder": f"local-is-not://{away}"}}
    run = make_run(tmp_path / "b", config=config)
    assert "local-is-not" in read_run(run).note  # No such scheme: told, not raised.
    config = {**CONFIG, "checkpoint": {"folder": "memory://away"}}
    run = make_run(tmp_path / "c", config=config)
    assert "were not looked at (--remote does)" in read_run(run).note
    assert read_run(run, remote=True).note == "ended before its first checkpoint"


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "ended.json", "metrics.jsonl"])
def test_a_damaged_file_is_named_and_the_rest_is_told(tmp_path, name):
    make_run(tmp_path, rows=ROWS, ended=STOPPED, checkpoints={20: {"auc": 0.6}})
    (tmp_path / name).write_bytes(b'{"step": 1, \x00\xff[')
    run = read_run(tmp_path)
    assert name in run.note
    assert (run.state, run.step, run.val_auc) == ("stopped", 20, 0.6)


def test_a_damaged_checkpoint_is_named_and_the_others_count(tmp_path):
    make_run(tmp_path, checkpoints={10: {"auc": 0.6}, 20: {"auc": 0.7}})
    manifest = tmp_path / "checkpoints" / "step-00000020" / "manifest.json"
    manifest.write_text(manifest.read_text()[:30])
    run = read_run(tmp_path)
    assert (run.state, run.step, run.val_auc) == ("stopped", 10, 0.6)
    assert run.note.startswith("1 of 2 checkpoints cannot be read: step-00000020 is damaged")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.just(10**400) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["step", "steps", "state", "model", "preset", "checkpoint", "folder",
                         "metrics", "auc", "format", "files", "world", "reason", "split"]),
        inner, max_size=6,
    ),
    max_leaves=12,
)  # fmt: skip
CONTENT = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())
FILES = ("config.yaml", "result.json", "ended.json", "metrics.jsonl", "log.txt", ".lock",
         "asked.json", "checkpoints/step-00000001/manifest.json",
         "checkpoints/step-00000001/metrics.json")  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@example(contents={"result.json": b'{"steps": 1%s}' % (b"0" * 400)})
@given(contents=st.dictionaries(st.sampled_from(FILES), CONTENT, min_size=1))
def test_no_content_of_a_folder_ends_a_listing(tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp("any")
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    run = read_run(folder)
    assert as_table([run]).count("\n") == 1
    assert json.loads(as_json([run]))[0]["path"] == str(folder)


def test_files_that_are_folders_or_not_to_be_read_are_told(tmp_path):
    for name in ("config.yaml", "result.json", "metrics.jsonl", ".lock", "checkpoints"):
        Path(tmp_path, name).mkdir()
    run = read_run(tmp_path)
    for name in ("config.yaml", "result.json", "metrics.jsonl", ".lock"):
        assert f"{name} cannot be read: Is a directory" in run.note
