"""A run that was stopped and resumed is the run that was not."""

import json
import shutil

import pytest

from tests.commands import dare, dare_without_report, rows_of

STEPS = 12  # Ten steps are an epoch.


def _train(data, out, name, *options):
    return dare_without_report(
        "train",
        *data,
        f"--out_dir={out}",
        f"--name={name}",
        "--loop.epochs=2",
        "--telemetry.log_every=1",
        *options,
    ).result


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


def _straight(data, out, optimizer):
    """The run that was not stopped, made once."""
    folder = out / f"straight-{optimizer}"
    if not (folder / "result.json").exists():
        _train(data, out, folder.name, f"--optim.sparse.name={optimizer}", f"--loop.steps={STEPS}")
    return folder


@pytest.mark.parametrize(
    ("optimizer", "stop"),
    [
        ("adam", 6),
        ("adam", 10),
        ("adam", 11),
        ("rowwise_adagrad", 6),
        ("partial_rowwise_adam", 6),
        ("dense_adam", 6),
        ("sgd", 6),
    ],
)
def test_resuming_gives_the_losses_of_never_stopping(data, out, optimizer, stop):
    straight = _straight(data, out, optimizer)
    name = f"stopped-{optimizer}-{stop}"
    options = [f"--optim.sparse.name={optimizer}"]
    assert _train(data, out, name, *options, f"--loop.steps={stop}")["steps"] == stop
    resumed = _train(data, out, name, *options, f"--loop.steps={STEPS}", "--resume")
    losses = rows_of(straight, "train/loss")
    assert list(losses) == list(range(1, STEPS + 1))
    assert rows_of(out / name, "train/loss") == losses
    whole = json.loads((straight / "result.json").read_text())
    assert [resumed[name] for name in ("steps", "samples")] == [STEPS, whole["samples"]]
    for metric in ("eval/auc", "eval/logloss"):
        assert rows_of(out / name, metric)[STEPS] == rows_of(straight, metric)[STEPS], metric


def test_steps_after_the_last_checkpoint_are_taken_again(data, out):
    """As after a crash: the folder tells more steps than its newest checkpoint."""
    straight = _straight(data, out, "adam")
    crashed = out / "crashed"
    _train(data, out, "crashed", f"--loop.steps={STEPS}", "--checkpoint.every=4")
    shutil.rmtree(crashed / "checkpoints" / "step-00000012")
    unfinished = crashed / "checkpoints" / "step-00000012.incomplete"
    unfinished.mkdir()
    (unfinished / "__0_0.distcp").write_bytes(b"half")
    _train(data, out, "crashed", f"--loop.steps={STEPS}", "--resume")
    assert rows_of(crashed, "train/loss") == rows_of(straight, "train/loss")
    assert not unfinished.exists()


def test_resuming_a_finished_run_changes_nothing(data, out):
    folder = _straight(data, out, "adam")
    before = json.loads((folder / "result.json").read_text())
    files = {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "result.json"
    }
    again = _train(
        data, out, folder.name, "--optim.sparse.name=adam", f"--loop.steps={STEPS}", "--resume"
    )
    for path, content in files.items():
        assert path.read_bytes() == content, path
    for measured in ("peak_memory_bytes", "seconds", "samples_per_s"):
        before.pop(measured)
    assert {name: again[name] for name in before} == before


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--model.embeddings.attention.item=8", "attention_item"),
        ("--model.head.hidden=[30]", "interaction.head"),
        ("--optim.sparse.name=sgd", "optim.sparse.name is sgd"),
        ("--optim.dense.name=adamw", "optim.dense.name is adamw"),
        ("--seed=2", "seed is 2"),
    ],
)
def test_resuming_with_another_config_is_refused_by_name(data, out, option, told):
    folder = _straight(data, out, "adam")
    options = [*data, f"--out_dir={out}", f"--name={folder.name}"]
    config = (folder / "config.yaml").read_bytes()
    outcome = dare("train", *options, option, "--resume")
    assert outcome.code == 2
    (error,) = [line for line in outcome.err.splitlines() if "error" in line]
    assert told in error
    assert (folder / "config.yaml").read_bytes() == config


def test_resuming_where_nothing_is_starts(data, out):
    assert _train(data, out, "fresh", "--loop.steps=2", "--resume")["steps"] == 2


def test_a_damaged_old_checkpoint_does_not_end_a_run(data, out):
    options = ["--optim.sparse.name=sgd", "--checkpoint.every=2"]
    _train(data, out, "aged", *options, "--loop.steps=4")
    checkpoints = out / "aged" / "checkpoints"
    (checkpoints / "step-00000002" / "manifest.json").write_text("{")
    outcome = dare(
        "train",
        *data,
        f"--out_dir={out}",
        "--name=aged",
        *options,
        "--loop.steps=6",
        "--resume",
    )
    assert outcome.code == 0
    assert "manifest.json is damaged" in outcome.err
    assert (checkpoints / "step-00000006" / "manifest.json").exists()
