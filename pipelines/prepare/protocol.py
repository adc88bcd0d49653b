"""Turns lives into requests as the DARE paper does.

The last click is the test, the one before it the validation, and clicks at fixed offsets from the
end are for training. Letters: U users, N behaviours of all of them, R requests, T targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from pipelines.prepare.event_store import Order
from pipelines.prepare.negatives import ClickedItems, NegativeSampler
from pipelines.prepare.writer import SPLITS, user_table
from pipelines.ragged import ranges

Repeated = Literal["keep", "drop"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which clicks become targets; the defaults are the paper's (arXiv:2410.02604, section 4.1).

    An offset counts from the end of a life: 1 is the newest click.

    Raises:
        ValueError: an option is out of range.
    """

    min_clicks: int = 210
    """Users with fewer clicks are dropped."""
    test_offset: int = 1
    """The click that becomes the test target."""
    val_offset: int = 2
    """The click that becomes the validation target."""
    first_offset: int = 3
    """The newest click that becomes a training target."""
    offset_step: int = 5
    """Every how many clicks there is a training target."""
    last_offset: int = 93
    """The oldest click that may become a training target; 3, 8, ..., 93 make 19."""
    num_negatives: int = 2
    """Negatives for each positive, drawn in proportion to clicks."""
    min_history: int = 1
    """Requests with fewer behaviours before them are not made."""
    order: Order = "time"
    """Lives in order of time, or of the file, which the paper's code trusts for Taobao."""
    repeated: Repeated = "keep"
    """Keep or drop rows that repeat an earlier one in all that is read, as a double report or a
    second click the same day would; the paper's code keeps them."""

    def __post_init__(self) -> None:
        least = {"test_offset": 1, "offset_step": 1, "num_negatives": 1, "min_history": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(
                    f"--protocol.{name} is {getattr(self, name)}; it must be at least {low}"
                )
        if not self.test_offset < self.val_offset < self.first_offset <= self.last_offset:
            raise ValueError(
                f"--protocol offsets are test {self.test_offset}, val {self.val_offset}, train "
                f"{self.first_offset} to {self.last_offset}; they must grow in this order, or "
                "training would see what is tested"
            )
        if self.min_clicks < self.val_offset + self.min_history:
            raise ValueError(
                f"--protocol.min_clicks is {self.min_clicks}; a validation target at offset "
                f"{self.val_offset} after {self.min_history} behaviours needs at least "
                f"{self.val_offset + self.min_history}"
            )

    def offsets(self, split: str) -> np.ndarray:
        """Offsets of a split's targets, oldest click first."""
        train = range(self.first_offset, self.last_offset + 1, self.offset_step)
        one = {"train": list(train)[::-1], "val": [self.val_offset], "test": [self.test_offset]}
        return np.array(one[split], np.int64)


PAPER = Protocol()


@dataclass(frozen=True, kw_only=True)
class Lives:
    """Users with all their behaviours, oldest first."""

    user: np.ndarray
    """Ids, [U]."""
    offsets: np.ndarray
    """Where each life starts, [U + 1]."""
    item: np.ndarray
    """[N]."""
    category: np.ndarray
    """[N]."""
    timestamp: np.ndarray
    """[N]."""
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Ids of further features, [N] each."""


class RequestBuilder:
    """Makes the rows of every split from lives.

    Args:
        protocol: which clicks become targets.
        sampler: of negatives.
        item_category: category of a negative by item id, [1 + items].
        seed: of every draw; with the number of a chunk and a split it fixes the negatives.
        target_features: further features that are known before a click: all targets of a request
            have those of its click.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        sampler: NegativeSampler,
        item_category: np.ndarray,
        seed: int,
        target_features: Sequence[str] = (),
    ) -> None:
        self._protocol, self._sampler = protocol, sampler
        self._item_category, self._seed = item_category, seed
        self._target_features = target_features
        self.users_without_negatives = 0
        """Users who clicked every item, so that no negative is left for them."""
        self.clicks_without_negatives = 0
        """Their clicks."""
        self.requests_without_history = 0
        """Requests not made because the life is too short for their offset."""

    def build(self, lives: Lives, chunk: int) -> dict[str, pa.Table]:
        """Rows of the `user` layout by split.

        A row holds the life only up to the newest request of its split: what a request must not
        see, its own target and all that comes later, is not in its row at all.

        Args:
            lives: some users.
            chunk: number of this chunk of users.
        """
        length = np.diff(lives.offsets)
        owner = np.repeat(np.arange(length.size), length)
        clicked = ClickedItems(owner, lives.item, length.size)
        usable = clicked.num_items < self._sampler.num_items
        self.users_without_negatives += int((~usable).sum())
        self.clicks_without_negatives += int(length[~usable].sum())
        return {
            split: self._split(split, lives, usable, clicked, [self._seed, chunk, number])
            for number, split in enumerate(SPLITS)
        }

    def _split(
        self, split: str, lives: Lives, usable: np.ndarray, clicked: ClickedItems, seed: list[int]
    ) -> pa.Table:
        end_UR = np.diff(lives.offsets)[:, None] - self._protocol.offsets(split)
        made = (end_UR >= self._protocol.min_history) & usable[:, None]
        self.requests_without_history += int((~made[usable]).sum())
        rows = np.flatnonzero(made.any(axis=1))
        owner, end = np.nonzero(made)[0], end_UR[made]
        start = lives.offsets[:-1]
        kept = end_UR[rows, -1]
        index = ranges(start[rows], kept)
        life = {name: getattr(lives, name) for name in ("item", "category", "timestamp")}
        return user_table(
            lives.user[rows],
            {name: values[index] for name, values in (life | dict(lives.features)).items()},
            _offsets(kept),
            {"history_end": end, "timestamp": lives.timestamp[start[owner] + end]},
            _offsets(made[rows].sum(axis=1)),
            self._targets(lives, owner, start[owner] + end, clicked, seed),
            np.arange(end.size + 1) * (1 + self._protocol.num_negatives),
        )

    def _targets(
        self,
        lives: Lives,
        owner: np.ndarray,
        positive: np.ndarray,
        clicked: ClickedItems,
        seed: list[int],
    ) -> dict[str, np.ndarray]:
        size = (positive.size, self._protocol.num_negatives)
        negative = self._sampler.draw_unclicked(
            np.random.default_rng(seed), np.repeat(owner, size[1]), clicked
        )
        item = np.column_stack([lives.item[positive], negative.reshape(size)])
        category = self._item_category[item]
        # A positive keeps the category it was clicked with.
        category[:, 0] = lives.category[positive]
        label = np.zeros(item.shape, np.float32)
        label[:, 0] = 1
        known = {
            name: np.repeat(lives.features[name][positive], item.shape[1])
            for name in self._target_features
        }
        ids = {"item": item.ravel(), "category": category.ravel()}
        return {**ids, "label": label.ravel(), **known}


def _offsets(length: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
