"""Reads dataclasses from JSON by the types their fields declare, and names what does not fit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

MOST = 1 << 62
"""As large as a number may be; sums of two such still fit 64 bits."""
_LONGEST = 100
"""Characters of a value or a name in a message."""


_NONE: Mapping[str, int] = MappingProxyType({})


def read(kind: Any, value: Any, where: str = "", bounds: Mapping[str, int] = _NONE) -> Any:
    """A value as a type says: a dataclass, a mapping or a list of such, a word, a number.

    Args:
        kind: of the value; `Any` takes all.
        value: as `json` reads it.
        where: path of the value, for messages.
        bounds: `least` and `most` of a number, which a field has as its metadata.

    Raises:
        ValueError: it is something else, or lacks a field, or has one more.
    """
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is dict:
        items = _checked(value, dict, where, "an object").items()
        return {name: read(inner[1], held, _path(where, name)) for name, held in items}
    if origin is list:
        held = _checked(value, list, where, "a list")
        return [read(inner[0], part, f"{where}[{i}]") for i, part in enumerate(held)]
    if origin is Literal:
        if value not in inner:
            raise _wrong(where, value, f"one of {', '.join(inner)}")
        return value
    if kind is str:
        return _checked(value, str, where, "text")
    return _read_number(kind, value, where, bounds) if kind in (int, float) else value


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    given = _checked(value, dict, where, "an object")
    types, found = get_type_hints(kind), {}
    for name in given:
        if name not in types:
            raise ValueError(f"{_path(where, name)} is no field; take {', '.join(types)}")
    for field in dataclasses.fields(kind):
        path = _path(where, field.name)
        if field.name in given:
            found[field.name] = read(types[field.name], given[field.name], path, field.metadata)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"it lacks {path}")
    return kind(**found)


def _read_number(kind: type, value: Any, where: str, bounds: Mapping[str, int]) -> Any:
    least, most = bounds.get("least", 0), bounds.get("most", MOST)
    whole = "whole " if kind is int else ""
    kinds = int if kind is int else (int, float)
    is_one = isinstance(value, kinds) and not isinstance(value, bool)
    if not (is_one and least <= value <= most):  # As NaN never is.
        raise _wrong(where, value, f"a {whole}number from {least} to {most}")
    return value


def _checked(value: Any, kind: type, where: str, what: str) -> Any:
    if not isinstance(value, kind):
        raise _wrong(where, value, what)
    return value


def _wrong(where: str, value: Any, what: str) -> ValueError:
    return ValueError(f"{where or 'it'} is {_short(json.dumps(value))}; it must be {what}")


def _path(where: str, name: str) -> str:
    # As JSON writes it, so that a name which no terminal can show is shown all the same.
    return f"{where}.{_short(json.dumps(name)[1:-1])}".removeprefix(".")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
