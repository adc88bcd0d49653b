"""`dare prepare tmall`: user_log_format1.csv, seven columns with a header, time by the day."""

from __future__ import annotations

from typing import Any

from pipelines.prepare.build import Preparation, prepare
from pipelines.prepare.days import drop_outside, month_days, window
from pipelines.prepare.event_kinds import check_events, select_events
from pipelines.prepare.event_store import DEFAULT_RESOURCES, Resources
from pipelines.prepare.protocol import PAPER, Protocol
from pipelines.prepare.raw_file import RawFormat
from pipelines.prepare.rows import Parse, Rows
from pipelines.schema import DatasetSchema, Layout

# seller_id and brand_id are not read: brand_id is empty in sound rows.
COLUMNS = ("user_id", "item_id", "cat_id", "time_stamp", "action_type")
EVENTS = ("0", "1", "2", "3")


def prepare_tmall(
    *,
    raw: str,
    out: str,
    layout: Layout = "user",
    history_length: int = 200,
    protocol: Protocol = PAPER,
    events: tuple[str, ...] = ("0",),
    first_day: str = "",
    last_day: str = "",
    year: int = 2014,
    utc_offset_hours: int = 8,
    max_bad_rows: int = 100,
    seed: int = 1,
    resources: Resources = DEFAULT_RESOURCES,
) -> DatasetSchema:
    """Turn the Tmall log user_log_format1.csv into a dataset.

    A life is in order of days; behaviours of one day stay in the order of the file.

    Args:
        raw: user_log_format1.csv, with its header.
        out: folder of the new dataset.
        layout: one row a user, or one row a request.
        history_length: behaviours a row keeps, with the request layout; the user layout keeps all.
        protocol: which clicks become targets.
        events: which actions count as clicks: 0 click, 1 cart, 2 buy, 3 favourite.
        first_day: rows before this day (2014-05-11) are dropped; empty: none.
        last_day: rows after this day are dropped; empty: none.
        year: the year of the log, which its MMDD days leave out.
        utc_offset_hours: hours the log's days are ahead of UTC; China: 8.
        max_bad_rows: more damaged rows than this are an error.
        seed: of the negatives.
        resources: what it may take of the machine.

    Raises:
        ValueError: an option or the raw file is not what it should be.
    """
    check_events(events, EVENTS)
    span = window(first_day, last_day, utc_offset_hours)
    job = Preparation(
        source="tmall",
        raw=raw,
        out=out,
        layout=layout,
        history_length=history_length,
        protocol=protocol,
        resources=resources,
        max_bad_rows=max_bad_rows,
        seed=seed,
        options={
            "events": list(events),
            "first_day": first_day,
            "last_day": last_day,
            "year": year,
            "utc_offset_hours": utc_offset_hours,
        },
    )
    parse = _parser(events, span, year, utc_offset_hours)
    return prepare(job, RawFormat(header=True, needed=COLUMNS), parse)


def _parser(
    events: tuple[str, ...], span: tuple[int, int], year: int, utc_offset_hours: int
) -> Parse:
    if not 1970 <= year <= 2100:
        raise ValueError(f"--year is {year}; give a year from 1970 to 2100, the log is of 2014")

    def parse(rows: Rows) -> dict[str, Any]:
        user, item, category = (rows.integers(name) for name in COLUMNS[:3])
        time = month_days(rows, "time_stamp", year=year, utc_offset_hours=utc_offset_hours)
        event = select_events(rows, "action_type", events, EVENTS)
        drop_outside(rows, time, span)
        return {"user": user, "item": item, "category": category, "event": event, "time": time}

    return parse
