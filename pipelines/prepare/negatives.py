"""Draws negatives in proportion to clicks, never an item the user has ever clicked."""

from __future__ import annotations

import numpy as np

_REJECTION_ROUNDS = 16


class NegativeSampler:
    """Items with probability proportional to their clicks.

    Args:
        clicks: by item id, [1 + items]; id 0 is padding and has none.
    """

    def __init__(self, clicks: np.ndarray) -> None:
        self._cumulative = np.cumsum(clicks)
        self.num_items = int((clicks > 0).sum())
        """Items that can be drawn at all."""

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Item ids, [size], each drawn for itself."""
        point = rng.integers(0, self._cumulative[-1], size)
        drawn: np.ndarray = np.searchsorted(self._cumulative, point, side="right")
        return drawn

    def draw_unclicked(
        self, rng: np.random.Generator, owner: np.ndarray, clicked: ClickedItems
    ) -> np.ndarray:
        """For every entry an item its owner has never clicked; two entries may get the same.

        Args:
            rng: source of randomness.
            owner: who must not have clicked, as in `clicked`, [N].
            clicked: which items each owner has clicked; every owner leaves at least one.

        Returns:
            Item ids, [N].
        """
        item = self.draw(rng, owner.size)
        for _ in range(_REJECTION_ROUNDS):
            again = np.flatnonzero(clicked.holds(owner, item))
            if not again.size:
                return item
            item[again] = self.draw(rng, again.size)
        again = np.flatnonzero(clicked.holds(owner, item))
        # Whoever clicked nearly all popular items would be rejected for ever: draw from the rest.
        for user in np.unique(owner[again]):
            mine = again[owner[again] == user]
            item[mine] = self._draw_from_rest(rng, clicked.of(int(user)), mine.size)
        return item

    def _draw_from_rest(
        self, rng: np.random.Generator, clicked: np.ndarray, size: int
    ) -> np.ndarray:
        clicks = np.diff(self._cumulative, prepend=0)
        clicks[clicked] = 0
        return NegativeSampler(clicks).draw(rng, size)


class ClickedItems:
    """Which items each of some users has clicked.

    Args:
        owner: number of the user of each click, from 0, [N].
        item: the item, [N].
        num_users: how many users there are.
    """

    def __init__(self, owner: np.ndarray, item: np.ndarray, num_users: int) -> None:
        self._stride = int(item.max(initial=0)) + 1
        self._keys = np.unique(owner * self._stride + item)
        starts = np.arange(num_users + 1) * self._stride
        self._offsets = np.searchsorted(self._keys, starts)
        self.num_items = np.diff(self._offsets)
        """Different items by user, [users]."""

    def of(self, user: int) -> np.ndarray:
        """Items of one user, ascending."""
        keys = self._keys[self._offsets[user] : self._offsets[user + 1]]
        items: np.ndarray = keys - user * self._stride
        return items

    def holds(self, owner: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Whether each owner has clicked each item, [N]."""
        key = owner * self._stride + item
        at = np.minimum(np.searchsorted(self._keys, key), self._keys.size - 1)
        # Items beyond the largest clicked one would read as the next owner's.
        found: np.ndarray = (self._keys[at] == key) & (item < self._stride)
        return found
