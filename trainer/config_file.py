"""A run's config file before it is parsed: its YAML, its names, and which version wrote it."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator

import yaml

from trainer.config import TrainConfig
from trainer.sweep.inputs import version
from trainer.yaml_file import YamlError, compose, line_of, read_text

_WRITER = "written by dare-torchrec "
_MOST_NAMED = 20
"""Unknown names that are told one by one."""


def header() -> str:
    """The comment at the head of every config that this program writes."""
    return f"{_WRITER}{version() or 'of an unknown version'}"


def check_config_file(path: str) -> str:
    """Look at a config file for what is wrong whatever its values are.

    Args:
        path: of a YAML file of `TrainConfig`.

    Returns:
        What to add to a complaint about a value of it: which version wrote it, where that is not
        this one; else nothing.

    Raises:
        ValueError: it is no file, not YAML as `compose` takes it, or has a name that this version
            does not know, a line each.
    """
    try:
        text = read_text(path)
        node = compose(text)
        if not isinstance(node, yaml.MappingNode):
            raise YamlError("a config maps fields to values, such as `seed: 1`")
    except YamlError as error:
        raise ValueError(f"--config: {error.of(path)}") from error
    except ValueError as error:
        raise ValueError(f"--config: {error}") from error
    wrote = _other_writer(text)
    problems = [f"--config: {path} line {line}: {problem}" for line, problem in _strange(node)]
    if problems:
        more = len(problems) - _MOST_NAMED
        told = problems[:_MOST_NAMED] + ([f"--config: {path}: {more} more"] if more > 0 else [])
        note = f"; the file{wrote}" if wrote else ""
        raise ValueError("\n".join(line + note for line in told))
    return f"; {path}{wrote}" if wrote else ""


def _other_writer(text: str) -> str:
    """Which other version wrote a config, to follow its name; empty for this one or none."""
    found = re.match(rf"#\s*{re.escape(_WRITER)}(\S{{1,40}})", text)
    here = version()
    if found is None or not here or found[1] == here:
        return ""
    return f" was written by dare-torchrec {found[1]}, this is {here}: use that, or mend the file"


def _strange(
    node: yaml.MappingNode, kind: type = TrainConfig, name: str = ""
) -> Iterator[tuple[int, str]]:
    """Line and problem of each name that is no field, and of each section that is no mapping."""
    fields = typing.get_type_hints(kind)
    for key, value in node.value:
        path = f"{name}.{key.value}" if name else key.value
        if key.value not in fields:
            section = f"{name} has" if name else "a config has"
            known = ", ".join(fields)
            told = path if path.isprintable() and len(path) < 100 else repr(path)[:100]
            yield line_of(key), f"{told} is not known here; {section} {known}"
            continue
        of = fields[key.value]
        if not dataclasses.is_dataclass(of):
            continue
        if isinstance(value, yaml.MappingNode):
            yield from _strange(value, typing.cast(type, of), path)
        else:
            yield line_of(value), f"{path} is a section; give it as `{key.value}: {{FIELD: VALUE}}`"
