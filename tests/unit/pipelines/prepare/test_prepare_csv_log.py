import csv
import dataclasses
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from pipelines.prepare.csv_log import prepare_csv
from pipelines.prepare.event_store import EventStore
from pipelines.prepare.protocol import Protocol
from pipelines.prepare.summary import format_summary
from pipelines.schema import load_schema

SMALL = Protocol(min_clicks=4, last_offset=3, num_negatives=1)
COLUMNS = {
    "user_column": "who",
    "item_column": "what",
    "category_column": "kind",
    "time_column": "when",
}


def _prepare(path, text, protocol=SMALL, **options):
    raw = path / "log.csv"
    raw.write_text(text)
    out = str(path / "out")
    return prepare_csv(raw=str(raw), out=out, protocol=protocol, **{**COLUMNS, **options}), out


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


@pytest.mark.parametrize(
    "times",
    [
        ["1970-01-02", "1970-01-02T00:00:01Z", "1970-01-02T08:00:02+08:00", "86403"],
        [" 86400", "86401 ", "\t86402", " 86403 "],
        [" 86400", " 1970-01-02T00:00:01Z", "1970-01-02T08:00:02+08:00 ", "86403 "],
    ],
)
def test_times_are_utc_seconds_and_blanks_around_them_no_damage(tmp_path, times):
    schema, out = _prepare(tmp_path, _log(times))
    row = pq.read_table(f"{out}/test").to_pylist()[0]
    assert row["timestamp"] == [86400, 86401, 86402]
    assert row["requests"][0]["timestamp"] == 86403
    assert schema.counts["dropped"]["damaged"] == 0


@pytest.mark.parametrize(
    ("times", "first", "written"),
    [
        (["20171101", "20171102", "20171103", "20171104"], "20171101", "2017-11-01"),
        (["201711011230", "201711011231", "201711011232", "201711011233"], None, "2017-11-01"),
        (["2017110112", "2017110113", "2017110114", "2017110115"], None, "2017-11-01"),
        (["20171101123000", "20171101123001", "x", "20171101123003"], None, "2017-11-01"),
        (["20171101123000000", "20171101123000001", "0", "0"], None, "2017-11-01"),
        # A day that no year has, and what stands for no time, do not hide the others.
        (["20171131", "20171101", "20171102", "0"], "20171101", "2017-11-01"),
        (["2017-11-01", "2017-11-02T00:00:01", "20171103", "5"], "20171103", "2017-11-03"),
    ],
)
def test_days_as_digits_alone_are_refused(tmp_path, times, first, written):
    message = f"--time_column when has {first or times[0]}: digits alone are seconds .* {written}$"
    with pytest.raises(ValueError, match=message):
        _prepare(tmp_path, _log(times))


@pytest.mark.parametrize(
    "times",
    [
        [1, 2, 3, 4],
        # Half of a count could be days; a 13th month and a 32nd day are none.
        [20_171_030, 20_171_031, 20_171_032, 20_171_033],
        [20_171_301, 20_171_302, 20_171_303, 20_171_304],
        [1_509_494_400, 1_509_494_401, 1_509_494_402, 1_509_494_403],
        [1_509_494_400_000, 1_509_494_400_001, 1_509_494_400_002, 1_509_494_400_003],
    ],
)
def test_other_numbers_are_times_as_they_are(tmp_path, times):
    schema, out = _prepare(tmp_path, _log(times))
    assert pq.read_table(f"{out}/test").to_pylist()[0]["timestamp"] == times[:3]
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


def test_what_the_largest_seed_leaves_is_a_schema(tmp_path):
    schema, out = _prepare(tmp_path, _log([1, 2, 3, 4]), seed=1 << 62)
    assert load_schema(f"{out}/schema.json") == schema
    assert schema.seed == 1 << 62


def test_other_events_are_dropped_and_counted(tmp_path):
    text = _log([1, 2, 3, 4]) + "9,ann,a9,x,buy\n"
    schema, _ = _prepare(tmp_path, text, event_column="did", events=("view",))
    assert schema.counts["dropped"]["other event"] == 1


SIDE = {"features": {"behaviour_type": "did", "order": "page"}}


def _log_with_pages():
    """Two lives of four: ann's clicks view, buy, view, fav on pages a, none, a, b; bob's a buy."""
    kinds = [("view", "a"), ("buy", ""), ("view", "a"), ("fav", "b")]
    rows = [f"{n},ann,a{n},x,{kind},{page}\n" for n, (kind, page) in enumerate(kinds)]
    rows += [f"{n},bob,b{n},y,buy,b\n" for n in range(4)]
    return "when,who,what,kind,did,page\n" + "".join(rows)


