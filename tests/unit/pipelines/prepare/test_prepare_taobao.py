import csv
import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.columns import check_columns
from pipelines.prepare import build, raw_file
from pipelines.prepare.event_store import Resources
from pipelines.prepare.protocol import Protocol
from pipelines.prepare.taobao import prepare_taobao
from pipelines.schema import load_schema

SAMPLE = (
    Path(__file__).parents[4] / "../shared/data/taobao-sample/UserBehavior_ubr4ctr_head5000.csv"
)
NOON = 1511582400  # 2017-11-25 12:00 in China
FIRST, LAST = 1511539200, 1512316799  # first and last second of the nine days in China
SMALL = Protocol(min_clicks=4, last_offset=3, num_negatives=1)


def _write(path, rows):
    raw = path / "UserBehavior.csv"
    raw.write_text(
        "".join(f"{user},{item},{cat},{kind},{t}\n" for user, item, cat, kind, t in rows)
    )
    return str(raw)


def _rows(out, split):
    return pq.read_table(f"{out}/{split}").to_pylist()


def _life(user, times, *, first_item):
    return [(user, first_item + n, 7, "pv", NOON + t) for n, t in enumerate(times)]


def test_ids_count_from_one_by_first_appearance_and_lives_are_sorted_stably(tmp_path):
    # Users 90 and 80; the life of 90 is out of order and has a tie that keeps file order.
    rows = _life(90, [50, 10, 10, 20, 0], first_item=500) + _life(80, [1, 2, 3, 4], first_item=300)
    out = str(tmp_path / "out")
    schema = prepare_taobao(raw=_write(tmp_path, rows), out=out, protocol=SMALL)
    first, second = _rows(out, "test")
    assert (first["user_id"], second["user_id"]) == (1, 2)
    assert first["item"] == [5, 2, 3, 4]
    assert first["requests"][0]["item"][0] == 1
    assert first["timestamp"] == [NOON, NOON + 10, NOON + 10, NOON + 20]
    assert second["item"] == [6, 7, 8]
    assert schema.tables["item"].rows == 10
    assert schema.tables["category"].rows == 2
    ids = pq.read_table(f"{out}/ids/item.parquet").to_pylist()
    assert ids[0] == {"id": 1, "raw": 500, "clicks": 1}
    assert [row["raw"] for row in ids] == [500, 501, 502, 503, 504, 300, 301, 302, 303]


def test_the_order_of_the_file_can_be_trusted_instead(tmp_path):
    rows = _life(90, [50, 10, 10, 20], first_item=500) + _life(80, [1, 2, 3, 4], first_item=300)
    out = str(tmp_path / "out")
    protocol = dataclasses.replace(SMALL, order="file")
    prepare_taobao(raw=_write(tmp_path, rows), out=out, protocol=protocol)
    assert _rows(out, "test")[0]["item"] == [1, 2, 3]


def test_every_row_is_kept_or_dropped_for_one_reason(tmp_path):
    rows = [
        *_life(1, [1, 2, 3, 4], first_item=10),
        *_life(2, [1, 2, 3, 4], first_item=20),
        *_life(3, [1, 2, 3], first_item=30),  # too few
        (1, 10, 7, "buy", NOON),
        (1, 10, 7, "cart", FIRST - 1),  # one reason only: not wanted at all
        (1, 10, 7, "pv", FIRST - 1),
        (1, 10, 7, "pv", LAST + 1),
        (1, 11, 7, "pvv", NOON),
        (4, 10, 9, "pv", FIRST),
        (4, 10, 7, "pv", LAST),
        (4, 10, 7, "pv", LAST),  # repeated
    ]
    raw = _write(tmp_path, rows)
    schema = prepare_taobao(raw=raw, out=str(tmp_path / "a"), protocol=SMALL)
    assert schema.counts == {
        "read": 19,
        "kept": 8,
        "dropped": {
            "damaged": 1,
            "event buy": 1,
            "event cart": 1,
            "outside the days": 2,
            "user with too few clicks": 6,
            "user without a possible negative": 0,
        },
        "repeated": 1,
        "users": 4,
        "users_kept": 2,
        "items_with_two_categories": 1,
        "requests_without_history": 0,
    }
    assert load_schema(str(tmp_path / "a" / "schema.json")) == schema
    with (tmp_path / "a" / "quarantine.csv").open(newline="") as stream:
        assert list(csv.reader(stream))[1] == [
            "16",
            "behavior_type is none of pv, buy, cart, fav",
            f"1,11,7,pvv,{NOON}",
        ]
    dropping = dataclasses.replace(SMALL, repeated="drop")
    dropped = prepare_taobao(raw=raw, out=str(tmp_path / "b"), protocol=dropping).counts
    assert (dropped["dropped"]["repeated"], dropped["dropped"]["user with too few clicks"]) == (
        1,
        5,
    )
    assert dropped["kept"] + sum(dropped["dropped"].values()) == dropped["read"] == 19


