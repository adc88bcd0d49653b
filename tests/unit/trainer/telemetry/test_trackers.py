"""Trackers get all of a run in order, and cost training nothing where they fail."""

import json
import logging
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from trainer.reliability.stopping import Stopped
from trainer.telemetry import tracker_process, trackers
from trainer.telemetry.telemetry import Telemetry, TelemetryConfig
from trainer.telemetry.tracker_process import Delivery
from trainer.telemetry.trackers import Trackers, check_trackers


class Recorder:
    """A tracker that keeps its calls, and fails while it is away."""

    def __init__(self):
        self.calls, self.away, self.begun = [], False, 0

    def _call(self, *what):
        if self.away:
            raise ConnectionError("server is away\nfor long")
        self.calls.append(what)

    def begin(self, run_id, config, folder):
        assert isinstance(folder, Path)
        self._call("begin", run_id, config)
        return run_id or "id-1"

    def scalars(self, step, values):
        self._call("scalars", step, values)

    def checkpoint(self, path, step):
        self._call("checkpoint", path, step)

    def end(self, state, result):
        self._call("end", state, result)


class Desk:
    """A delivery to a recorder, and what it says."""

    def __init__(self, folder):
        self.tracker, self.said, self.folder = Recorder(), [], str(folder)
        self.delivery = Delivery("recorder", self.tracker, self.said.append)

    def begin(self):
        self.delivery.take({"call": "begin", "config": {"name": "a"}, "folder": self.folder})

    def scalars(self, step):
        self.delivery.take({"call": "scalars", "step": step, "values": {"x": 1.0}})


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def test_a_tracker_is_told_all_in_order_and_its_id_is_kept_for_the_next_part(desk, tmp_path):
    desk.begin()
    desk.scalars(2)
    desk.delivery.take({"call": "checkpoint", "path": "p", "step": 2})
    desk.delivery.take({"call": "end", "state": "stopped", "result": {}})
    desk.delivery.close()
    assert [call[0] for call in desk.tracker.calls] == ["begin", "scalars", "checkpoint", "end"]
    assert desk.tracker.calls[0][1] == ""
    assert desk.said == []
    again = Desk(tmp_path)
    again.begin()
    assert again.tracker.calls[0][1] == "id-1"


def test_a_run_that_went_without_a_word_is_ended_as_killed(desk):
    desk.begin()
    desk.delivery.close()
    assert desk.tracker.calls[-1] == ("end", "killed", {})


