"""Any bytes are a raw log or are refused in lines; each row is kept, dropped or set aside rightly.

The plain reading cuts lines and values with Python's own functions and converts one at a time.
"""

import csv
import datetime
import functools
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.prepare import csv_log, taobao, tmall
from pipelines.prepare.days import window
from pipelines.prepare.raw_file import Quarantine, RawFormat, ReadCounts, read_rows
from tests.commands import dare
from tests.fuzz.harness import accepted, examples

Event = tuple[Any, Any, Any, int]
"""User, item, category, time."""
NOISE = [
    *(b"", b" ", b"x", b"-1", b"1.5", b"+3", b"0x1f", b"1e5", b"007", b"NULL", b"nan", b"\xff"),
    *(
        b"9" * 18,
        b"9" * 19,
        b"9" * 40,
        b" 12 ",
        b"\t3",
        "٣".encode(),
        "é".encode(),
        b"\xef\xbb\xbf",
    ),
    *(b"\0", b"1\0", b"\r", b'"', b'"1"', b"'", b"1;2", "\u2028".encode(), b"\x1a", b"\x0b4\x0c"),
]
SMALL = st.integers(1, 4).map(lambda number: str(number).encode())


def values(good: st.SearchStrategy[bytes], luck: int = 12) -> st.SearchStrategy[bytes]:
    """Mostly good, else noise."""
    noise = st.one_of(st.sampled_from(NOISE), st.binary(max_size=4))
    return st.integers(0, luck).flatmap(lambda drawn: good if drawn else noise)


def lines(*columns: st.SearchStrategy[bytes], delimiter: bytes = b",") -> st.SearchStrategy[bytes]:
    """A log of lines, most of them with these values."""
    row = st.tuples(*map(values, columns)).map(delimiter.join)
    noise = st.one_of(st.binary(max_size=12), st.lists(SMALL, max_size=8).map(delimiter.join))
    line = st.integers(0, 12).flatmap(lambda drawn: row if drawn else noise)
    end = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n"])
    return st.lists(st.tuples(line, end).map(b"".join), max_size=12).map(b"".join)


