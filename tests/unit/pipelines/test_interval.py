"""Buckets of time intervals, by hand."""

import numpy as np
import pytest

from pipelines.interval import MOST_BUCKETS, Clock, interval_buckets


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 3),
        (4, 4),
        (7, 4),
        (8, 5),
        (3599, 13),
        (86_400, 18),
        (2**30 - 1, 31),
        (2**30, 32),
        (2**31, 32),
        (2**62, 32),
    ],
)
def test_buckets_double_and_the_last_holds_all_that_is_longer(seconds: int, bucket: int) -> None:
    assert interval_buckets(np.array([seconds]), 1, 32).tolist() == [bucket]


@pytest.mark.parametrize("interval", [-1, -5, -(2**62)])
def test_a_behaviour_after_its_request_counts_as_one_at_its_moment(interval: int) -> None:
    assert interval_buckets(np.array([interval]), 1, 32).tolist() == [1]
    assert interval_buckets(np.array([interval]), 86_400, 32).tolist() == [1]


def test_units_are_rounded_down() -> None:
    day = 86_400
    seconds = np.array([0, day - 1, day, 2 * day - 1, 2 * day, 4 * day - 1, 4 * day])
    assert interval_buckets(seconds, day, 32).tolist() == [1, 1, 2, 2, 3, 3, 4]


def test_few_buckets_share_what_is_left() -> None:
    assert interval_buckets(np.array([0, 1, 2, 9]), 1, 1).tolist() == [1, 1, 1, 1]
    assert interval_buckets(np.array([0, 1, 2, 9]), 1, 3).tolist() == [1, 2, 3, 3]


def test_every_bound_is_met_exactly() -> None:
    """A rounded logarithm would be off by one beside some power of two."""
    bits = np.arange(1, MOST_BUCKETS - 1)
    bounds = np.left_shift(np.int64(1), bits)
    assert interval_buckets(bounds, 1, MOST_BUCKETS).tolist() == (bits + 2).tolist()
    assert interval_buckets(bounds - 1, 1, MOST_BUCKETS).tolist() == (bits + 1).tolist()
    largest = np.array([np.iinfo(np.int64).max])
    assert interval_buckets(largest, 1, MOST_BUCKETS).tolist() == [MOST_BUCKETS]


def test_an_interval_goes_from_the_behaviour_to_its_own_request() -> None:
    clock = Clock(behaviour=np.array([10, 20]), request=np.array([20, 99, 12]), unit=1, buckets=9)
    # The third request sees both behaviours, the newest first; the first request the older one.
    found = clock.buckets_of(np.array([1, 0, 0]), np.array([2, 0]), np.array([2, 1]))
    assert found.tolist() == [1, 3, 5]
    assert clock.of_requests(np.array([True, False, True])).request.tolist() == [20, 12]
