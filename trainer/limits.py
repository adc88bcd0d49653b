"""Numbers of a config that nothing can calculate with: not finite, or larger than machines hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

_MOST = {int: 1 << 62, float: 1e30}
"""Counts are int64 on their way, and sums of two still fit. Training is float32, up to 3e38."""


def number_problems(section: Any, path: str = "") -> Iterator[str]:
    """Every number of a config and its sections that is NaN, infinite or too large, a line each.

    A comparison with a bound is never true of NaN, so that the checks of a section may let it pass.

    Args:
        section: a config.
        path: what its fields' names follow, such as `loop.`.
    """
    for field in dataclasses.fields(section):
        value, name = getattr(section, field.name), path + field.name
        if dataclasses.is_dataclass(value):
            yield from number_problems(value, f"{name}.")
            continue
        for number in _values(value):
            most = _MOST.get(type(number))
            if most is not None and not abs(number) <= most:
                what = f"at most {most}" if type(number) is int else f"finite, at most {most:g}"
                yield f"{name} is {value}; it must be {what}"


def _values(value: Any) -> Iterable[Any]:
    """Of a mapping, of a list, or the value itself."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else (value,)
