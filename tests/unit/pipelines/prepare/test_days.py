"""Times that a log counts since 1970, in whatever unit, are taken for what they are."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from pipelines.prepare.days import seconds_or_iso
from pipelines.prepare.rows import Rows


def read(numbers):
    return seconds_or_iso(Rows({"when": pa.array(numbers).cast(pa.string())}), "when")


def seconds(*date):
    return int(datetime.datetime(*date, tzinfo=datetime.UTC).timestamp())


@pytest.mark.parametrize("unit", [1, 1000, 1_000_000])
@pytest.mark.parametrize("span_s", [60, 3600, 86400, 30 * 86400])
def test_no_time_of_this_half_century_is_taken_for_days(unit, span_s):
    """Of each month from 2001 to 2049 one minute, hour, day or month, at even distances."""
    for month in range(49 * 12):
        start = seconds(2001 + month // 12, 1 + month % 12, 1) * unit
        numbers = start + np.arange(60) * (span_s * unit // 60)
        assert read(numbers).tolist() == numbers.tolist()


def test_of_consecutive_seconds_a_quarter_at_most_reads_as_days_and_hours():
    """The first that do are those of June 2032: 1970010100 is 1970-01-01, hour 0."""
    start = seconds(2032, 6, 5)
    assert start < 1_970_010_100 < start + 86400
    numbers = 1_970_010_100 + np.arange(100)
    assert read(numbers).tolist() == numbers.tolist()
    # All of them do in the first 24 seconds, the 00th to the 23rd hour of a day.
    with pytest.raises(ValueError, match="when has 1970010100: digits alone are seconds"):
        read(numbers[:24])
