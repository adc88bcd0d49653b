"""YAML that people write: of a bounded size, without surprises, with the line of what is wrong.

PyYAML takes the last of two equal keys without a word, unfolds aliases without bound and knows
tags that are no plain data; none of that is let through.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import yaml
from jsonargparse import get_loader

from pipelines import storage

MOST_BYTES = 1 << 20
"""A file has at most; the largest config of this project has 5 kB."""
MOST_VALUES = 100_000
"""Values, each alias counted as all that it stands for."""
MOST_DEPTH = 40
"""Sections in sections, or lists in lists."""
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")}
_PLAIN |= {f"tag:yaml.org,2002:{name}" for name in ("seq", "map", "timestamp")}
_MOST_DIGITS = 300
"""Of a number; Python itself refuses to read more than 4300."""
_plain_load: Callable[[str], Any] = get_loader("yaml")
"""The loader of jsonargparse, which knows 1e-3 as a number; ours takes its place in parsers."""


class YamlError(ValueError):
    """What is wrong with a text; `line` counts from 1, 0 where it is no line's fault."""

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(problem)
        self.line = line

    def of(self, path: str) -> str:
        """The whole message, with file and line."""
        return f"{path}{f' line {self.line}' if self.line else ''}: {self}"


def read_text(path: str) -> str:
    """The text of a file that is small enough to be a config.

    Raises:
        ValueError: it is not there, no file, not UTF-8 or far too large; the path comes first.
    """
    if "\0" in path or not storage.exists(path):
        raise ValueError(f"{path!r} is not there; give a YAML file".replace("'", ""))
    if storage.is_folder(path):
        raise ValueError(f"{path} is a folder; give a YAML file")
    with storage.open_file(path, "rb") as stream:
        content: bytes = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES:,} bytes; give a YAML file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path} line {line}: byte {error.start} is not UTF-8 text") from error


def compose(text: str) -> yaml.Node | None:
    """The nodes of a text, each with its line; None where it says nothing.

    Raises:
        YamlError: it is not YAML, has several documents, equal keys, a tag that is no plain data,
            an alias within what it stands for, or is too deep or too large.
    """
    try:
        _check_events(text)
        node: yaml.Node | None = yaml.compose(text, Loader=_loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        told = ", ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(told, mark.line + 1 if mark else 0) from error
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from error
    if node is not None:
        _Check().size(node)
    return node


def load(text: str) -> Any:
    """What a text says, as plain data.

    Raises:
        YamlError: as of `compose`.
    """
    compose(text)
    return _plain_load(text)


def line_of(part: yaml.Node | yaml.Event) -> int:
    """Line of a part of a text, from 1."""
    assert part.start_mark is not None
    return int(part.start_mark.line) + 1


@functools.cache
def _loader() -> Any:
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _check_events(text: str) -> None:
    """Depth and documents, which need no recursion to count."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_loader()):
        line = line_of(event)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            raise YamlError("a second document begins here; a file holds one", line)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise YamlError(f"more than {MOST_DEPTH} levels in each other", line)


class _Check:
    """Walks through nodes, each of them once, and counts what they are with aliases unfolded."""

    def __init__(self) -> None:
        self._sizes: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def size(self, node: yaml.Node) -> tuple[int, int]:
        """Values in a node, and levels."""
        if id(node) in self._open:
            raise YamlError("an alias stands for something that holds it", line_of(node))
        if id(node) not in self._sizes:
            self._open.add(id(node))
            self._sizes[id(node)] = self._count(node)
            self._open.remove(id(node))
        return self._sizes[id(node)]

    def _count(self, node: yaml.Node) -> tuple[int, int]:
        if node.tag not in _PLAIN:
            raise YamlError(f"the tag {node.tag} is no plain value, list or section", line_of(node))
        if isinstance(node, yaml.ScalarNode):
            if node.tag.endswith((":int", ":float")) and len(node.value) > _MOST_DIGITS:
                raise YamlError(f"a number of {len(node.value):,} digits", line_of(node))
            return 1, 0
        inner = node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            inner = [value for _, value in node.value]
        sizes = [self.size(value) for value in inner]
        values = 1 + sum(size for size, _ in sizes)
        levels = 1 + max((depth for _, depth in sizes), default=0)
        if values > MOST_VALUES:
            raise YamlError(f"more than {MOST_VALUES:,} values, aliases unfolded", line_of(node))
        if levels > MOST_DEPTH:
            raise YamlError(f"more than {MOST_DEPTH} levels, aliases unfolded", line_of(node))
        return values, levels


def _check_keys(node: yaml.MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            told = repr(key.value)[:50] if isinstance(key, yaml.ScalarNode) else "a list or section"
            raise YamlError(f"{told} is no name; names are text", line_of(key))
        if key.value in seen:
            raise YamlError(
                f"{key.value} is given twice, first in line {seen[key.value]}; give it once",
                line_of(key),
            )
        seen[key.value] = line_of(key)
