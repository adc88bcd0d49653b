"""Every way to train that a config offers counts each target once and ends with finite metrics."""

import math
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import TARGETS, dare, dare_without_report, data_options, prepare_small, rows_of


def _train(data, out, *options):
    outcome = dare_without_report("train", *data, f"--out_dir={out}", *options)
    result = outcome.result
    assert all(math.isfinite(result[name]) for name in ("auc", "gauc", "ne", "logloss"))
    return outcome, result


@pytest.mark.parametrize(
    "options",
    [
        ["--model.preset=twin"],
        ["--loop.precision=bfloat16"],
        ["--optim.sparse.name=partial_rowwise_adam", "--optim.dense.name=adamw"],
        ["--optim.sparse.name=dense_adam"],
        ["--data.targets=apart"],
        ["--optim.sparse.name=sgd", "--optim.dense.name=sgd", "--optim.dense.clip_norm=1"],
        ["--model.head.norm=layer", "--model.head.auxiliary_weight=0"],
        ["--model.head.inputs=product", "--model.attention.scale=joint"],
        ["--model.embeddings.attention={item: 8, category: 4, position: 0}"],
        ["--model.embeddings.attention_lookup=scored"],
        ["--model.embeddings.representation_lookup=unpooled"],
    ],
    ids=lambda options: options[0][2:],
)
def test_each_way_counts_every_target_once(data, tmp_path, options):
    _, result = _train(data, tmp_path, *options)
    assert result["samples"] == TARGETS["train"]


def test_overlapping_nothing_gives_the_same_run_bit_for_bit(data, tmp_path):
    options = ["--telemetry.log_every=1", "--loop.evaluate_every=4", "--loop.epochs=2"]
    runs = {}
    for overlap in ("plain", "sparse_dist"):
        _, result = _train(
            data, tmp_path, *options, f"--loop.overlap={overlap}", f"--name={overlap}"
        )
        assert result["samples"] == 2 * TARGETS["train"]
        names = ("train/loss", "eval/auc", "eval/logloss")
        runs[overlap] = [rows_of(tmp_path / overlap, name) for name in names]
    assert runs["plain"] == runs["sparse_dist"]


def test_phases_of_a_step_are_written_where_asked_for(data, tmp_path):
    _train(data, tmp_path, "--telemetry.phases=true", "--telemetry.log_every=5")
    run = tmp_path / "run"
    steps = rows_of(run, "train/step_s")
    phases = ["lookup", "search", "pool", "dense", "backward", "optimizer", "data", "id_exchange"]
    for step, whole in steps.items():
        parts = [rows_of(run, f"train/phase_s/{phase}")[step] for phase in phases]
        assert all(part > 0 for part in parts)
        assert sum(parts) < 1.05 * whole
    _train(data, tmp_path, "--name=without")
    assert "phase_s" not in (tmp_path / "without" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--loop.overlap=prefetch", "loop.overlap is prefetch, the device is cpu"),
        ("--sharding.communication.forward=int8", "needs multiples of 32"),
        ("--sharding.communication.backward=int8", "communication.backward"),
    ],
)
def test_what_a_device_or_a_width_cannot_do_does_not_start(data, tmp_path, option, told):
    outcome = dare("train", *data, f"--out_dir={tmp_path / 'runs'}", option)
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert told in line
    assert not (tmp_path / "runs").exists()


def test_the_released_metrics_are_told_in_each_evaluation_where_asked_for(data, tmp_path):
    _, result = _train(data, tmp_path, "--loop.released_metrics=true", "--loop.evaluate_every=5")
    for name in ("auc", "category_auc", "logloss"):
        steps = rows_of(tmp_path / "run", f"eval/{name}_released")
        assert list(steps) == [5, 10]
        assert math.isfinite(result[f"{name}_released"])
    # Scores hardly tie here: half a negative of about 900 is all that parts the two.
    assert 0 < result["auc"] - result["auc_released"] < 1 / 900
    assert result["logloss_released"] > result["logloss"] + 0.3
    scored = dare("evaluate", f"--config={tmp_path / 'run' / 'config.yaml'}").result
    assert scored["auc_released"] == result["auc_released"]
    _, without = _train(data, tmp_path, "--name=without")
    assert "auc_released" not in without
    refused = dare("train", *data, "--loop.released_metrics=true", "--data.workers=2")
    assert "data.workers is 2; at most 1" in refused.err


def test_accuracy_stands_beside_the_other_metrics(data, tmp_path):
    _, result = _train(data, tmp_path, "--loop.evaluate_every=5")
    steps = rows_of(tmp_path / "run", "eval/accuracy")
    assert list(steps) == [5, 10]
    assert 0.5 < steps[10] < 1
    assert 0.5 < result["accuracy"] < 1