def plain_lines(content: bytes) -> list[bytes]:
    """Lines as the README has them: ended by a line feed, with or without a carriage return."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    if content and not content.endswith(b"\n"):
        content += b"\n"
    found = content.split(b"\n")[:-1]
    return [line.removesuffix(b"\r").replace(b"\r", b" ") for line in found]


def number(raw: bytes) -> int | None:
    """An integer from 0 of at most 18 digits, blanks around it are no matter."""
    text = raw.decode("utf-8", "replace").strip()
    ascii_digits = text.isascii() and text.isdigit()
    return int(text) if ascii_digits and len(text) <= 18 else None


def plainly(
    content: bytes, columns: int, meaning: Callable[[list[bytes]], Event | None]
) -> tuple[dict[int, Event], int]:
    """Events by line, and how many lines there are."""
    found, all_lines = {}, plain_lines(content)
    for at, line in enumerate(all_lines, start=1):
        row = line.split(b",")
        event = meaning(row) if len(row) == columns else None
        if event is not None:
            found[at] = event
    return found, len(all_lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def read(
    folder: Path, content: bytes, form: RawFormat, parse: Any
) -> tuple[dict[int, Event], ReadCounts]:
    """Events by line as the reader finds them."""
    raw, counts, found = folder / "raw.csv", ReadCounts(), {}
    raw.write_bytes(content)
    with Quarantine(str(folder), raw=str(raw), max_bad_rows=10**6) as quarantine:
        for block in read_rows(str(raw), form, parse, quarantine, counts):
            columns = [block["line"].tolist()]
            columns += [block[name].to_pylist() for name in ("user", "item", "category", "time")]
            found |= {line: tuple(event) for line, *event in zip(*columns, strict=True)}
    return found, counts


SPAN = window("2017-11-25", "2017-12-03", 8)
TIMES = st.integers(SPAN[0] - 5, SPAN[0] + 40).map(lambda number: str(number).encode())
TAOBAO = lines(SMALL, SMALL, SMALL, st.sampled_from([b"pv", b"pv", b"buy"]), TIMES)


def _taobao(row: list[bytes]) -> Event | None:
    user, item, category, time = (number(row[at]) for at in (0, 1, 2, 4))
    if None in (user, item, category, time) or row[3] != b"pv":
        return None
    assert time is not None
    return (user, item, category, time) if SPAN[0] <= time <= SPAN[1] else None


@examples(60)
@given(st.one_of(TAOBAO, TAOBAO, st.binary(max_size=80)))
def test_any_rows_of_taobao_are_read_as_they_say(folder: Path, content: bytes) -> None:
    form = RawFormat(columns=taobao.COLUMNS, needed=taobao.COLUMNS)
    parse = taobao._parser(("pv",), SPAN)
    found = accepted("Taobao logs", functools.partial(read, folder, content, form, parse))
    expected, count = plainly(content, 5, _taobao)
    assert found is not None, "rows of Taobao have no quotes that could be left open"
    assert found[0] == expected
    assert found[1].read == count


DAYS = st.sampled_from([b"0511", b"829", b"1111", b"1231", b"0230", b"0"])
TMALL = lines(SMALL, SMALL, SMALL, SMALL, SMALL, DAYS, st.sampled_from([b"0", b"0", b"2"]))
TMALL_HEADER = b"user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type\n"


def _tmall(row: list[bytes]) -> Event | None:
    user, item, category, day = (number(row[at]) for at in (0, 1, 2, 5))
    if None in (user, item, category, day) or row[6] != b"0":
        return None
    assert day is not None
    try:
        start = datetime.datetime(2014, day // 100, day % 100, tzinfo=datetime.UTC)
    except (ValueError, OverflowError):
        return None
    return user, item, category, int(start.timestamp()) - 8 * 3600


@examples(60)
@given(TMALL)
def test_any_rows_of_tmall_are_read_as_they_say(folder: Path, content: bytes) -> None:
    form = RawFormat(header=True, needed=tmall.COLUMNS)
    parse = tmall._parser(("0",), window("", "", 8), 2014, 8)
    whole = TMALL_HEADER + content
    found = accepted("Tmall logs", functools.partial(read, folder, whole, form, parse))
    assert found is not None
    # A byte order mark is one at the head of the file alone.
    expected, count = plainly(b"\n" + content, 7, _tmall)
    assert found[0] == expected
    assert found[1].read == count - 1


TEXT = st.sampled_from([b"ann", b"bob", "zoë".encode(), b"1", b"a b"])
CSV_TIMES = st.sampled_from(
    [b"5", b"17", b"2017-11-25", b"2017-11-25T10:00:00+08:00", b"1969-01-01"]
)
CSV = lines(TEXT, TEXT, TEXT, CSV_TIMES)


def _text(raw: bytes) -> str | None:
    text = raw.decode("utf-8", "replace")
    return text if text.strip() and "\ufffd" not in text else None


def _moment(raw: bytes) -> int | None:
    text = raw.decode("utf-8", "replace").strip()
    if text.isascii() and text.isdigit():
        return number(raw)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    seconds = int(zoned.timestamp())
    return seconds if seconds >= 0 else None


def _csv(row: list[bytes]) -> Event | None:
    user, item, category = (_text(value) for value in row[:3])
    time = _moment(row[3])
    missing = None in (user, item, category) or time is None
    return None if missing else (user, item, category, int(time or 0))


@examples(60)
@given(CSV, st.sampled_from(["", '"']))
def test_any_rows_of_a_csv_are_read_as_they_say(folder: Path, content: bytes, quote: str) -> None:
    names = ("u", "i", "c", "t")
    form = RawFormat(columns=names, needed=names, quote=quote)
    parse = csv_log._parser((*names, ""), (), {})
    found = accepted("CSV logs", functools.partial(read, folder, content, form, parse))
    if quote and b'"' in content:
        if found is not None:
            _check_quoted(content, found[0])
        return
    expected, count = plainly(content, 4, _csv)
    assert found is not None
    assert found[0] == expected
    assert found[1].read == count


def _check_quoted(content: bytes, found: dict[int, Event]) -> None:
    """Rows whose quotes are around whole values, as in Python's strict reading, line by line."""
    for at, line in enumerate(plain_lines(content), start=1):
        if b"\0" in line:
            continue
        try:
            text = line.decode("utf-8", "replace")
            rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        except csv.Error:
            continue
        if len(rows) == 1 and len(rows[0]) == 4 and at in found:
            row = [value.encode() for value in rows[0]]
            assert found[at] == _csv(row)