def test_a_tracker_that_is_away_is_told_of_once_and_asked_again_later(desk, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(tracker_process.time, "monotonic", lambda: now[0])
    desk.tracker.away = True
    desk.begin()
    desk.scalars(2)
    assert desk.said == ["ConnectionError: server is away; tried again every 30 s"]
    now[0] += 31
    desk.scalars(4)
    desk.tracker.away = False
    desk.scalars(6)  # Left alone until half a minute has passed.
    now[0] += 31
    desk.scalars(8)
    assert [call[:2] for call in desk.tracker.calls] == [("begin", ""), ("scalars", 8)]
    desk.tracker.away = True
    desk.scalars(10)
    desk.tracker.away = False
    desk.delivery.take({"call": "end", "state": "finished", "result": {}})  # Never put off.
    desk.delivery.close()
    assert desk.tracker.calls[-1] == ("end", "finished", {})
    assert desk.said[1:] == ["5 of 7 records were not taken"]


def test_passwords_of_an_address_are_told_nowhere(desk, capsys):
    def fail(*_):
        raise ConnectionError("no answer from https://me:secret@host/api")

    desk.tracker._call = fail
    desk.begin()
    assert desk.said[0].startswith("ConnectionError: no answer from https://***@host/api; tried")
    assert "secret" not in capsys.readouterr().err


DIES = """
import os, sys, time
from pathlib import Path
from trainer.telemetry.trackers import Trackers
folder = Path(sys.argv[1])
told = Trackers(["mlflow"], folder)
told.scalars(1, {"train/loss": 0.5})
while not (folder / "trackers" / "mlflow.id").exists():
    time.sleep(0.02)
os._exit(9)
"""


def test_a_run_whose_process_is_killed_is_no_longer_running_in_mlflow(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "run"
    folder.mkdir()
    assert subprocess.run([sys.executable, "-c", DIES, str(folder)], check=False).returncode == 9
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    run_id, until = (folder / "trackers" / "mlflow.id").read_text().strip(), time.monotonic() + 30
    while client.get_run(run_id).info.status == "RUNNING":
        assert time.monotonic() < until
        time.sleep(0.05)
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags["state"]) == ("KILLED", "killed")
    assert run.data.metrics == {"train/loss": 0.5}


def test_ranks_but_the_first_record_nothing(tmp_path):
    config = TelemetryConfig(tensorboard=False, trackers=["mlflow"])
    with Telemetry(config, folder=tmp_path, rank=1) as telemetry:
        telemetry.log(1, {"eval/auc": 0.5})
        telemetry.trackers.checkpoint("p", 1)
        telemetry.trackers.end("finished", {})
    assert list(tmp_path.iterdir()) == []


def _mlflow(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def _warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_closed_port_costs_neither_the_steps_nor_the_end(tmp_path, monkeypatch, caplog):
    _mlflow(monkeypatch, "http://127.0.0.1:9")
    told = Trackers(["mlflow"], tmp_path)
    started = time.perf_counter()
    for step in range(100):
        told.scalars(step, {"train/loss": 1.0})
    assert time.perf_counter() - started < 0.5
    told.end("finished", {"auc": 0.7})
    told.end("failed", {})
    first, last = _warnings(caplog)
    assert first.startswith("tracker mlflow: MlflowException: API request to http://127.0.0.1:9")
    assert last == "tracker mlflow: 102 of 102 records were not taken (training goes on)"


def test_a_server_that_never_answers_is_waited_for_no_longer_than_stated(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(trackers, "_PATIENCE_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _mlflow(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        told = Trackers(["mlflow"], tmp_path)
        told.scalars(1, {"train/loss": 1.0})
        started = time.perf_counter()
        told.end("finished", {})
        assert 1.5 < time.perf_counter() - started < 4
    (line,) = _warnings(caplog)
    assert line.startswith("tracker mlflow: did not take all in 2 s")


def test_a_package_that_is_missing_is_told_before_anything_starts(monkeypatch):
    check_trackers(["torchx", "mlflow"])
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _name: None)
    for name, package in (("mlflow", "mlflow-skinny"), ("wandb", "wandb")):
        with pytest.raises(
            ValueError, match=f"{name}, which is not installed: pip install {package}"
        ):
            check_trackers([name])
    check_trackers(["torchx"])


@pytest.mark.parametrize(
    ("error", "state", "status"),
    [
        (RuntimeError("no disk"), "failed", "FAILED"),
        (KeyboardInterrupt(), "interrupted", "KILLED"),
        (Stopped(signal.SIGTERM), "stopped", "KILLED"),
    ],
)
def test_a_run_that_an_error_ends_is_ended_in_mlflow_too(
    tmp_path, monkeypatch, error, state, status
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "run"
    config = TelemetryConfig(tensorboard=False, trackers=["mlflow"])

    def train():
        with Telemetry(config, folder=folder) as telemetry:
            telemetry.log(3, {"eval/auc": 0.5, "eval/gauc": float("nan")})
            raise error

    with pytest.raises(type(error)):
        train()
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    run = client.get_run((folder / "trackers" / "mlflow.id").read_text().strip())
    assert run.info.status == status
    assert run.data.tags["state"] == state
    assert run.data.tags.get("reason", "") == str(error)
    assert run.data.metrics == {"eval/auc": 0.5}


def test_no_tracker_leaves_no_trace(tmp_path):
    Trackers([], tmp_path).end("finished", {})
    assert list(tmp_path.iterdir()) == []
    assert json.dumps(TelemetryConfig().trackers) == "[]"
