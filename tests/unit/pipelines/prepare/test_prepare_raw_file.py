import csv

import numpy as np
import pytest

from pipelines.prepare import raw_file
from pipelines.prepare.raw_file import Quarantine, RawFormat, ReadCounts, read_rows


def _read(path, text, form, parse, *, max_bad_rows=100):
    raw = path / "raw.csv"
    raw.write_bytes(text)
    counts = ReadCounts()
    events = []
    with Quarantine(str(path), raw=str(raw), max_bad_rows=max_bad_rows) as quarantine:
        for block in read_rows(str(raw), form, parse, quarantine, counts):
            names = [name for name in block if name != "line"]
            columns = [block["line"].tolist(), *(block[name].to_pylist() for name in names)]
            events += zip(*columns, strict=True)
    with (path / "quarantine.csv").open(newline="") as stream:
        return events, list(csv.reader(stream))[1:], counts


def _two_integers(rows):
    return {"a": rows.integers("a"), "b": rows.integers("b")}


TWO = RawFormat(columns=("a", "b"), needed=("a", "b"))
DAMAGED = (
    b"1,2\n"
    b"3\n"  # line 2
    b"4,5,6\n"  # line 3
    b"x,7\n"  # line 4
    b"8,\n"  # line 5
    b"-9,1\n"  # line 6
    b"\n"  # line 7
    b"1,9999999999999999999\n"  # line 8
    b"\xff,1\n"  # line 9
    b"2.5,1\n"  # line 10
    b"10,11"  # line 11, without a line end
)


@pytest.mark.parametrize("block_bytes", [7, 16, 1 << 20])
def test_every_damaged_row_is_set_aside_with_its_line_and_reason(
    tmp_path, monkeypatch, block_bytes
):
    monkeypatch.setattr(raw_file, "BLOCK_BYTES", block_bytes)
    events, quarantined, counts = _read(tmp_path, DAMAGED, TWO, _two_integers)
    assert events == [(1, 1, 2), (11, 10, 11)]
    assert quarantined == [
        ["2", "1 fields instead of 2", "3"],
        ["3", "3 fields instead of 2", "4,5,6"],
        ["4", "a is not an integer ('x')", "x,7"],
        ["5", "b is empty", "8,"],
        ["6", "a is negative (-9)", "-9,1"],
        ["7", "a is empty", ""],
        ["8", "b is not an integer ('9999999999999999999')", "1,9999999999999999999"],
        ["9", "a is not an integer ('\ufffd')", "\ufffd,1"],
        ["10", "a is not an integer ('2.5')", "2.5,1"],
    ]
    assert (counts.read, counts.damaged) == (11, 9)


def test_more_damaged_rows_than_allowed_are_an_error_that_names_the_first(tmp_path):
    assert len(_read(tmp_path, DAMAGED, TWO, _two_integers, max_bad_rows=9)[1]) == 9
    message = r"max_bad_rows allows 8; the first: line 2: 1 fields instead of 2; line 3"
    with pytest.raises(ValueError, match=message):
        _read(tmp_path, DAMAGED, TWO, _two_integers, max_bad_rows=8)


def test_windows_line_ends_a_byte_order_mark_and_blanks_around_numbers_are_read(tmp_path):
    text = b"\xef\xbb\xbf1,2\r\n3, 4 \r\n5\r6,7\r\n8,9\r\n"
    events, quarantined, _ = _read(tmp_path, text, TWO, _two_integers)
    assert events == [(1, 1, 2), (2, 3, 4), (4, 8, 9)]
    assert [row[0] for row in quarantined] == ["3"]


def test_the_header_names_columns_in_any_order_and_its_line_counts(tmp_path):
    form = RawFormat(header=True, needed=("a", "b"))
    text = b"\xef\xbb\xbfb,other,a\r\n1,,2\r\nx,,3\r\n"
    events, quarantined, counts = _read(tmp_path, text, form, _two_integers)
    assert events == [(2, 2, 1)]
    assert [row[0] for row in quarantined] == ["3"]
    assert counts.read == 2


def test_a_missing_column_is_an_error_that_lists_those_there(tmp_path):
    form = RawFormat(header=True, needed=("a", "b"))
    with pytest.raises(ValueError, match="no column b; its columns are a, c"):
        _read(tmp_path, b"a,c\n1,2\n", form, _two_integers)


def test_a_needed_column_that_is_there_twice_is_an_error(tmp_path):
    form = RawFormat(header=True, needed=("a", "b"))
    with pytest.raises(ValueError, match=r"raw\.csv has 2 columns a; it must have one"):
        _read(tmp_path, b"a,b,a\n1,2,3\n", form, _two_integers)
    assert _read(tmp_path, b"a,c,b,c\n1,0,2,0\n", form, _two_integers)[0] == [(2, 1, 2)]


def test_quoted_values_may_hold_the_delimiter_but_not_stay_open(tmp_path):
    form = RawFormat(columns=("a", "b"), needed=("a", "b"), quote='"')

    def parse(rows):
        return {"a": rows.ids("a"), "b": rows.integers("b")}

    assert _read(tmp_path, b'"x,y",1\nz,2\n', form, parse)[0] == [(1, "x,y", 1), (2, "z", 2)]
    with pytest.raises(ValueError, match="never closes"):
        _read(tmp_path, b'"x,1\nz,2\ny,3\n', form, parse)


def test_a_row_keeps_its_first_mark_so_that_no_row_is_counted_twice(tmp_path):
    def parse(rows):
        values = rows.integers("a")
        rows.drop(values < 3, "small")
        rows.drop(np.ones(rows.num_rows, bool), "all")
        return {"a": values}

    events, quarantined, counts = _read(tmp_path, b"1,0\nx,0\n2,0\n5,0\n", TWO, parse)
    assert events == []
    assert len(quarantined) == 1
    assert dict(counts.dropped) == {"small": 2, "all": 1}


def test_a_folder_or_nothing_at_all_is_not_a_raw_file(tmp_path):
    with (
        Quarantine(str(tmp_path), raw="", max_bad_rows=0) as quarantine,
        pytest.raises(ValueError, match="not a file"),
    ):
        next(read_rows(str(tmp_path), TWO, _two_integers, quarantine, ReadCounts()))
