"""Days as a log writes them, as seconds since 1970."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.prepare.rows import Rows

DAY_S = 86400


def day_start(day: str, *, option: str, utc_offset_hours: int) -> int:
    """Unix seconds of a day's first moment.

    Args:
        day: `2017-11-25`.
        option: name of the option that holds it, for messages.
        utc_offset_hours: hours local time is ahead of UTC.

    Raises:
        ValueError: it is no day.
    """
    zone = timezone(timedelta(hours=utc_offset_hours))
    try:
        return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=zone).timestamp())
    except ValueError as error:
        raise ValueError(f"--{option} is {day!r}; give a day such as 2017-11-25") from error


def window(first_day: str, last_day: str, utc_offset_hours: int) -> tuple[int, int]:
    """First second of the first day and last second of the last; an empty day leaves it open.

    Raises:
        ValueError: an option is no day, the days are in the wrong order, or no place on Earth has
            such an offset.
    """
    if not -12 <= utc_offset_hours <= 14:
        raise ValueError(f"--utc_offset_hours is {utc_offset_hours}; it must be from -12 to 14")
    first, last = 0, int(np.iinfo(np.int64).max)
    if first_day:
        first = day_start(first_day, option="first_day", utc_offset_hours=utc_offset_hours)
    if last_day:
        start = day_start(last_day, option="last_day", utc_offset_hours=utc_offset_hours)
        last = start + DAY_S - 1
    if last < first:
        raise ValueError(f"--first_day is {first_day}, after --last_day {last_day}")
    return first, last


def drop_outside(rows: Rows, time: np.ndarray, span: tuple[int, int]) -> None:
    """Drop rows whose time lies outside a window."""
    rows.drop((time < span[0]) | (time > span[1]), "outside the days")


def month_days(rows: Rows, name: str, *, year: int, utc_offset_hours: int) -> np.ndarray:
    """A column of `MMDD` days (`0829` or `829`) of one year as Unix seconds of their start, [N]."""
    number = rows.integers(name)
    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(366)]
    starts = {d.month * 100 + d.day: int(d.timestamp()) for d in days if d.year == year}
    lookup = np.full(1 << 14, -1, np.int64)
    lookup[list(starts)] = list(starts.values())
    seconds = lookup[np.minimum(number, lookup.size - 1)]
    rows.damage(seconds < 0, f"{name} is not a day of {year} written as MMDD")
    return seconds - utc_offset_hours * 3600


def seconds_or_iso(rows: Rows, name: str) -> np.ndarray:
    """A column of integers, or of ISO 8601 days or times (UTC where none is said), [N].

    Blanks around a value are no damage.

    Raises:
        ValueError: days are written as digits alone, which reads as seconds.
    """
    text = pc.utf8_trim_whitespace(rows.text(name))
    dated = ~pc.ascii_is_decimal(text).to_numpy(zero_copy_only=False) & rows.alive
    if not dated.any():
        whole = rows.integers(name)
        _check_no_days(name, whole[rows.alive], beside_dates=False)
        return whole
    seconds = np.zeros(rows.num_rows, np.int64)
    wrong = np.zeros(rows.num_rows, bool)
    for row in np.flatnonzero(dated):
        value = _iso_seconds(text[int(row)].as_py())
        wrong[row] = value is None or value < 0
        seconds[row] = value or 0
    rows.damage(wrong, f"{name} is neither an integer nor an ISO 8601 time from 1970 on")
    digits = Rows({name: pc.if_else(pa.array(dated), "0", text)})
    whole = digits.integers(name)
    rows.damage(~digits.alive, f"{name} is out of range")
    beside_dates = bool((dated & ~wrong).any())
    _check_no_days(name, whole[rows.alive & ~dated], beside_dates=beside_dates)
    return seconds + whole


def _check_no_days(name: str, number: np.ndarray, *, beside_dates: bool) -> None:
    """Refuse numbers such as 20171101 or 201711011230, which are meant as days and times.

    A log may count its time in any unit, so some numbers that could be days are none; most of
    those above 0 are, or one beside dates. Seconds, milliseconds and microseconds of 2001 to May
    2032 have 10 digits that begin with less than 1970, 13, and 16, as no day or time here has.
    Later seconds read as days and hours, but for 76 of each hundred.

    Raises:
        ValueError: they are days.
    """
    day, hour = number.copy(), np.zeros_like(number)
    for digits in (10, 12, 14, 17):
        those = (number >= 10 ** (digits - 1)) & (number < 10**digits)
        day[those] //= 10 ** (digits - 8)
        hour[those] = number[those] // 10 ** (digits - 10) % 100
    is_day = np.isin(day, _days(), kind="table") & (hour < 24)
    if is_day.any() and (beside_dates or 2 * is_day.sum() > np.count_nonzero(number)):
        first = int(np.flatnonzero(is_day)[0])
        written = str(day[first])
        raise ValueError(
            f"--time_column {name} has {number[first]}: digits alone are seconds since 1970; "
            f"write days and times with hyphens, as {written[:4]}-{written[4:6]}-{written[6:]}"
        )


@functools.cache
def _days() -> np.ndarray:
    """Days from 1970 to 2099 as `YYYYMMDD`."""
    days = np.arange("1970-01-01", "2100-01-01", dtype="datetime64[D]")
    return np.char.replace(np.datetime_as_string(days), "-", "").astype(np.int64)


def _iso_seconds(value: str) -> int | None:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
