"""How ids on disk become rows of tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines.schema import FEATURES, INTERVAL

IdMode = Literal["check", "hash"]


@dataclass(frozen=True)
class IdRules:
    """How ids become rows of a table."""

    rows: dict[str, int]
    """Rows of the table of each feature that is read, `item` and `category` first; those of
    `interval` are buckets and the target's own."""
    mode: IdMode | Literal["as_is"]
    """`check`: an id outside the table is an error. `hash`: ids are hashed into it. `as_is`: ids
    are left alone, to be counted."""
    interval_unit: int = 1
    """Units of the timestamps that count as one."""

    @property
    def on_disk(self) -> list[str]:
        """The features that are columns."""
        return [name for name in self.rows if name != INTERVAL]


def rows_option(feature: str) -> str:
    """What sets the rows of a feature's table, below `data`."""
    return f"{feature}_rows" if feature in FEATURES else f"feature_rows.{feature}"


def hash_ids(ids: np.ndarray, rows: int) -> np.ndarray:
    """Spread any 64-bit ids over rows 1 .. rows - 1; row 0 stays free.

    Source: the finaliser of splitmix64 (Steele et al., OOPSLA 2014).
    """
    mixed = ids.astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed % np.uint64(rows - 1)).astype(np.int64) + 1


def hash_feature(feature: str, ids: np.ndarray, rows: int) -> np.ndarray:
    """`hash_ids` of a feature; 0 of a further one is what a target without it has, and stays."""
    hashed = hash_ids(ids, rows)
    return hashed if feature in FEATURES else np.where(ids == 0, 0, hashed)