MOVIES = st.tuples(SMALL, TEXT, st.sampled_from([b"Drama|War", b"Comedy", b'"A, B"', b""]))
RATINGS = lines(SMALL, SMALL, st.sampled_from([b"4.0", b"5", b"0.5", b"4.5"]), st.just(b"17"))
OPTIONS = {
    "min_clicks": 2,
    "test_offset": 1,
    "val_offset": 2,
    "first_offset": 3,
    "last_offset": 3,
    "num_negatives": 1,
    "min_history": 0,
}


@pytest.fixture(autouse=True)
def raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `dare` raise what it would tell, so that its kind is seen."""
    monkeypatch.setenv("DARE_TRACEBACK", "1")


@examples(6)
@given(
    st.sampled_from(["taobao", "tmall", "csv", "movielens"]),
    st.data(),
    st.sampled_from(["user", "request"]),
)
def test_preparing_any_log_ends_in_a_dataset_or_in_lines(
    tmp_path_factory: pytest.TempPathFactory,
    source: str,
    data: st.DataObject,
    layout: str,
) -> None:
    folder = tmp_path_factory.mktemp("prepared")
    out = folder / "out"
    raw, options = _write_raw(folder, source, data)
    options += [f"--protocol.{name}={value}" for name, value in OPTIONS.items()]
    options += [f"--out={out}", f"--layout={layout}", "--resources.threads=1", f"--raw={raw}"]
    outcome = accepted(f"logs prepared from {source}", lambda: dare("prepare", source, *options))
    assert (out / "schema.json").exists() == (outcome is not None)
    if outcome is not None:
        assert outcome.code == 0
        users = pq.read_table(out / "ids" / "user.parquet").to_pydict()
        if source == "taobao":
            expected, _ = plainly(raw.read_bytes(), 5, _taobao)
            clicks = Counter(event[0] for event in expected.values())
            assert dict(zip(users["raw"], users["clicks"], strict=True)) == clicks


def _write_raw(folder: Path, source: str, data: st.DataObject) -> tuple[Path, list[str]]:
    """A log, and what has to be said of it."""
    raw = folder / "raw"
    if source == "movielens":
        raw.mkdir()
        movies = data.draw(st.lists(st.one_of(MOVIES.map(b",".join), st.binary(max_size=9))))
        (raw / "movies.csv").write_bytes(b"movieId,title,genres\n" + b"\n".join(movies))
        header = b"userId,movieId,rating,timestamp\n"
        head = data.draw(st.sampled_from([header, header, header, b""]))
        (raw / "ratings.csv").write_bytes(head + data.draw(RATINGS))
        return raw, []
    if source == "csv":
        raw.write_bytes(data.draw(st.one_of(CSV, CSV, st.binary(max_size=60))))
        names = enumerate(("user", "item", "category", "time"), start=1)
        return raw, ["--header=false", *(f"--{name}_column={at}" for at, name in names)]
    head = TMALL_HEADER if source == "tmall" else b""
    raw.write_bytes(head + data.draw(TAOBAO if source == "taobao" else TMALL))
    return raw, []
