import csv
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.prepare.protocol import Protocol
from pipelines.prepare.tmall import prepare_tmall

SAMPLE = Path(__file__).parents[4] / "../shared/data/tmall-sample/user_log_format1_layout.csv"
HEADER = "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type\n"
SMALL = Protocol(min_clicks=4, last_offset=3, num_negatives=1)
OTHERS = "".join(f"9,{item},5,1,1,0601,0\n" for item in (70, 71, 72, 73))


def _prepare(path, rows, **options):
    raw = path / "user_log_format1.csv"
    raw.write_text(HEADER + rows)
    out = str(path / "out")
    return prepare_tmall(raw=str(raw), out=out, protocol=SMALL, **options), out


def _rows(out, split):
    return pq.read_table(f"{out}/{split}").to_pylist()


def _china_day(month, day):
    return int(datetime(2014, month, day, tzinfo=UTC).timestamp()) - 8 * 3600


def test_days_with_and_without_a_leading_zero_are_the_same_day_and_ties_keep_file_order(tmp_path):
    rows = (
        "1,20,3,5,,1111,0\n"  # newest, without a brand
        "1,21,3,5,6,0829,0\n"
        "1,22,3,5,6,829,0\n"
        "1,23,3,5,6,0829,0\n"
        "1,24,3,5,6,511,0\n"
    )
    schema, out = _prepare(tmp_path, rows + OTHERS)
    row = _rows(out, "test")[0]
    # Items in file order are 1..5: item 24 (5) is oldest, 20 (1) newest.
    assert row["item"] == [5, 2, 3, 4]
    assert row["requests"][0]["item"][0] == 1
    assert row["timestamp"] == [_china_day(5, 11), *[_china_day(8, 29)] * 3]
    assert row["requests"][0]["timestamp"] == _china_day(11, 11)
    assert schema.counts["dropped"]["damaged"] == 0


def test_only_clicks_count_and_what_is_no_day_is_damaged(tmp_path):
    rows = "1,20,3,5,6,1111,2\n1,20,3,5,6,0230,0\n1,20,3,5,6,1301,0\n1,20,3,5,6,1111,7\n"
    schema, out = _prepare(tmp_path, rows + OTHERS + OTHERS.replace("9,7", "8,6"))
    assert schema.counts["read"] == 12
    assert schema.counts["dropped"]["event 2"] == 1
    with Path(out, "quarantine.csv").open(newline="") as stream:
        reasons = [(row[0], row[1]) for row in csv.reader(stream)][1:]
    assert reasons == [
        ("3", "time_stamp is not a day of 2014 written as MMDD"),
        ("4", "time_stamp is not a day of 2014 written as MMDD"),
        ("5", "action_type is none of 0, 1, 2, 3"),
    ]


def test_days_outside_a_window_are_dropped(tmp_path):
    rows = "1,20,3,5,6,0531,0\n1,20,3,5,6,0602,0\n" + OTHERS + OTHERS.replace("9,7", "8,6")
    schema, _ = _prepare(tmp_path, rows, first_day="2014-06-01", last_day="2014-06-01")
    assert schema.counts["dropped"]["outside the days"] == 2


def test_a_year_before_the_epoch_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--year is 14"):
        _prepare(tmp_path, OTHERS, year=14)


def _reference(path, min_clicks, offset):
    lives, item_ids, category_ids, last = {}, {}, {}, {}
    for row in csv.DictReader(path.open(newline="")):
        if row["action_type"] == "0":
            item = item_ids.setdefault(row["item_id"], len(item_ids) + 1)
            category = category_ids.setdefault(row["cat_id"], len(category_ids) + 1)
            last[item] = category
            lives.setdefault(row["user_id"], []).append((int(row["time_stamp"]), item, category))
    found = {}
    for number, life in enumerate(lives.values(), start=1):
        if len(life) >= min_clicks:
            life = sorted(life, key=lambda click: click[0])
            at = len(life) - offset
            found[number] = (at, life[at][1:], [click[1:] for click in life[:at]])
    clicked = {n: {c[1] for c in life} for n, life in enumerate(lives.values(), start=1)}
    return found, clicked, last


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample of real rows is not there")
@pytest.mark.parametrize(("split", "offset"), [("train", 13), ("val", 2), ("test", 1)])
def test_real_rows_give_the_requests_of_a_plain_reading_of_the_protocol(tmp_path, split, offset):
    out = str(tmp_path / "out")
    protocol = Protocol(min_clicks=100, first_offset=13, last_offset=13)
    schema = prepare_tmall(raw=str(SAMPLE), out=out, protocol=protocol)
    wanted, clicked, last = _reference(SAMPLE, 100, offset)
    found = {}
    for row in _rows(out, split):
        (request,) = row["requests"]
        target = (request["item"][0], request["category"][0])
        life = list(zip(row["item"], row["category"], strict=True))
        found[row["user_id"]] = (request["history_end"], target, life)
        for item, category in zip(request["item"][1:], request["category"][1:], strict=True):
            assert item not in clicked[row["user_id"]]
            assert category == last[item]
    assert found == wanted
    assert schema.counts["read"] == 9999
    assert schema.counts["kept"] + sum(schema.counts["dropped"].values()) == 9999
