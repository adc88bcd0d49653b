"""A run's config from YAML files and dotted options; the parser is jsonargparse's."""

from __future__ import annotations

import functools
from argparse import ArgumentError
from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from modules.presets import preset_fields
from trainer.config import TrainConfig
from trainer.config_file import check_config_file, header
from trainer.parsing import in_one_line, make_parser


def run_parser(prog: str, description: str, options: str = "") -> ArgumentParser:
    """A parser of a whole training config, with files and dotted overrides.

    Args:
        prog: what its help calls the program.
        description: what the program does.
        options: the program's own, as its usage shows them.
    """
    usage = f"{prog} [--config FILE] {options} [--SECTION.FIELD VALUE ...]"
    parser = make_parser(prog, description, usage)
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file of a run, such as launch/recipes/synthetic_dare.yaml; options after it win",
    )
    parser.add_class_arguments(TrainConfig)
    parser.dump_header = [header()]
    return parser


def parse_config(options: Sequence[str]) -> tuple[TrainConfig, str]:
    """Read a run's config that no command line is about; `parse_run`'s arguments and errors.

    Returns:
        The config, and its YAML with every field resolved.
    """
    config, text, _ = parse_run(_parser(), list(options))
    return config, text


@functools.cache
def _parser() -> ArgumentParser:
    """One for all, since every preset sets the same fields: to make it takes longer than to parse.

    What is read does not depend on what was read before.
    """
    return run_parser("dare", "")


def parse_run(parser: ArgumentParser, arguments: list[str]) -> tuple[TrainConfig, str, Namespace]:
    """Read a run's config; a preset's fields count unless they are given.

    A preset given after the config file replaces the fields of the file's preset: a run's own
    `config.yaml` holds them all.

    Args:
        parser: of `run_parser`.
        arguments: of the command line.

    Returns:
        The config, its YAML with every field resolved, and all that was parsed.

    Raises:
        ValueError: a field has a value it does not take, or a config file is none.
        argparse.ArgumentError: the same, where the parser sees it.
    """
    notes = [check_config_file(arguments[at].removeprefix("--config=")) for at in _files(arguments)]
    try:
        return _parse_run(parser, arguments)
    except ArgumentError as error:
        note = next(filter(None, notes), "")
        if not note:
            raise
        raise ValueError(in_one_line(error) + note) from error


def _parse_run(parser: ArgumentParser, arguments: list[str]) -> tuple[TrainConfig, str, Namespace]:
    parsed = _parse(parser, arguments)
    preset, after = parsed.model.preset, max(_files(arguments), default=-1) + 1
    replaces = after > 0 and _parse(parser, arguments[:after]).model.preset != preset
    fields = {f"model.{name}": value for name, value in preset_fields(preset).items()}
    # Most runs are of the default preset, and a parse takes a twentieth of a second.
    if replaces or any(_default(parser, name) != value for name, value in fields.items()):
        parser.set_defaults(fields)
        replaced = [f"--{name}={value}" for name, value in fields.items()] if replaces else []
        parsed = _parse(parser, [*arguments[:after], *replaced, *arguments[after:]])
    names = TrainConfig.__dataclass_fields__
    values = parser.instantiate_classes(parsed)
    config = TrainConfig(**{name: values[name] for name in names})
    only_config = Namespace({name: parsed[name] for name in names})  # type: ignore[no-untyped-call]
    return config, parser.dump(only_config, skip_none=True, skip_check=True), parsed


def _parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """What the parser makes of arguments; it would let null through for anything."""
    parsed = parser.parse_args(arguments)
    nulls = [
        f"{name} is null; give a value, or leave it out"
        for field in TrainConfig.__dataclass_fields__
        for name, value in Namespace({field: parsed[field]}).items()  # type: ignore[no-untyped-call]
        if value is None
    ]
    if nulls:
        raise ValueError("\n".join(nulls))
    return parsed


def _default(parser: ArgumentParser, name: str) -> object:
    """A field's default, with a list for a tuple, as presets have it."""
    value = parser.get_default(name)
    return list(value) if isinstance(value, tuple) else value


def _files(arguments: list[str]) -> list[int]:
    """Places of the arguments that name a config file."""
    places = [
        place + (argument == "--config")
        for place, argument in enumerate(arguments)
        if argument.partition("=")[0] == "--config"
    ]
    return [place for place in places if place < len(arguments)]
