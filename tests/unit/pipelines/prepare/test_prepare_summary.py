from dataclasses import replace

import pytest

from pipelines.prepare.summary import format_summary
from pipelines.schema import DatasetSchema, SplitInfo, TableInfo


def _schema(dropped):
    split = SplitInfo(
        rows=1000,
        requests=19_000,
        targets=57_000,
        positives=19_000,
        history_length={"mean": 180.0, "p50": 190.0, "p90": 400.0, "p99": 500.0, "max": 600.0},
        files=[],
    )
    return DatasetSchema(
        source="tmall",
        layout="user",
        seed=3,
        protocol={"out": "data/tmall"},
        tables={"item": TableInfo(rows=1_080_667, distinct=1_080_666)},
        splits={"train": split},
        counts={
            "read": 2000,
            "kept": 2000 - sum(dropped.values()),
            "dropped": dropped,
            "repeated": 5,
            "users": 60,
            "users_kept": 50,
            "items_with_two_categories": 2,
            "requests_without_history": 0,
        },
    )


def test_the_summary_accounts_for_every_row_and_says_what_to_type_next():
    text = format_summary(_schema({"damaged": 0, "event 2": 500}), "data/tmall")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "rows read 2,000" in lines
    assert "dropped: event 2 500 25.00%" in lines
    assert "rows kept 1,500 75.00%" in lines
    assert "users kept 50" in lines
    assert "train 1,000 19,000 57,000 0.3333 190 600" in lines
    assert "item table 1,080,667 rows, 1,080,666 ids and padding" in lines
    assert "next dare train --config launch/recipes/tmall_dare.yaml" in lines
    assert "quarantine" not in text


@pytest.mark.parametrize(
    ("oracle", "told"),
    [
        ({"train": 0.75, "train_logloss": 0.5}, ["best possible AUC train 0.75000"]),
        ({"train_logloss": 0.5}, []),
    ],
)
def test_a_split_of_one_class_has_no_best_auc(oracle, told):
    schema = _schema({"damaged": 0})
    splits = schema.splits | {"test": schema.splits["train"]}
    text = format_summary(replace(schema, splits=splits, oracle=oracle), "data/tmall")
    found = [" ".join(line.split()) for line in text.splitlines() if "best possible" in line]
    assert found == told


def test_the_summary_says_where_damaged_rows_are():
    assert "damaged rows are in data/tmall/quarantine.csv" in format_summary(
        _schema({"damaged": 1}), "data/tmall"
    )


def test_the_next_command_names_data_that_is_not_where_the_recipe_looks():
    text = format_summary(_schema({"damaged": 0}), "/logs/tmall")
    assert (
        "next        dare train --config launch/recipes/tmall_dare.yaml --data.layout user "
        "--data.schema /logs/tmall/schema.json --data.train /logs/tmall/train"
    ) in text


def test_the_summary_tells_what_the_newest_behaviours_allow_where_that_is_known():
    oracle = {"train": 0.9, "train_logloss": 0.4, "train_newest_20000": 0.8125}
    text = format_summary(replace(_schema({"damaged": 0}), oracle=oracle), "data/tmall")
    told = [" ".join(line.split()) for line in text.splitlines()]
    at = told.index("best possible AUC train 0.90000")
    assert told[at + 1 : at + 3] == ["train, newest 20,000 0.81250", ""]