@pytest.mark.parametrize("layout", ["user", "request"])
def test_features_are_numbered_by_first_appearance_an_empty_text_as_well(tmp_path, layout):
    """One is called by a word of SQL."""
    options = {**SIDE, "target_features": ("order",), "layout": layout}
    schema, out = _prepare(tmp_path, _log_with_pages(), **options)
    for name, raw in (("behaviour_type", ["view", "buy", "fav"]), ("order", ["a", "", "b"])):
        assert pq.read_table(f"{out}/ids/{name}.parquet")["raw"].to_pylist() == raw
        assert (schema.tables[name].rows, schema.tables[name].distinct) == (4, 3)
    ann, bob = pq.read_table(f"{out}/test").to_pylist()
    prefix = "" if layout == "user" else "history_"
    assert (ann[f"{prefix}behaviour_type"], ann[f"{prefix}order"]) == ([1, 2, 1], [1, 2, 1])
    assert (bob[f"{prefix}behaviour_type"], bob[f"{prefix}order"]) == ([2] * 3, [3] * 3)
    shown = ann["requests"][0] if layout == "user" else ann
    # The negative is shown where the click was: its page tells nothing of the label.
    assert (shown["label"], shown["order"]) == ([1, 0], [3, 3])
    assert "behaviour_type" not in (shown if layout == "user" else [])
    assert schema.protocol["features"] == SIDE["features"]
    assert load_schema(f"{out}/schema.json") == schema
    told = format_summary(schema, out)
    assert "--model.embeddings.attention.features '{behaviour_type: 4, order: 4}'" in told


def test_features_may_be_called_as_the_event_store_calls_its_own_columns(tmp_path):
    names = ("id", "raw", "clicks", "first_line", "e", "u", "events", "item_ids", "two_categories")
    protocol = dataclasses.replace(SMALL, repeated="drop")
    features = dict.fromkeys(names, "did")
    schema, out = _prepare(tmp_path, _log_with_pages(), protocol=protocol, features=features)
    ann, bob = pq.read_table(f"{out}/test").to_pylist()
    for name in names:
        ids = pq.read_table(f"{out}/ids/{name}.parquet").to_pydict()
        assert ids == {"id": [1, 2, 3], "raw": ["view", "buy", "fav"], "clicks": [2, 5, 1]}
        assert (ann[name], bob[name]) == ([1, 2, 1], [2, 2, 2])
        assert schema.tables[name].distinct == 3


def test_a_failure_of_the_event_store_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    def fail(_store):
        raise duckdb.OutOfMemoryException("could not allocate 3 blocks")

    monkeypatch.setattr(EventStore, "number_ids", fail)
    wanted = r"event store .*could not allocate 3 blocks; .*--resources\.memory_gb \(now 3\.0\)"
    with pytest.raises(RuntimeError, match=wanted):
        _prepare(tmp_path, _log([1, 2, 3, 4]))


def test_rows_that_differ_in_a_feature_are_no_repetition(tmp_path):
    text = _log_with_pages() + "3,ann,a3,x,fav,b\n" + "3,ann,a3,x,fav,c\n"
    protocol = dataclasses.replace(SMALL, repeated="drop")
    schema, _ = _prepare(tmp_path, text, protocol=protocol, **SIDE)
    assert schema.counts["dropped"]["repeated"] == 1
    assert schema.tables["order"].distinct == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user_column": "whom"}, "no column whom; its columns are when, who, what, kind, did"),
        ({"time_column": ""}, "--time_column is empty"),
        ({"event_column": "did"}, "give both"),
        ({"events": ("view",)}, "give both"),
        ({"delimiter": "::"}, "--delimiter is '::'; give one ASCII character"),
        ({"quote": "''"}, "--quote is"),
        ({"features": {"kind": ""}}, "--features has kind: ''; give the column"),
        ({"features": {"Kind": "did"}}, "lower-case letters"),
        ({"features": {"item": "did"}}, "--features has item: 'did'"),
        ({"features": {"event": "did"}}, "none of line, user, item, category, event, time"),
        ({"features": {"label": "did"}}, "--features has label: 'did'"),
        ({"features": {"history_item": "did"}}, "does not begin with history_ or target_"),
        ({"features": {"target_item": "did"}}, "does not begin with history_ or target_"),
        ({"features": {"page": "page"}}, "no column page; its columns are when, who, what"),
        ({"target_features": ("page",)}, "--target_features has page; --features are none"),
        (
            {"seed": (1 << 62) + 1},
            "--seed is 4611686018427387905; it must be at most 4611686018427",
        ),
        ({"history_length": 10**19}, "--history_length is 10{19}; it must be at most 461168601842"),
        ({"delimiter": ";"}, r"its columns are when,who,what,kind,did \(delimiter ';'\)"),
    ],
)
def test_wrong_options_say_what_the_file_has(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        _prepare(tmp_path, _log([1, 2, 3, 4]), **options)
