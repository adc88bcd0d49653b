"""Parsers as all subcommands make them, and their complaints in one line."""

from __future__ import annotations

import inspect
import re
from argparse import ArgumentError
from collections.abc import Callable, Mapping
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, set_loader, set_parsing_settings

from trainer.yaml_file import YamlError, load

# The strings under the fields of our configs are their help.
set_parsing_settings(docstring_parse_attribute_docstrings=True)
# For what is given on the command line, and for files of a section alone, as of config files.
set_loader("yaml", load, (YamlError, yaml.YAMLError))


_LONGEST = 800
"""Characters of a complaint, which may hold a whole list of values."""


def make_parser(prog: str, description: str, usage: str | None = None) -> ArgumentParser:
    """A parser that raises `argparse.ArgumentError` and takes whole names only.

    Args:
        prog: what its help calls the program.
        description: what the program does.
        usage: in place of a list of all options.
    """
    return ArgumentParser(
        prog=prog,
        description=description,
        usage=usage,
        exit_on_error=False,
        allow_abbrev=False,
    )


def in_one_line(error: ArgumentError) -> str:
    """What is wrong with an argument, in our words where jsonargparse shows Python's."""
    text = " ".join(str(error).split())
    if "are required:" in text:
        text = re.sub(r"\w+\.(\w+)", r"--\1", text)
    for pattern, words in (
        (r'^Parser key "(\S+)": Expected an? (.+)\. Got value: (.*)$', r"\1 is \3; it must be \2"),
        (r'^Parser key "([^"]+)": ', r"\1: "),
        (r"^Unexpected config:.*$", "config: the file does not map fields to values"),
        (
            r"^(\S+): Unable to load config '(.*?)'.*$",
            r"\1 is \2; it is a section: give --\1.FIELD VALUE",
        ),
        (r"typing\.Literal\[(.*)\]", r"one of \1"),
        (r"<class '(\w+)'>", r"\1"),
        (r"\btyping\.", ""),
    ):
        text = re.sub(pattern, words, text)
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"


def choose(
    program: str,
    description: str,
    metavar: str,
    functions: Mapping[str, Callable[..., Any]],
    arguments: list[str],
) -> tuple[str, dict[str, Any]]:
    """Which of some functions is asked for, and its arguments; their docstrings are the help."""
    parser = make_parser(program, description)
    subcommands = parser.add_subcommands(dest="chosen", metavar=metavar)
    for name, function in functions.items():
        summary = (function.__doc__ or "").strip().splitlines()[0]
        needed = [
            f"--{parameter.name} {parameter.name.upper()} "
            for parameter in inspect.signature(function).parameters.values()
            if parameter.default is parameter.empty
        ]
        usage = f"{program} {name} {''.join(needed)}[--OPTION VALUE ...]"
        options = make_parser(f"{program} {name}", summary, usage)
        options.add_function_arguments(function)
        subcommands.add_subcommand(name, options, help=summary)
    parsed = parser.parse_args(arguments)
    return parsed.chosen, values_of(parser.instantiate_classes(parsed)[parsed.chosen])


def values_of(parsed: Namespace) -> dict[str, Any]:
    """Arguments of a function by name; jsonargparse marks names that its namespace has itself."""
    return {name.lstrip("\u200b"): value for name, value in vars(parsed).items()}
