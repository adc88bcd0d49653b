"""A run that is resumed, read back from the trackers that it was recorded with."""

import json
import math
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from torchx.runner import get_runner
from torchx.specs import AppDef, Role
from torchx.tracker.api import AppRun
from torchx.tracker.backend import fsspec as torchx_fsspec
from wandb.proto.wandb_internal_pb2 import Record
from wandb.sdk.internal.datastore import DataStore

from tests.commands import dare_without_report, rows_of

TRACKERS = "--telemetry.trackers=[mlflow,wandb,torchx]"


def _environment_of_a_job(folder: Path) -> dict[str, str]:
    """What the runner of `torchx run` tells a job where .torchxconfig names a tracker."""
    settings, store = folder / "tracker.conf", folder / "torchx"
    store.mkdir()
    settings.write_text(f"protocol=file\nroot_path={store}\n")
    (folder / ".torchxconfig").write_text(
        f"[torchx:tracker]\nfsspec=\n\n[tracker:fsspec]\nconfig={settings}\n"
    )
    role = Role(name="trainer", image=str(folder), entrypoint=sys.executable)
    with get_runner("dare") as runner:
        runner.dryrun(AppDef(name="train", roles=[role]), "local_cwd", {"log_dir": str(folder)})
    env = {name: value for name, value in role.env.items() if name.startswith("TORCHX_")}
    return {name: value.replace("${app_id}", "train-1") for name, value in env.items()}


@pytest.fixture(scope="module")
def recorded(data, tmp_path_factory):
    """A run of one epoch, then resumed by another job for a second one; and the first job's id."""
    out = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.telemetry.trackers._PATIENCE_S", 60.0)  # However busy the machine.
        patch.setenv("TORCHXCONFIG", str(out / ".torchxconfig"))
        env = _environment_of_a_job(out)
        for name, value in {**env, "WANDB_MODE": "offline"}.items():
            patch.setenv(name, value)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        options = [*data, f"--out_dir={out}", "--name=a", "--telemetry.log_every=2", TRACKERS]
        first = dare_without_report("train", *options, "--loop.evaluate_every=4")
        assert first.code == 0, first.err
        assert "WARNING" not in first.err
        ids = {path.stem: path.read_text().strip() for path in (out / "a/trackers").glob("*.id")}
        patch.setenv("TORCHX_JOB_ID", ids["torchx"].replace("train-1", "train-2"))
        second = dare_without_report(
            *("train", *options, "--loop.evaluate_every=4", "--loop.epochs=2", "--resume")
        )
        assert second.code == 0, second.err
    return out, ids


def test_mlflow_has_config_scalars_checkpoint_and_result_of_both_parts_in_one_run(
    recorded, monkeypatch
):
    out, ids = recorded
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient((out / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("dare")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.run_name) == (ids["mlflow"], "a")
    assert run.info.status == "FINISHED"
    assert run.data.params["model.preset"] == "dare"
    assert run.data.params["model.head.hidden"] == "[200, 80]"
    assert run.data.params["loop.epochs"] == "1"
    assert run.data.tags["resumed.loop.epochs"] == "2"
    assert run.data.tags["checkpoint"] == str(out / "a/checkpoints/step-00000020")
    for name in ("train/loss", "eval/auc", "train/samples_per_s"):
        told = {
            metric.step: metric.value for metric in client.get_metric_history(ids["mlflow"], name)
        }
        assert told == rows_of(out / "a", name)
        assert len(told) == len(client.get_metric_history(ids["mlflow"], name))
    result = json.loads((out / "a/result.json").read_text())
    assert run.data.metrics["result/auc"] == result["auc"]
    kept = Path(client.download_artifacts(ids["mlflow"], "result.json", str(out)))
    assert json.loads(kept.read_text()) == result


def test_weights_and_biases_leaves_files_of_all_scalars_under_one_id(recorded):
    out, ids = recorded
    parts = sorted(out.glob("a/wandb/offline-run-*/*.wandb"))
    assert [path.name for path in parts] == [f"run-{ids['wandb']}.wandb"] * 2
    told, summary = {}, {}
    for path in parts:
        for record in _records(path):
            if record.HasField("history"):
                row = {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                    for item in record.history.item
                }
                if "train/loss" in row:
                    told[row["_step"]] = row["train/loss"]
            for item in record.summary.update if record.HasField("summary") else ():
                summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    assert told == rows_of(out / "a", "train/loss")
    assert summary["state"] == "finished"
    assert summary["checkpoint"] == str(out / "a/checkpoints/step-00000020")
    result = json.loads((out / "a/result.json").read_text())
    assert math.isclose(summary["result/auc"], result["auc"])


def _records(path):
    store = DataStore()
    store.open_for_scan(str(path))
    while (content := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(content)
        yield record


def test_torchx_lists_both_jobs_with_config_checkpoints_result_and_where_the_second_is_from(
    recorded,
):
    out, ids = recorded
    store = torchx_fsspec.create(str(out / "tracker.conf"))
    second = ids["torchx"].replace("train-1", "train-2")
    assert ids["torchx"] == "local_cwd://dare/train-1"
    assert set(store.run_ids()) == {ids["torchx"], second}
    told = store.metadata(ids["torchx"])
    assert (told["name"], told["folder"]) == ("a", str(out / "a"))
    assert told["config"]["model"]["preset"] == "dare"
    assert told["state"] == "finished"
    checkpoints = store.artifacts(ids["torchx"])
    assert sorted(checkpoints) == [f"checkpoint-{step:08d}" for step in (4, 8, 10)]
    newest = checkpoints["checkpoint-00000010"]
    assert newest.path == str(out / "a/checkpoints/step-00000010")
    assert newest.metadata["step"] == 10
    assert newest.metadata["metrics"]["eval/auc"] == rows_of(out / "a", "eval/auc")[10]
    result = json.loads((out / "a/result.json").read_text())
    assert store.metadata(second)["result/auc"] == result["auc"]
    (source,) = AppRun(second, [store]).sources()
    assert (source.parent.id, source.artifact_name) == (ids["torchx"], "resumed")


def test_a_tracker_that_fails_is_a_warning_and_the_result_is_the_same(recorded, data, monkeypatch):
    out, _ = recorded
    monkeypatch.delenv("TORCHX_JOB_ID", raising=False)
    done = dare_without_report(
        *("train", *data, f"--out_dir={out}", "--name=b", "--telemetry.trackers=[torchx]")
    )
    assert done.code == 0
    alone = dare_without_report("train", *data, f"--out_dir={out}", "--name=c")
    assert done.result["auc"] == alone.result["auc"]
    assert done.err.count("TORCHX_JOB_ID is not set") == 1
    assert [line for line in done.err.splitlines() if "records were not taken" in line]
