"""Where the readers of an epoch stand, and how what is left is cut among other readers.

A reader is one worker of one rank. An epoch is cut among readers by rows, and a reader shuffles
within windows of several row ranges. So what it has not read yet is the rest of one window and
whole row ranges, and five numbers tell which. Where the number of readers changes, the rests of all
windows are cut by requests and the row ranges by rows; the places of the readers before are all
that must be kept to do it again, whatever the size of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np

from pipelines.row_groups import RowRange


class Place(NamedTuple):
    """Where a reader goes on in its share of an epoch."""

    window: int = 0
    """Number of the window, over leftovers and row ranges."""
    first_range: int = 0
    """First row range of the window."""
    next_range: int = 0
    """First row range after it; the same where the window is a leftover or not read yet."""
    done: int = 0
    """Requests of the window that were handed out."""
    requests: int = 0
    """Requests the window has."""


@dataclass(frozen=True)
class Leftover:
    """Requests `start` to `stop` of a shuffled window that another reader did not get to."""

    ranges: tuple[RowRange, ...]
    key: tuple[int, ...]
    """What its order was drawn from, beside seed and epoch."""
    start: int
    stop: int


@dataclass(frozen=True)
class Share:
    """What one reader reads, in this order."""

    leftovers: list[Leftover]
    ranges: list[RowRange]


def window_key(number: int, first_range: int, ranges: Sequence[RowRange]) -> tuple[int, ...]:
    """What the order of a window is drawn from, beside seed and epoch."""
    return number, first_range, ranges[0].start


def share_after(
    ranges: list[RowRange], cuts: Sequence[Sequence[Place]], *, reader: int, readers: int
) -> Share:
    """What one reader reads of an epoch.

    Args:
        ranges: all rows of the epoch, in its order; the same list on every reader.
        cuts: of each number of readers that were at it before, where every one of them stood.
        reader: number of this one.
        readers: how many there are now.

    Returns:
        A share that, over all readers, covers exactly once what those before left.
    """
    whole = Share([], ranges)
    for places in cuts:
        shares = _equal_shares(whole, len(places))
        rests = [_rest(share, place) for share, place in zip(shares, places, strict=True)]
        whole = Share(
            [leftover for rest in rests for leftover in rest.leftovers],
            [rows for rest in rests for rows in rest.ranges],
        )
    return _equal_shares(whole, readers)[reader]


def _rest(share: Share, place: Place) -> Share:
    """What a reader that stands there has not handed out."""
    if place.window < len(share.leftovers):
        current, *later = share.leftovers[place.window :]
        current = replace(current, start=current.start + place.done)
        return Share([current, *later], share.ranges)
    window = tuple(share.ranges[place.first_range : place.next_range])
    if not window:
        return Share([], share.ranges[place.next_range :])
    key = window_key(place.window, place.first_range, window)
    leftover = Leftover(window, key, place.done, place.requests)
    return Share([leftover], share.ranges[place.next_range :])


def _equal_shares(whole: Share, parts: int) -> list[Share]:
    """Cut leftovers by requests, row ranges by rows."""
    leftovers = _equal_parts([part.stop - part.start for part in whole.leftovers], parts)
    ranges = _equal_parts([part.stop - part.start for part in whole.ranges], parts)
    return [
        Share(
            [_within(whole.leftovers[which], *cut) for which, *cut in leftovers[part]],
            [_within(whole.ranges[which], *cut) for which, *cut in ranges[part]],
        )
        for part in range(parts)
    ]


_Cut = TypeVar("_Cut", Leftover, RowRange)


def _within(whole: _Cut, start: int, stop: int) -> _Cut:
    """Entries `start` to `stop` of a leftover or a row range."""
    if (start, stop) == (0, whole.stop - whole.start):
        return whole
    return replace(whole, start=whole.start + start, stop=whole.start + stop)


def _equal_parts(sizes: list[int], parts: int) -> list[list[tuple[int, int, int]]]:
    """Lay things of these sizes end to end and cut the line into equal parts.

    Returns:
        For each part which things it has, from where and to where in each of them.
    """
    ends = np.cumsum(sizes, dtype=np.int64).tolist()
    total, which, found = sum(sizes), 0, []
    for first, last in pairwise(total * part // parts for part in range(parts + 1)):
        cut = []
        while first < last:
            begin = ends[which] - sizes[which]
            stop = min(last, ends[which])
            if first < stop:
                cut.append((which, first - begin, stop - begin))
                first = stop
            if first == ends[which]:
                which += 1
        found.append(cut)
    return found
