"""What trackers take of configs and results: flat names, finite numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested sections by dotted name."""
    found: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among the values."""
    return {
        name: value
        for name, value in result.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
