"""A log with behaviour types and scenarios, from text to a report, stopped and gone on with."""

import json

import numpy as np
import pytest

from tests.commands import dare, dare_without_report, rows_of

WIDTHS = (
    "{item: 8, category: 8, position: 4, interval: 4, features: {behaviour_type: 4, scenario: 8}}"
)
STEPS = 8  # Five steps are an epoch.


def _write_log(path):
    rng = np.random.default_rng(4)
    rows = ["when,who,what,kind,did,page"]
    for user in range(60):
        when = 1_600_000_000 + np.cumsum(rng.exponential(20_000, 30).astype(int))
        for number, second in enumerate(when):
            item = int(rng.integers(40))
            did = ("view", "cart", "buy")[int(rng.integers(3))]
            page = ("home", "search", "")[(user + number // 4) % 3]
            rows.append(f"{second},u{user},i{item},c{item % 7},{did},{page}")
    path.write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same log in both layouts."""
    folder = tmp_path_factory.mktemp("side")
    _write_log(folder / "log.csv")
    for layout in ("user", "request"):
        done = dare(
            "prepare",
            "csv",
            f"--raw={folder / 'log.csv'}",
            f"--out={folder / layout}",
            f"--layout={layout}",
            *("--user_column=who", "--item_column=what", "--category_column=kind"),
            "--time_column=when",
            "--features={behaviour_type: did, scenario: page}",
            "--target_features=[scenario]",
            *("--protocol.min_clicks=30", "--protocol.last_offset=23"),
        )
        assert done.code == 0, done.err
    return folder


def _options(folder, layout="user"):
    data = folder / layout
    return [
        f"--data.layout={layout}",
        *(f"--data.{split}={data / split}" for split in ("train", "val", "test")),
        f"--data.schema={data / 'schema.json'}",
        *("--data.history_length=30", "--data.batch_size=180", "--model.search.top_k=5"),
        f"--model.embeddings.attention={WIDTHS}",
        "--model.embeddings.representation.features={behaviour_type: 4}",
        *("--telemetry.tensorboard=false", "--telemetry.log_every=1", "--loop.epochs=2"),
        f"--out_dir={folder / 'runs'}",
    ]


@pytest.fixture(scope="module")
def straight(folder):
    """A run that was not stopped: its folder and its result."""
    outcome = dare("train", *_options(folder), "--name=straight", f"--loop.steps={STEPS}")
    assert outcome.code == 0, outcome.err
    return folder / "runs" / "straight", outcome.result


def test_the_report_and_the_plan_have_all_tables(straight):
    run, result = straight
    assert result["steps"] == STEPS
    tables = {row["table"] for row in json.loads((run / "plan.json").read_text())}
    assert tables == {
        *(f"attention_{n}" for n in ("item", "category", "interval", "behaviour_type", "scenario")),
        *(f"representation_{n}" for n in ("item", "category", "behaviour_type")),
    }
    report = (run / "report.html").read_text()
    assert all(table in report for table in tables)


def test_resuming_gives_the_losses_of_never_stopping(folder, straight):
    options = [*_options(folder), "--name=stopped"]
    assert dare_without_report("train", *options, "--loop.steps=3").result["steps"] == 3
    resumed = dare_without_report("train", *options, f"--loop.steps={STEPS}", "--resume").result
    for name in ("train/loss", "eval/auc", "eval/logloss"):
        before, after = (rows_of(folder / "runs" / n, name) for n in ("straight", "stopped"))
        assert before[STEPS] == after[STEPS], name
    assert rows_of(folder / "runs" / "stopped", "train/loss") == rows_of(straight[0], "train/loss")
    assert resumed["logloss"] == straight[1]["logloss"]


def test_both_layouts_train_alike(folder, straight):
    options = [*_options(folder, "request"), "--name=request", f"--loop.steps={STEPS}"]
    assert dare_without_report("train", *options).result["logloss"] == straight[1]["logloss"]
    assert rows_of(folder / "runs" / "request", "train/loss") == rows_of(straight[0], "train/loss")


def test_a_saved_plan_is_taken_and_a_checkpoint_scored(folder, straight):
    run, result = straight
    options = [*_options(folder), "--name=given", f"--loop.steps={STEPS}"]
    given = dare_without_report("train", *options, f"--sharding.saved_plan={run / 'plan.json'}")
    assert given.result["logloss"] == result["logloss"]
    scored = dare("evaluate", f"--config={run / 'config.yaml'}", "--at=last").result
    assert 0.3 < scored["auc"] < 1


def test_resuming_with_another_feature_is_refused_by_name(folder, straight):
    options = [*_options(folder), f"--name={straight[0].name}", "--resume"]
    outcome = dare("train", *options, "--model.embeddings.representation.features.scenario=4")
    assert outcome.code == 2
    assert "representation_scenario" in outcome.err


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--model.embeddings.attention.features={page: 4}", "names the feature page; beside item"),
        ("--model.embeddings.attention.interval=3", "interval width is 3"),
        ("--data.feature_rows={scenario: 3}", "give at least 4"),
        ("--data.interval_buckets=55", "at most 54"),
    ],
)
def test_a_mistake_is_told_in_a_line(folder, option, told):
    outcome = dare("train", *_options(folder), option, "--name=wrong")
    (line,) = outcome.err.splitlines()
    assert outcome.code == 2
    assert told in line
    assert not (folder / "runs" / "wrong").exists()


def test_a_plan_without_data_takes_the_rows_of_all_tables():
    options = ["--data.schema=nowhere.json", "--data.item_rows=1000", "--data.category_rows=10"]
    options += ["--model.embeddings.attention.features={scenario: 4}"]
    found = dare("plan", *options, "--data.feature_rows={scenario: 50}").result
    assert {t["table"]: t["rows"] for t in found["tables"]}["attention_scenario"] == 50
    told = dare("plan", *options).err
    assert "data.feature_rows does not say how many rows the table of scenario has" in told
