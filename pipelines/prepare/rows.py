"""Rows of a raw log as text, with a mark on those that are damaged or not wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_MAX_DIGITS = 18


class Rows:
    """Rows of one block as text columns, with a mark on those that are damaged or dropped.

    Args:
        columns: text by column name, all of one length.
    """

    def __init__(self, columns: dict[str, pa.Array]) -> None:
        self._columns = columns
        self.num_rows = len(next(iter(columns.values())))
        self.alive = np.ones(self.num_rows, bool)
        """Rows without a mark, [N]."""
        self.damaged: dict[int, str] = {}
        """What is wrong, by row."""
        self.dropped: Counter[str] = Counter()
        """Rows that are sound but not wanted, by reason."""

    def text(self, name: str) -> pa.Array:
        """A column as it stands, [N]."""
        return self._columns[name]

    def ids(self, name: str) -> pa.Array:
        """A column of text ids, [N]; empty ids and ids that are not UTF-8 are damaged."""
        self.damage(~_filled(self.text(name)), f"{name} is empty")
        return self.values(name)

    def values(self, name: str) -> pa.Array:
        """A column of any text, [N], empty as well; what is not UTF-8 is damaged."""
        text = self.text(name)
        self.damage(_mask(pc.match_substring(text, "\ufffd")), f"{name} is not UTF-8")
        return text

    def integers(self, name: str) -> np.ndarray:
        """A column of integers from 0 on, [N]; every other value is damaged and reads as 0.

        Blanks around a number are no damage.
        """
        text = self.text(name)
        sound = _is_integer(text)
        if not sound.all():
            text = pc.utf8_trim_whitespace(text)
            sound = _is_integer(text)
            self._explain(name, text, ~sound)
            text = pc.if_else(pa.array(sound), text, "0")
        values: np.ndarray = text.cast(pa.int64()).to_numpy()
        return values

    def _explain(self, name: str, text: pa.Array, wrong: np.ndarray) -> None:
        for row in np.flatnonzero(wrong & self.alive):
            value = text[int(row)].as_py()
            if not value:
                self.damaged[int(row)] = f"{name} is empty"
            elif value[0] == "-" and value[1:].isdecimal():
                self.damaged[int(row)] = f"{name} is negative ({value})"
            else:
                self.damaged[int(row)] = f"{name} is not an integer ({value!r})"
        self.alive &= ~wrong

    def damage(self, where: np.ndarray, reason: str) -> None:
        """Mark rows as damaged; a row keeps the first mark it got."""
        for row in np.flatnonzero(where & self.alive):
            self.damaged[int(row)] = reason
        self.alive &= ~where

    def drop(self, where: np.ndarray, reason: str) -> None:
        """Mark sound rows as not wanted; a row keeps the first mark it got."""
        count = int((where & self.alive).sum())
        if count:
            self.dropped[reason] += count
            self.alive &= ~where


Parse = Callable[[Rows], dict[str, Any]]
"""Reads marked rows; returns `user item category event time` and the features, arrays of one value
a row."""


def _is_integer(text: pa.Array) -> np.ndarray:
    short = pc.less_equal(pc.binary_length(text), _MAX_DIGITS)
    return _mask(pc.and_(pc.ascii_is_decimal(text), short))


def _filled(text: pa.Array) -> np.ndarray:
    return _mask(pc.not_equal(pc.utf8_trim_whitespace(text), ""))


def _mask(values: pa.Array) -> np.ndarray:
    mask: np.ndarray = values.to_numpy(zero_copy_only=False)
    return mask
