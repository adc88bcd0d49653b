"""Values of a config file that are read one by one, and all that is wrong with them."""

from __future__ import annotations

from typing import Any

_LONGEST = 100
"""Characters of a value in a message."""


def shown(value: Any) -> str:
    """A value for a message, not a page long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _named(value: Any) -> str:
    """The same; without quotes where it is a word."""
    return value if isinstance(value, str) and value.isidentifier() else shown(value)


class Mistakes:
    """Reads values and collects what is wrong with them, one line each."""

    def __init__(self, prefix: str) -> None:
        self.prefix, self.lines = prefix, list[str]()

    def add(self, text: str) -> None:
        """Take what is wrong, without the prefix."""
        self.lines.append(self.prefix + text)

    def mapping(self, raw: Any, where: str, known: tuple[str, ...]) -> dict[str, Any]:
        """The known keys of a section; empty where it is none."""
        if not isinstance(raw, dict):
            self.add(f"{where} is {shown(raw)}; it maps {', '.join(known)}")
            return {}
        for key in raw:
            if key not in known:
                self.add(f"{where} has {_named(key)}; it takes {', '.join(known)}")
        return {key: value for key, value in raw.items() if key in known}

    def number(
        self, raw: dict[str, Any], name: str, default: float, least: float, most: float = 1e15
    ) -> Any:
        """A number of a section, whole where its default is; `name` is its whole path."""
        value = raw.get(name.rpartition(".")[2], default)
        kinds = (int,) if isinstance(default, int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            what = "a whole number" if isinstance(default, int) else "a number"
            self.add(f"{name} is {shown(value)}; it must be {what}")
            return default
        if not least <= value <= most:
            limit = f"at least {least}" if most == 1e15 else f"from {least} to {most}"
            self.add(f"{name} is {shown(value)}; {limit}")
            return default
        return value

    def choice(self, raw: dict[str, Any], name: str, default: str, allowed: tuple[str, ...]) -> Any:
        """One of some words."""
        value = raw.get(name.rpartition(".")[2], default)
        if value not in allowed:
            self.add(f"{name} is {shown(value)}; it must be one of {', '.join(allowed)}")
            return default
        return value

    def choices(self, raw: Any, name: str, allowed: tuple[str, ...], on: str) -> tuple[str, ...]:
        """Some of some words, those that are allowed."""
        if not isinstance(raw, list):
            self.add(f"{name} is {shown(raw)}; it must be a list of {', '.join(allowed)}")
            return ()
        for value in raw:
            if value not in allowed:
                self.add(f"{name} has {_named(value)}; {on}: {', '.join(allowed)}")
        return tuple(value for value in raw if value in allowed)
