"""What a sweep goes over: presets, seeds, datasets, and any fields of a run's config."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from modules.embedding import UsesConfig
from modules.model_config import Preset
from pipelines.schema import load_schema

TABLE_1: tuple[Preset, ...] = (
    *("eta", "sdim", "din", "twin", "twin_hard", "twin_proj", "twin_no_tr", "twin_v2", "twin_4e"),
    "dare",
)
"""The rows of Table 1 of arXiv:2410.02604, in its order."""

_WIDTHS: dict[str, tuple[str, ...]] = {
    "width": ("attention", "representation"),
    "attention_width": ("attention",),
    "representation_width": ("representation",),
}
"""Names for the widths of all features; where one table serves both, they are those of both."""
_FEATURES = ("item", "category", "position")
_SPLITS = ("train", "val", "test")
_OWN_OPTIONS = {"model.preset": "--presets", "seed": "--seeds"}
"""Fields that are rows, or within a cell: varied as columns they would be called wrongly."""


@dataclass(frozen=True)
class Axis:
    """Fields that take the same values together, one value at a time."""

    label: str
    """What tables and folders call it."""
    fields: tuple[str, ...]
    """Dotted names, or a name for several widths."""
    values: tuple[str, ...]

    def options(self, value: str, uses: UsesConfig) -> dict[str, str]:
        """The fields of a run and what they are set to.

        Args:
            value: one of `values`.
            uses: of the run's model.
        """
        found = {}
        for field in self.fields:
            for name in _width_fields(field, uses) if field in _WIDTHS else (field,):
                found[name] = value
        return found

    @property
    def numbers(self) -> list[float] | None:
        """The values, where all are numbers."""
        try:
            numbers = [float(value) for value in self.values]
        except ValueError:
            return None
        return numbers if all(map(math.isfinite, numbers)) else None


def _width_fields(name: str, uses: UsesConfig) -> Iterator[str]:
    attention = {uses.attention_target, uses.attention_history}
    shared = attention & {uses.representation_target, uses.representation_history}
    for kind in _WIDTHS["width"] if shared else _WIDTHS[name]:
        for feature in _FEATURES:
            yield f"model.embeddings.{kind}.{feature}"


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset."""

    label: str
    folder: str
    """With `train/ val/ schema.json`, and `test/` where it has such a split; empty for the one of
    the base config."""

    def options(self) -> dict[str, str]:
        """The fields of a run that read it; `data.test` is empty where there is none.

        Raises:
            ValueError: its `schema.json` is missing or damaged.
        """
        if not self.folder:
            return {}
        schema = f"{self.folder}/schema.json"
        places = {f"data.{split}": f"{self.folder}/{split}" for split in _SPLITS}
        if "test" not in load_schema(schema).splits:
            places["data.test"] = ""
        return {**places, "data.schema": schema}


@dataclass(frozen=True)
class Setting:
    """One cell of the table; its runs differ in their seed."""

    preset: str
    values: tuple[str, ...]
    """One of each axis."""
    dataset: str
    """Its label."""


@dataclass(frozen=True)
class Grid:
    """All that a sweep goes over."""

    presets: tuple[str, ...]
    seeds: tuple[int, ...]
    axes: tuple[Axis, ...]
    datasets: tuple[Dataset, ...]

    def columns(self) -> list[tuple[tuple[str, ...], str]]:
        """Values of the axes with a dataset, which changes fastest, as in Table 1."""
        values = itertools.product(*(axis.values for axis in self.axes))
        return [(value, dataset.label) for value in values for dataset in self.datasets]

    def settings(self) -> list[Setting]:
        """All cells, preset by preset."""
        return [Setting(preset, *column) for preset in self.presets for column in self.columns()]

    def run_name(self, setting: Setting, seed: int) -> str:
        """Of a run's folder."""
        varied = [f"{axis.label}_{v}" for axis, v in zip(self.axes, setting.values, strict=True)]
        name = "-".join([setting.preset, *varied, setting.dataset, f"seed_{seed}"])
        return re.sub(r"[^\w.+=-]+", "_", name)

    def field_options(self, setting: Setting, uses: UsesConfig) -> dict[str, str]:
        """Fields of a setting's runs: those of its dataset and those that are varied.

        Raises:
            ValueError: two axes set one field, or the dataset is not there.
        """
        (dataset,) = (d for d in self.datasets if d.label == setting.dataset)
        found = dataset.options()
        for axis, value in zip(self.axes, setting.values, strict=True):
            fields = axis.options(value, uses)
            twice = sorted(found.keys() & fields)
            if twice:
                raise ValueError(
                    f"{setting.preset}: --vary sets {twice[0]} twice; where one table serves "
                    "attention and representation, vary `width`, or leave such presets out"
                )
            found |= fields
        return found


