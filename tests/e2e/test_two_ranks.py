"""Two processes under torchrun, as the README starts them."""

import math
import shutil

import pytest

from tests.commands import TARGETS, dare_on_ranks, dare_without_report, rows_of
from tests.torchrun import on_two_ranks


@pytest.mark.dist
def test_bench_trains_on_two_ranks_and_prints_once(tmp_path):
    sizes = ["--items=500", "--history_length=8", "--top_k=4", "--batch_size=64", "--steps=2"]
    result, _ = on_two_ranks("bench", "train", *sizes, "--repeats=2", f"--folder={tmp_path}")
    assert result["ranks"] == 2
    assert result["samples_per_s"] > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.dist
def test_two_ranks_train_every_target_once(data, tmp_path):
    result, _ = on_two_ranks("train", *data, f"--out_dir={tmp_path}", "--telemetry.exchange_step=3")
    assert (result["ranks"], result["samples"]) == (2, TARGETS["train"])
    sent = rows_of(tmp_path / "run", "train/exchange_bytes/pooled_weights")
    (size,) = sent.values()
    assert size > 0
    alone = dare_without_report("train", *data, f"--out_dir={tmp_path / 'alone'}").result
    assert set(result) == set(alone)
    assert all(math.isfinite(result[name]) for name in ("auc", "gauc", "ne", "logloss"))
    assert result["gauc_users"] == alone["gauc_users"]


@pytest.mark.dist
def test_an_epoch_begun_by_two_ranks_is_gone_on_with_by_one_and_ended_by_two(data, tmp_path):
    options = [*data, f"--out_dir={tmp_path}", "--data.batch_size=256", "--telemetry.log_every=1"]
    some = ["--loop.steps=3", "--checkpoint.asynchronous=true"]
    first = dare_on_ranks(2, "train", *options, *some).result
    assert (first["steps"], first["ranks"]) == (3, 2)
    second = dare_without_report("train", *options, "--loop.steps=7", "--resume").result
    assert (second["steps"], second["ranks"]) == (7, 1)
    assert second["samples"] == 3 * 2 * 256 + 4 * 256
    ended = dare_on_ranks(2, "train", *options, "--resume")
    third = ended.result
    assert "1 readers have begun the epoch, 2 go on" in ended.err
    assert (third["samples"], third["ranks"]) == (TARGETS["train"], 2)
    losses = list(rows_of(tmp_path / "run", "train/loss").values())
    assert len(losses) == third["steps"]
    assert losses[-1] < losses[0]
    assert 0.5 < third["auc"] < 1
    assert third["logloss"] < math.log(2)
    imbalance = rows_of(tmp_path / "run", "train/behaviour_imbalance")
    assert all(1 <= value <= 2 for value in imbalance.values())


@pytest.mark.dist
def test_a_log_point_tells_what_was_counted_before_the_checkpoint_too(data, tmp_path):
    """Log point at 20 steps, a checkpoint at 12, bytes between ranks counted at 10."""
    options = [*data, f"--out_dir={tmp_path}", "--data.batch_size=64", "--loop.steps=20"]
    options += ["--checkpoint.every=12", "--telemetry.exchange_step=10"]
    counted = ("train/behaviour_imbalance", "train/exchange_bytes/pooled_weights")
    assert dare_on_ranks(2, "train", *options).code == 0
    straight = [rows_of(tmp_path / "run", name) for name in counted]
    assert [list(rows) for rows in straight] == [[20], [20]]
    assert straight[0][20] > 1
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000020")
    resumed = dare_on_ranks(2, "train", *options, "--resume")
    assert "step-00000012 at step 12" in resumed.err
    imbalance, sent = (rows_of(tmp_path / "run", name) for name in counted)
    assert imbalance == pytest.approx(straight[0])
    assert sent == straight[1]


@pytest.mark.dist
def test_evaluating_and_saving_on_the_way_change_nothing_on_two_ranks(data, tmp_path):
    """Batches in flight go on as they were, with the ids that were sent for them."""
    options = [*data, f"--out_dir={tmp_path}", "--telemetry.log_every=1", "--loop.epochs=2"]
    stops = ["--loop.evaluate_every=2", "--checkpoint.every=3"]
    straight = dare_on_ranks(2, "train", *options, "--name=straight").result
    stopping = dare_on_ranks(2, "train", *options, "--name=stopping", *stops).result
    assert straight["samples"] == stopping["samples"] == 2 * TARGETS["train"]
    losses = rows_of(tmp_path / "straight", "train/loss")
    assert len(losses) == 10
    assert rows_of(tmp_path / "stopping", "train/loss") == losses
    assert list(rows_of(tmp_path / "stopping", "eval/auc")) == [2, 4, 6, 8, 10]
