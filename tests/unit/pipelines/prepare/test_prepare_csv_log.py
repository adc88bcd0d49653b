import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.prepare.csv_log import prepare_csv
from pipelines.prepare.protocol import Protocol

SMALL = Protocol(min_clicks=4, last_offset=3, num_negatives=1)
COLUMNS = {
    "user_column": "who",
    "item_column": "what",
    "category_column": "kind",
    "time_column": "when",
}


def _prepare(path, text, **options):
    raw = path / "log.csv"
    raw.write_text(text)
    out = str(path / "out")
    return prepare_csv(raw=str(raw), out=out, protocol=SMALL, **{**COLUMNS, **options}), out


def _log(times, header="when,who,what,kind,did\n", separator=","):
    rows = [[time, "ann", f"a{n}", "x", "view"] for n, time in enumerate(times)]
    rows += [[time, "bob", f"b{n}", "y", "view"] for n, time in enumerate(times)]
    return header + "".join(separator.join(map(str, row)) + "\n" for row in rows)


def test_text_ids_and_named_columns_give_lives_in_time_order(tmp_path):
    _, out = _prepare(tmp_path, _log([4, 3, 2, 1]))
    row = pq.read_table(f"{out}/test").to_pylist()[0]
    assert row["item"] == [4, 3, 2]
    assert row["requests"][0]["item"][0] == 1
    assert row["requests"][0]["category"] == [1, 2]
    assert pq.read_table(f"{out}/ids/user.parquet")["raw"].to_pylist() == ["ann", "bob"]


def test_iso_days_and_times_are_utc_seconds(tmp_path):
    times = ["1970-01-02", "1970-01-02T00:00:01Z", "1970-01-02T08:00:02+08:00", "86403"]
    schema, out = _prepare(tmp_path, _log(times))
    row = pq.read_table(f"{out}/test").to_pylist()[0]
    assert row["timestamp"] == [86400, 86401, 86402]
    assert row["requests"][0]["timestamp"] == 86403
    assert schema.counts["dropped"]["damaged"] == 0


def test_times_and_ids_that_mean_nothing_are_damaged(tmp_path):
    bad = "soon,ann,a,x,view\n,ann,a,x,view\n5,,a,x,view\n5,ann, ,x,view\n1969-12-31,ann,a,x,view\n"
    _, out = _prepare(tmp_path, _log([1, 2, 3, 4]) + bad)
    with Path(out, "quarantine.csv").open(newline="") as stream:
        reasons = [(int(row[0]), row[1]) for row in list(csv.reader(stream))[1:]]
    time = "when is neither an integer nor an ISO 8601 time from 1970 on"
    assert reasons == [
        (10, time),
        (11, time),
        (12, "who is empty"),
        (13, "what is empty"),
        (14, time),
    ]


def test_without_a_header_columns_go_by_number_and_tabs_are_written_out(tmp_path):
    schema, out = _prepare(
        tmp_path,
        _log([1, 2, 3, 4], header="", separator="\t"),
        delimiter="\\t",
        header=False,
        user_column="2",
        item_column="3",
        category_column="4",
        time_column="1",
        event_column="5",
        events=("view",),
    )
    assert schema.counts["read"] == schema.counts["kept"] == 8
    assert pq.read_table(f"{out}/test")["user_id"].to_pylist() == [1, 2]


def test_other_events_are_dropped_and_counted(tmp_path):
    text = _log([1, 2, 3, 4]) + "9,ann,a9,x,buy\n"
    schema, _ = _prepare(tmp_path, text, event_column="did", events=("view",))
    assert schema.counts["dropped"]["other event"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user_column": "whom"}, "no column whom; its columns are when, who, what, kind, did"),
        ({"time_column": ""}, "--time_column is empty"),
        ({"event_column": "did"}, "give both"),
        ({"events": ("view",)}, "give both"),
        ({"delimiter": "::"}, "--delimiter is '::'; give one ASCII character"),
        ({"quote": "''"}, "--quote is"),
        ({"delimiter": ";"}, r"its columns are when,who,what,kind,did \(delimiter ';'\)"),
    ],
)
def test_wrong_options_say_what_the_file_has(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        _prepare(tmp_path, _log([1, 2, 3, 4]), **options)