def parse_presets(text: str) -> tuple[str, ...]:
    """Presets by name, or `all`, or `table1`.

    Raises:
        ValueError: a name is not known, or given twice.
    """
    known: tuple[str, ...] = get_args(Preset)
    if text == "all":
        return known
    if text == "table1":
        return TABLE_1
    names = split_list(text)
    for name in names:
        if name not in known:
            raise ValueError(f"--presets: {name!r} is no preset; take {', '.join(known)}, or all")
    return each_once("--presets", names)


def parse_seeds(text: str) -> tuple[int, ...]:
    """`5` for 1 to 5; `7,` or `1,2,7` for these.

    Raises:
        ValueError: something else.
    """
    if text.isdecimal() and int(text) > 0:
        return tuple(range(1, int(text) + 1))
    seeds = split_list(text)
    if "," not in text or not all(seed.isdecimal() for seed in seeds):
        raise ValueError(f"--seeds is {text}; give how many, such as 5, or a list, such as 1,2,7")
    # As numbers, so that 01 and 1 are the same.
    return tuple(map(int, each_once("--seeds", [str(int(seed)) for seed in seeds])))


def parse_datasets(text: str) -> tuple[Dataset, ...]:
    """Folders by the name of their last part.

    Raises:
        ValueError: two of one name.
    """
    folders = [folder.rstrip("/") for folder in split_list(text)]
    labels = each_once("--data", [Path(folder).name for folder in folders])
    return tuple(Dataset(label, f) for label, f in zip(labels, folders, strict=True))


def parse_vary(texts: Sequence[str]) -> tuple[Axis, ...]:
    """Axes from `FIELD=VALUE,VALUE` or `FIELD+FIELD=VALUE,VALUE`.

    Raises:
        ValueError: not of that form, a value or field given twice, or one that has an option of
            its own.
    """
    axes = []
    for text in texts:
        names, equals, values = text.partition("=")
        fields = names.split("+")
        for field in fields:
            if field in _OWN_OPTIONS:
                own = _OWN_OPTIONS[field]
                raise ValueError(f"--vary is {text}; {field} is varied by {own}: give {own} A,B")
        if not equals or not all("." in field or field in _WIDTHS for field in fields):
            raise ValueError(
                f"--vary is {text}; give FIELD=VALUE,VALUE with a dotted field such as "
                f"model.search.top_k, or one of {', '.join(_WIDTHS)}; FIELD+FIELD=... sets both"
            )
        ends = [field.rpartition(".")[2] for field in fields]
        axes.append(Axis("+".join(ends), tuple(fields), each_once("--vary", split_list(values))))
    if len({axis.label for axis in axes}) < len(axes):
        axes = [Axis("+".join(axis.fields), axis.fields, axis.values) for axis in axes]
    if axes:
        each_once("--vary", [axis.label for axis in axes])
    return tuple(axes)


def split_list(text: str) -> list[str]:
    """The parts between commas that are not within brackets, quotes not minded; empty ones not."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def each_once(option: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names, of which there are some, each there once.

    Raises:
        ValueError: none, or one twice.
    """
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice or not names:
        told = f"has {twice[0]} twice" if twice else "is empty"
        raise ValueError(f"{option} {told}; give each once, between commas")
    return tuple(names)


def split_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments of a sweep, and dotted ones, which are for its runs."""
    own, passed = [], []
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if not (name.startswith("--") and "." in name):
            own.append(argument)
            continue
        passed.append(argument)
        if not equals:
            passed += itertools.islice(rest, 1)
    return own, passed