def test_a_negative_has_the_category_its_item_was_last_seen_with(tmp_path):
    rows = _life(1, [1, 2, 3, 4], first_item=10)
    rows += [(2, 99, 8, "pv", NOON + 9), (2, 99, 5, "pv", NOON), (2, 99, 5, "pv", NOON)]
    out = str(tmp_path / "out")
    prepare_taobao(raw=_write(tmp_path, rows), out=out, protocol=SMALL)
    request = _rows(out, "test")[0]["requests"][0]
    # Item 99 is the fifth item, the only one left; category 5 is the third and seen last.
    assert request["item"] == [4, 5]
    assert request["category"] == [1, 3]


def _random_log(path, seed=0, rows=3000):
    rng = np.random.default_rng(seed)
    columns = (
        rng.integers(1, 40, rows),
        rng.integers(1, 400, rows),
        rng.integers(1, 30, rows),
        rng.choice(["pv", "buy"], rows, p=[0.9, 0.1]),
        rng.integers(FIRST, FIRST + 3600, rows),
    )
    return _write(path, list(zip(*(column.tolist() for column in columns), strict=True)))


def _checksums(schema):
    return {f.path: f.sha256 for split in schema.splits.values() for f in split.files}


@pytest.mark.parametrize("layout", ["user", "request"])
def test_the_same_log_and_seed_give_the_same_bytes_whatever_the_threads(
    tmp_path, monkeypatch, layout
):
    raw = _random_log(tmp_path)
    protocol = Protocol(min_clicks=50, last_offset=43)
    monkeypatch.setattr(build, "CHUNK_BEHAVIOURS", 500)
    found = []
    for number, (threads, block_bytes) in enumerate([(1, 1 << 20), (1, 999), (4, 5000)]):
        monkeypatch.setattr(raw_file, "BLOCK_BYTES", block_bytes)
        out = str(tmp_path / str(number))
        schema = prepare_taobao(
            raw=raw, out=out, protocol=protocol, layout=layout, resources=Resources(threads=threads)
        )
        found.append(_checksums(schema))
    assert found[0] == found[1] == found[2]
    other = prepare_taobao(
        raw=raw, out=str(tmp_path / "other"), protocol=protocol, layout=layout, seed=2
    )
    assert all(other_sum != found[0][path] for path, other_sum in _checksums(other).items())


def test_no_negative_was_ever_clicked_before_or_after(tmp_path):
    raw = _random_log(tmp_path)
    out = str(tmp_path / "out")
    prepare_taobao(raw=raw, out=out, protocol=Protocol(min_clicks=30, last_offset=28))
    for train, test in zip(_rows(out, "train"), _rows(out, "test"), strict=True):
        clicked = {*test["item"], test["requests"][0]["item"][0]}
        for request in [*train["requests"], *test["requests"]]:
            assert not clicked & set(request["item"][1:])


def test_the_request_layout_keeps_the_newest_behaviours_of_the_same_requests(tmp_path):
    raw = _random_log(tmp_path)
    protocol = Protocol(min_clicks=50, last_offset=43)
    for layout in ("user", "request"):
        out = str(tmp_path / layout)
        prepare_taobao(raw=raw, out=out, protocol=protocol, layout=layout, history_length=20)
        schema = pq.read_schema(f"{out}/train/part-00000.parquet")
        check_columns(schema, layout, out)
    wanted = [
        (row["item"][max(0, r["history_end"] - 20) : r["history_end"]], r["item"], r["timestamp"])
        for row in _rows(tmp_path / "user", "train")
        for r in row["requests"]
    ]
    found = [
        (row["history_item"], row["item"], row["timestamp"])
        for row in _rows(tmp_path / "request", "train")
    ]
    assert found == wanted


@pytest.mark.parametrize("layout", ["user", "request"])
def test_the_schema_tells_the_lengths_that_the_files_hold(tmp_path, layout):
    protocol = Protocol(min_clicks=50, last_offset=43)
    raw, out = _random_log(tmp_path), str(tmp_path / "out")
    schema = prepare_taobao(raw=raw, out=out, protocol=protocol, layout=layout, history_length=20)
    for split in ("train", "val", "test"):
        lengths = (
            [r["history_end"] for row in _rows(tmp_path / "out", split) for r in row["requests"]]
            if layout == "user"
            else [len(row["history_item"]) for row in _rows(tmp_path / "out", split)]
        )
        told = schema.splits[split].history_length
        assert told["mean"] == pytest.approx(sum(lengths) / len(lengths))
        assert told["max"] == max(lengths)
        assert layout == "user" or told["max"] == 20


