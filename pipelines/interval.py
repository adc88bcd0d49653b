"""How long before a request a behaviour was, in buckets that double.

An interval of s units, which are `unit` of the timestamps' own each, rounded down, has bucket

    1 for s = 0,  2 for 1,  3 for 2 and 3,  4 for 4 to 7,  ...:  1 + the number of bits of s

and the last bucket all that is longer. A behaviour after its request, as clocks that differ may
tell, counts as one at its moment. Bucket 0 is the target's own, so that the table of intervals has
a row more than there are buckets.
Letters: R requests, N behaviours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

MOST_BUCKETS = 54
"""As far as a double knows the bits of an integer exactly; that is 140 million years of seconds."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """When behaviours and requests were."""

    behaviour: np.ndarray
    """Timestamps of behaviours, [N]."""
    request: np.ndarray
    """Timestamps of requests, [R]."""
    unit: int
    """Units of the timestamps that count as one."""
    buckets: int
    """Buckets of behaviours."""

    def of_requests(self, chosen: np.ndarray) -> Clock:
        """The same for some requests; `chosen` is True for those, [R], or has their numbers."""
        return replace(self, request=self.request[chosen])

    def buckets_of(
        self, behaviours: np.ndarray, requests: np.ndarray, length: np.ndarray
    ) -> np.ndarray:
        """Bucket of each behaviour before its request.

        Args:
            behaviours: which, request after request.
            requests: which.
            length: behaviours of each request.
        """
        now = np.repeat(self.request[requests], length)
        return interval_buckets(now - self.behaviour[behaviours], self.unit, self.buckets)


def interval_buckets(interval: np.ndarray, unit: int, buckets: int) -> np.ndarray:
    """Buckets of intervals, from 1 to `buckets`; negative intervals have 1."""
    units = np.maximum(interval, 0) // unit
    # The exponent of a double is the number of bits, where a rounded logarithm could be off by one.
    bits = np.frexp(units.astype(np.float64))[1]
    return np.minimum(1 + bits, buckets).astype(np.int64)
