import gzip
import json
import logging
import math
import sys
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.telemetry.logs import configure_logging
from trainer.telemetry.metrics_file import read_metrics
from trainer.telemetry.telemetry import Telemetry, TelemetryConfig


def quiet(**options) -> TelemetryConfig:
    return TelemetryConfig(**{"log_every": 2, "tensorboard": False, "progress": False, **options})


def one_step(telemetry, step, loss=0.5, **options) -> None:
    options = {"samples": 3, "behaviours": 600, "data_wait_s": 0.0, **options}
    weight = options.pop("weight", 1.0)
    telemetry.step(step, loss=torch.tensor(loss), weight=torch.tensor(weight), **options)


@pytest.fixture
def plain_logging():
    """Logging as it was, whatever the test configures."""
    root, ours = logging.getLogger(), logging.getLogger("trainer")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = before
    for name in ("modules", "pipelines"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.parametrize("name", ["log_every", "profile_steps"])
def test_a_setting_that_is_too_small_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"telemetry.{name} is 0; it must be at least 1"):
        TelemetryConfig(**{name: 0})


def test_a_log_point_writes_the_mean_loss_and_rates_since_the_last(tmp_path) -> None:
    with Telemetry(quiet(), folder=tmp_path, world=2) as telemetry:
        for step, loss in enumerate([1.0, 3.0, 5.0, 6.0], start=1):
            time.sleep(0.02)
            one_step(telemetry, step, loss, data_wait_s=0.01)
    first, second = read_metrics(tmp_path)
    assert (first["step"], first["train/loss"]) == (2, 2.0)
    assert (second["step"], second["train/loss"]) == (4, 5.5)
    seconds = second["train/step_s"] * 2
    assert 0.04 <= seconds < 1
    # Two steps of three samples on each of two ranks.
    assert second["train/samples_per_s"] == pytest.approx(12 / seconds)
    assert second["train/behaviours_per_s"] == pytest.approx(2400 / seconds)
    assert second["train/data_wait_share"] == pytest.approx(0.02 / seconds)
    assert second["train/memory_bytes"] > 50e6


def test_the_loss_is_a_mean_over_targets_so_that_padding_steps_do_not_lower_it(tmp_path) -> None:
    with Telemetry(quiet(log_every=3), folder=tmp_path) as telemetry:
        for step, (loss, weight) in enumerate([(8.0, 10.0), (1.0, 2.0), (0.0, 0.0)], start=1):
            one_step(telemetry, step, loss, weight=weight)
        for step in (4, 5, 6):
            one_step(telemetry, step, 0.0, weight=0.0)
    first, second = read_metrics(tmp_path)
    assert first["train/loss"] == 0.75
    assert second["train/loss"] is None


def test_a_step_between_log_points_never_reads_the_loss(tmp_path, monkeypatch) -> None:
    reads = []
    item = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda self: reads.append(1) or item(self))
    with Telemetry(quiet(log_every=5), folder=tmp_path) as telemetry:
        for step in range(1, 5):
            one_step(telemetry, step)
        assert not reads
        one_step(telemetry, 5)
    assert len(reads) == 1


def test_the_callers_loss_is_left_alone(tmp_path) -> None:
    loss = torch.tensor(1.0, requires_grad=True)
    with Telemetry(quiet(log_every=3), folder=tmp_path) as telemetry:
        for step in range(1, 4):
            telemetry.step(
                step, loss=loss, weight=loss.detach(), samples=1, behaviours=1, data_wait_s=0
            )
    assert loss.item() == 1
    assert read_metrics(tmp_path)[0]["train/loss"] == 1


def test_scalars_are_asked_for_at_log_points_only(tmp_path) -> None:
    asked = []

    def learning_rate() -> dict[str, float]:
        asked.append(1)
        return {"train/learning_rate_dense": 0.1}

    with Telemetry(quiet(), folder=tmp_path) as telemetry:
        one_step(telemetry, 1, scalars=learning_rate)
        one_step(telemetry, 2, scalars=learning_rate)
    assert len(asked) == 1
    assert read_metrics(tmp_path)[0]["train/learning_rate_dense"] == 0.1


def test_the_last_steps_are_told_though_no_log_point_fell_on_them(tmp_path) -> None:
    with Telemetry(quiet(), folder=tmp_path) as telemetry:
        for step in (1, 2, 3):
            one_step(telemetry, step)
    assert [row["step"] for row in read_metrics(tmp_path)] == [2, 3]


def test_an_evaluation_does_not_lower_the_training_rate(tmp_path) -> None:
    with Telemetry(quiet(), folder=tmp_path) as telemetry:
        one_step(telemetry, 1)
        with telemetry.paused():
            time.sleep(0.3)
        one_step(telemetry, 2)
    assert read_metrics(tmp_path)[0]["train/step_s"] < 0.15


def test_nan_is_written_as_null_and_stays_valid_json(tmp_path) -> None:
    with Telemetry(quiet(), folder=tmp_path) as telemetry:
        one_step(telemetry, 1, loss=math.nan)
        telemetry.log(1, {"eval/auc": math.nan, "eval/ne": math.inf, "eval/samples": 4.0})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert rows[0]["eval/auc"] is None
    assert rows[0]["eval/ne"] is None
    assert rows[0]["eval/samples"] == 4
    assert rows[1]["train/loss"] is None