def test_a_log_without_enough_clicks_says_which_option_to_lower(tmp_path):
    raw = _write(tmp_path, _life(1, [1, 2, 3], first_item=1))
    with pytest.raises(ValueError, match=r"none of the 1 users .* --protocol.min_clicks is 210"):
        prepare_taobao(raw=raw, out=str(tmp_path / "out"))


def test_a_log_with_no_wanted_row_says_why(tmp_path):
    raw = _write(tmp_path, [(1, 1, 1, "buy", NOON)])
    with pytest.raises(ValueError, match=r"1 rows and none is left: .*'event buy': 1"):
        prepare_taobao(raw=raw, out=str(tmp_path / "out"))


def test_an_unfinished_or_finished_dataset_is_never_written_over(tmp_path):
    raw, out = _random_log(tmp_path), tmp_path / "out"
    protocol = Protocol(min_clicks=50, last_offset=43)
    prepare_taobao(raw=raw, out=str(out), protocol=protocol)
    with pytest.raises(ValueError, match="already holds a dataset"):
        prepare_taobao(raw=raw, out=str(out), protocol=protocol)
    (out / "schema.json").unlink()
    with pytest.raises(ValueError, match="unfinished dataset"):
        prepare_taobao(raw=raw, out=str(out), protocol=protocol)


def test_nothing_but_the_dataset_is_left_behind(tmp_path):
    out = tmp_path / "out"
    prepare_taobao(
        raw=_random_log(tmp_path), out=str(out), protocol=Protocol(min_clicks=50, last_offset=43)
    )
    names = {"train", "val", "test", "ids", "schema.json", "quarantine.csv"}
    assert {path.name for path in out.iterdir()} == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"events": ("pv", "click")}, "--events is .*pv, buy, cart, fav"),
        ({"events": ()}, "--events"),
        ({"first_day": "25.11.2017"}, "--first_day is '25.11.2017'; give a day such as"),
        ({"first_day": "2017-12-04"}, "after --last_day"),
        ({"utc_offset_hours": 15}, "--utc_offset_hours is 15"),
        ({"history_length": 0}, "--history_length is 0; it must be at least 1"),
    ],
)
def test_an_option_out_of_range_is_refused_before_reading(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_taobao(raw=str(tmp_path / "none.csv"), out=str(tmp_path / "out"), **options)


def _reference(path, min_clicks, offsets):
    """The paper's protocol over plain lists, written apart from the program."""
    lives, item_ids, category_ids = {}, {}, {}
    for user, item, category, kind, time in csv.reader(path.open(newline="")):
        if kind == "pv" and FIRST <= int(time) <= LAST:
            item_id = item_ids.setdefault(item, len(item_ids) + 1)
            category_id = category_ids.setdefault(category, len(category_ids) + 1)
            lives.setdefault(user, []).append((int(time), item_id, category_id))
    requests = []
    for number, life in enumerate(lives.values(), start=1):
        if len(life) >= min_clicks:
            life = sorted(life, key=lambda click: click[0])
            for offset in offsets:
                at = len(life) - offset
                if at >= 1:
                    requests.append((number, at, life[at], life[:at]))
    return requests, len(item_ids), len(category_ids), sum(map(len, lives.values()))


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample of real rows is not there")
@pytest.mark.parametrize(
    ("split", "offsets"), [("train", range(48, 2, -5)), ("val", [2]), ("test", [1])]
)
def test_real_rows_give_the_requests_of_a_plain_reading_of_the_protocol(tmp_path, split, offsets):
    out = str(tmp_path / "out")
    schema = prepare_taobao(
        raw=str(SAMPLE), out=out, protocol=Protocol(min_clicks=60, last_offset=48)
    )
    wanted, items, categories, clicks = _reference(SAMPLE, 60, offsets)
    found = []
    for row in _rows(out, split):
        life = list(zip(row["timestamp"], row["item"], row["category"], strict=True))
        for r in row["requests"]:
            target = (r["timestamp"], r["item"][0], r["category"][0])
            found.append((row["user_id"], r["history_end"], target, life[: r["history_end"]]))
    assert found == wanted
    assert (schema.tables["item"].rows, schema.tables["category"].rows) == (
        items + 1,
        categories + 1,
    )
    dropped = Counter(schema.counts["dropped"])
    assert dropped["outside the days"] == 1
    assert schema.counts["kept"] == clicks - dropped["user with too few clicks"]
