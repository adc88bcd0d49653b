"""`dare prepare taobao`: UserBehavior.csv, five columns without a header."""

from __future__ import annotations

from typing import Any

from pipelines.prepare.build import Preparation, prepare
from pipelines.prepare.days import drop_outside, window
from pipelines.prepare.event_kinds import check_events, select_events
from pipelines.prepare.event_store import DEFAULT_RESOURCES, Resources
from pipelines.prepare.protocol import PAPER, Protocol
from pipelines.prepare.raw_file import RawFormat
from pipelines.prepare.rows import Parse, Rows
from pipelines.schema import DatasetSchema, Layout

COLUMNS = ("user_id", "item_id", "category_id", "behavior_type", "timestamp")
EVENTS = ("pv", "buy", "cart", "fav")


def prepare_taobao(
    *,
    raw: str,
    out: str,
    layout: Layout = "user",
    history_length: int = 200,
    protocol: Protocol = PAPER,
    events: tuple[str, ...] = ("pv",),
    first_day: str = "2017-11-25",
    last_day: str = "2017-12-03",
    utc_offset_hours: int = 8,
    max_bad_rows: int = 100,
    seed: int = 1,
    resources: Resources = DEFAULT_RESOURCES,
) -> DatasetSchema:
    """Turn the Taobao log UserBehavior.csv into a dataset.

    Args:
        raw: UserBehavior.csv.
        out: folder of the new dataset.
        layout: one row a user, or one row a request.
        history_length: behaviours a row keeps, with the request layout; the user layout keeps all.
        protocol: which clicks become targets.
        events: which of pv, buy, cart and fav count as clicks.
        first_day: rows before this day are dropped; empty: none.
        last_day: rows after this day are dropped; empty: none.
        utc_offset_hours: hours the log's days are ahead of UTC; China: 8.
        max_bad_rows: more damaged rows than this are an error.
        seed: of the negatives.
        resources: what it may take of the machine.

    Raises:
        ValueError: an option or the raw file is not what it should be.
    """
    check_events(events, EVENTS)
    span = window(first_day, last_day, utc_offset_hours)
    options = {
        "events": list(events),
        "first_day": first_day,
        "last_day": last_day,
        "utc_offset_hours": utc_offset_hours,
    }
    job = Preparation(
        source="taobao",
        raw=raw,
        out=out,
        layout=layout,
        history_length=history_length,
        protocol=protocol,
        max_bad_rows=max_bad_rows,
        seed=seed,
        resources=resources,
        options=options,
    )
    return prepare(job, RawFormat(columns=COLUMNS, needed=COLUMNS), _parser(events, span))


def _parser(events: tuple[str, ...], span: tuple[int, int]) -> Parse:
    def parse(rows: Rows) -> dict[str, Any]:
        user, item, category = (rows.integers(name) for name in COLUMNS[:3])
        time = rows.integers("timestamp")
        event = select_events(rows, "behavior_type", events, EVENTS)
        drop_outside(rows, time, span)
        return {"user": user, "item": item, "category": category, "event": event, "time": time}

    return parse
