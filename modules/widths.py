"""The features of a space and their widths: what is looked up, and in what order it lies."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

FIRST = ("item", "category", "interval")
"""Features that every data set has, in this order before all others."""
_OWN = (*FIRST, "position")
MOST_WIDTH = 1 << 16
"""Of a table, and of any layer of a model."""
MOST_BEHAVIOURS = (1 << 31) - 1
"""Of a history: kernels count its places in int32."""


@dataclass(frozen=True, kw_only=True)
class WidthsConfig:
    """Width of each feature's embedding; the width of the space is their sum."""

    item: int = 16
    """Width of the item table."""
    category: int = 16
    """Width of the category table."""
    position: int = 16
    """Width of the position table; 0 leaves the position out."""
    interval: int = 0
    """Width of the table of time intervals between behaviour and request, in buckets
    (`data.interval_buckets`); 0 leaves them out."""
    features: dict[str, int] = field(default_factory=dict)
    """Widths of further features of the data by name, as in `{behaviour_type: 4, scenario: 4}`.
    They and the interval are looked up, scored and scaled together with item and category."""

    def __post_init__(self) -> None:
        for name in self.features:
            if name in _OWN or not name.isidentifier():
                raise ValueError(
                    f"features of model.embeddings has {name!r}; give names of letters, digits and "
                    f"_, other than {', '.join(_OWN)}, which have widths of their own"
                )
        for name, width in self.tables.items():
            if not 4 <= width <= MOST_WIDTH or width % 4:
                raise ValueError(
                    f"{name} width is {width}; it must be a multiple of 4, at least 4 (FBGEMM), at "
                    f"most {MOST_WIDTH}" + ("" if name in ("item", "category") else ", or left out")
                )
        if not 0 <= self.position <= MOST_WIDTH:
            raise ValueError(
                f"position width is {self.position}; it must be 0 or more, at most {MOST_WIDTH}"
            )

    @property
    def tables(self) -> dict[str, int]:
        """Width of each feature that is looked up, in the order they lie side by side."""
        interval = {"interval": self.interval} if self.interval else {}
        # By name, so that the columns of a checkpoint do not depend on a config file's order.
        more = dict(sorted(self.features.items()))
        return {"item": self.item, "category": self.category, **interval, **more}

    def with_width(self, table: str, width: int) -> WidthsConfig:
        """The same with another width of one of its tables."""
        if table in self.features:
            return replace(self, features={**self.features, table: width})
        changed: dict[str, Any] = {table: width}
        return replace(self, **changed)