def test_a_last_batch_that_is_not_full_is_left_out_of_val_and_test_where_asked_for(data, tmp_path):
    """Of 1,200 targets two batches of 512 stay; training keeps all of its own."""
    run = ["--data.drop_last_evaluation=true", "--loop.steps=2"]
    _train(data, tmp_path, *run)
    config = f"--config={tmp_path / 'run' / 'config.yaml'}"
    assert [dare("evaluate", config, f"--split={s}").result["samples"] for s in TARGETS] == [
        *(TARGETS["train"], 1024, 1024)
    ]
    refused = dare("train", *data, run[0], "--data.batch_size=1201")
    told = [line.partition("leaves ")[2] for line in refused.err.splitlines()]
    assert [line.partition(":")[0] for line in told] == [
        f"nothing of data.{s}" for s in ("val", "test")
    ]


def test_workers_read_every_target_once(data, tmp_path):
    _, result = _train(data, tmp_path, "--data.workers=2")
    assert result["samples"] == TARGETS["train"]


def test_the_schedule_sets_the_rates_of_each_step(data, tmp_path):
    _train(
        data,
        tmp_path,
        "--telemetry.log_every=1",
        "--optim.dense.learning_rate=0.01",
        "--optim.schedule.warmup_steps=2",
        "--optim.schedule.decay=linear",
        "--optim.schedule.decay_steps=4",
    )
    rates = rows_of(tmp_path / "run", "train/learning_rate_dense")
    expected = [0.005, 0.01, 0.01, 0.0075, 0.005, 0.0025, 0, 0, 0, 0]
    assert list(rates.values()) == pytest.approx(expected)


def test_evaluations_come_when_they_are_due(data, tmp_path):
    _train(data, tmp_path, "--loop.evaluate_every=4")
    assert list(rows_of(tmp_path / "run", "eval/auc")) == [4, 8, 10]


def test_without_a_test_split_val_is_scored(data, tmp_path):
    _, result = _train(data, tmp_path, "--data.test=")
    assert result["split"] == "val"
    assert result["auc"] == result["val_auc"]


def test_hashed_ids_train_and_their_collisions_are_told(data, tmp_path):
    outcome, result = _train(data, tmp_path, "--data.ids=hash", "--data.item_rows=50")
    assert result["samples"] == TARGETS["train"]
    told = [line for line in outcome.err.splitlines() if "share a row" in line]
    assert len(told) == 2  # Of items and of categories, of the training split alone.
    # 100 ids in the 49 rows that hashing uses: at least 51 must share.
    assert int(told[0].split("hash: ")[1].split(" ")[0]) >= 51


@pytest.mark.parametrize(("rows", "known"), [(0, True), (7, False), (40, False)])
def test_planted_attention_is_shown_only_where_categories_are_its_own(data, tmp_path, rows, known):
    """Hashed categories are other numbers, some beyond the planted ones."""
    hashed = ["--data.ids=hash", f"--data.category_rows={rows}"] if rows else []
    with mock.patch("trainer.report.report.write_report") as write:
        outcome = dare("train", *data, f"--out_dir={tmp_path}", "--loop.steps=2", *hashed)
    assert outcome.code == 0, outcome.err
    shown = write.call_args.args[0].attention
    assert (shown.planted_category_weight is not None) == known


def test_parquet_of_ones_own_trains_once_it_is_described(dataset, tmp_path):
    """Files alone, of items that are no rows of a table."""
    own = tmp_path / "own"
    for split in TARGETS:
        (own / split).mkdir(parents=True)
        (file,) = (dataset / split).glob("*.parquet")
        table = pq.read_table(file)
        far = [[item << 40 for item in life] for life in table["item"].to_pylist()]
        far = pa.array(far, table.schema.field("item").type)
        place = table.column_names.index("item")
        pq.write_table(
            table.set_column(place, table.schema.field("item"), far), own / split / "x.parquet"
        )
    described = dare("prepare", "parquet", f"--out={own}")
    assert (described.code, described.out) == (0, f"{own / 'schema.json'}\n")
    assert "item ids" in described.err
    options = data_options(own)
    unhashed = dare("train", *options, f"--out_dir={tmp_path / 'a'}")
    assert unhashed.code == 2
    assert "set data.ids to hash" in unhashed.err
    _, result = _train(options, tmp_path / "b", "--data.ids=hash")
    assert result["samples"] == TARGETS["train"]


def test_the_layout_changes_nothing_but_the_files(data, tmp_path):
    """The same requests, one row each: an unshuffled pass scores the same targets."""
    folder = prepare_small(tmp_path / "requests", "--layout=request")
    options = [*data_options(folder), "--data.layout=request"]
    _, requests = _train(options, tmp_path / "a", "--data.shuffle_requests=0")
    _, users = _train(data, tmp_path / "b", "--data.shuffle_requests=0")
    assert requests["samples"] == users["samples"] == TARGETS["train"]
    assert requests["auc"] == pytest.approx(users["auc"], abs=1e-6)
    assert requests["logloss"] == pytest.approx(users["logloss"], abs=1e-6)