def test_a_resumed_run_cuts_later_steps_and_appends(tmp_path) -> None:
    with Telemetry(quiet(), folder=tmp_path) as telemetry:
        for step in range(1, 7):
            one_step(telemetry, step, loss=1.0)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 8, "train/lo')
    with Telemetry(quiet(), folder=tmp_path, start_step=4) as telemetry:
        for step in (5, 6, 7, 8):
            one_step(telemetry, step, loss=2.0)
    rows = read_metrics(tmp_path)
    assert [(row["step"], row["train/loss"]) for row in rows] == [(2, 1), (4, 1), (6, 2), (8, 2)]


def test_what_is_told_of_the_step_that_a_run_resumes_from_is_not_told_again(tmp_path) -> None:
    scores = {"eval/auc": 0.5, "eval/ne": 1.0}
    with Telemetry(quiet(), folder=tmp_path) as telemetry:
        for step in (2, 4):
            one_step(telemetry, step)
            telemetry.log(step, scores)
    for start in (4, 4, 2):
        with Telemetry(quiet(), folder=tmp_path, start_step=start) as telemetry:
            telemetry.log(start, scores)
    rows = [row for row in read_metrics(tmp_path) if "eval/auc" in row]
    assert [(row["step"], row["eval/ne"]) for row in rows] == [(2, 1.0)]
    with Telemetry(quiet(), folder=tmp_path, start_step=2) as telemetry:
        one_step(telemetry, 4)
        telemetry.log(4, scores)
    rows = [row for row in read_metrics(tmp_path) if "eval/auc" in row]
    assert [row["step"] for row in rows] == [2, 4]


def test_a_new_run_in_an_old_folder_starts_an_empty_file(tmp_path) -> None:
    for _ in range(2):
        with Telemetry(quiet(), folder=tmp_path) as telemetry:
            telemetry.log(0, {"eval/auc": 0.5})
    assert len(read_metrics(tmp_path)) == 1


def test_other_ranks_write_nothing(tmp_path) -> None:
    folder = tmp_path / "run"
    config = quiet(tensorboard=True, profile_start=0)
    with Telemetry(config, folder=folder, rank=1) as telemetry:
        one_step(telemetry, 2)
        telemetry.log(2, {"eval/auc": 1.0})
    assert not folder.exists()


def test_tensorboard_holds_the_same_scalars(tmp_path) -> None:
    with Telemetry(quiet(tensorboard=True), folder=tmp_path) as telemetry:
        one_step(telemetry, 1, 1.0)
        one_step(telemetry, 2, 2.0)
        telemetry.log(2, {"eval/auc": 0.75})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(2, 1.5)]
    assert events.Scalars("eval/auc")[0].value == 0.75


@pytest.mark.parametrize(("start", "name"), [(0, "steps_1_to_2"), (3, "steps_4_to_5")])
def test_the_profile_covers_the_asked_steps(tmp_path, start: int, name: str, caplog) -> None:
    config = quiet(profile_start=start, profile_steps=2)
    with caplog.at_level(logging.INFO), Telemetry(config, folder=tmp_path) as telemetry:
        for step in range(1, 7):
            with torch.profiler.record_function(f"step number {step}"):
                torch.ones(4).sum()
            one_step(telemetry, step)
    (path,) = (tmp_path / "profile").iterdir()
    assert path.name == f"{name}.json.gz"
    assert str(path) in caplog.text
    trace = gzip.decompress(path.read_bytes()).decode()
    traced = [step for step in range(1, 7) if f"step number {step}" in trace]
    assert traced == [start + 1, start + 2]


def test_an_error_inside_still_closes_the_files_and_passes_on(tmp_path) -> None:
    telemetry = Telemetry(quiet(), folder=tmp_path)
    with pytest.raises(RuntimeError), telemetry:
        one_step(telemetry, 2, loss=[1.0, 2.0])
    assert telemetry._file.closed
    assert read_metrics(tmp_path) == []


def test_a_log_line_tells_step_loss_rate_wait_and_time_left(tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO):
        options = {"folder": tmp_path, "total_steps": 1000}
        with Telemetry(quiet(), **options) as telemetry:
            one_step(telemetry, 1)
            one_step(telemetry, 2, 1.5)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "trainer.telemetry.telemetry"]
    assert line.startswith("step 2  of 1,000  loss 1.0000  ")
    assert "samples/s  data wait 0%" in line
    assert line.endswith(" left")


def test_a_terminal_gets_a_bar_with_loss_rate_and_wait(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    options = {"folder": tmp_path, "total_steps": 10}
    with Telemetry(quiet(progress=True), **options) as telemetry:
        for step in range(1, 5):
            one_step(telemetry, step)
    shown = capsys.readouterr().err
    assert "4/10" in shown
    assert "loss 0.5000" in shown
    assert "data wait" in shown


@pytest.mark.usefixtures("plain_logging")
def test_rank_zero_logs_information_and_other_ranks_only_warnings(capsys) -> None:
    for rank in (0, 3):
        configure_logging(rank)
        logging.getLogger("trainer.loop").info("information %s", rank)
        logging.getLogger("trainer.loop").warning("warning %s", rank)
        logging.getLogger("torch.somewhere").info("noise")
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert output.out == ""
    assert len(lines) == 3
    assert lines[0].endswith("INFO    information 0")
    assert lines[1].endswith("WARNING warning 0")
    assert lines[2].endswith("rank 3 WARNING warning 3")
