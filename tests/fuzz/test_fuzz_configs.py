"""Any config file is a config or is refused in lines; what is taken is what it says."""

import dataclasses
import functools
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.harness import accepted, examples
from tests.small_run import small_schema
from trainer.arguments import parse_config
from trainer.config import TrainConfig
from trainer.config_file import check_config_file
from trainer.yaml_file import load

RECIPES = sorted((Path(__file__).parents[2] / "launch" / "recipes").glob("*.yaml"))
NASTY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-5, 70),
    st.floats(),
    st.text(max_size=12),
    st.binary(max_size=4),
    st.sampled_from(["", "null", "1e999", "0x10", "1_000", "09", ".inf", "-", "~", "a: b", "*a"]),
    st.sampled_from(["/etc/passwd", "../x", "{}", "[]", "!!python/name:os.system", "true"]),
    st.sampled_from([0, 1, -1, 2**31, 2**63, 2**64, 10**40, 1e-320, -0.0]),
    st.lists(st.integers(-2, 200), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(-2, 50), max_size=3),
    st.lists(st.lists(st.none(), max_size=2), max_size=2),
)
TOKENS = st.sampled_from(
    [
        *("name", "seed", "loop", "epochs", "data", "model", "preset", "dare", "search", "top_k"),
        *(": ", ":", "\n", "\n  ", "\n    ", "- ", "{", "}", "[", "]", ", ", "&a ", "*a", "<<"),
        *("!!python/object:os.x ", "!!set ", "!x ", "|\n", ">\n", "'", '"', "#", "---\n", "...\n"),
        *("\t", "\0", "\ufeff", "\x85", "\u2028", "%YAML 1.2\n", "? ", "1", "1.5", "null", "~"),
    ]
)


def leaves(kind: Any = TrainConfig, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of each field that is no section."""
    for name, of in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(of):
            yield from leaves(of, f"{path}{name}.")
        else:
            yield path + name, of


LEAVES = dict(leaves())


def sections() -> Iterator[str]:
    return iter({name.rpartition(".")[0] for name in LEAVES} - {""})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "run.yaml"


def read(file: Path) -> tuple[TrainConfig, str]:
    return parse_config([f"--config={file}"])


def checked(file: Path) -> tuple[TrainConfig, str]:
    config, text = read(file)
    config.check(small_schema(), world=1)
    return config, text


@examples(60)
@given(st.one_of(st.binary(max_size=200), st.lists(TOKENS, max_size=30).map("".join)))
def test_any_bytes_are_looked_at_in_lines(file: Path, content: bytes | str) -> None:
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    file.write_bytes(raw)
    if accepted("config files of any bytes", lambda: check_config_file(str(file))) is None:
        return
    # An independent reading finds the same: PyYAML's own, which knows no lines and no limits.
    assert set(yaml.safe_load(raw.decode("utf-8-sig"))) <= {*TrainConfig.__dataclass_fields__}


@examples(60)
@given(st.lists(TOKENS, max_size=30).map("".join))
def test_what_is_read_is_what_yaml_says(text: str) -> None:
    held = accepted("YAML texts", lambda: [load(text)])
    if held is None:
        return
    (found,) = held
    expected = yaml.load(text, Loader=_Plain)
    # jsonargparse takes `{a, b}` and `a:` for the text that they are.
    assert found in (expected, text)


class _Plain(yaml.CSafeLoader):
    """With dates as text."""


_Plain.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith("timestamp")]
    for first, pairs in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


@examples(12)
@given(st.sampled_from(RECIPES), st.data())
def test_a_recipe_with_slips_of_the_hand_is_read_or_refused(
    file: Path, recipe: Path, data: st.DataObject
) -> None:
    text = recipe.read_text()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        taken = data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(st.one_of(TOKENS, st.text(max_size=3))) + text[at + taken :]
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    found = accepted("recipes with slips", lambda: checked(file))
    if found is not None:
        _check_taken(yaml.safe_load(text), found[0])


def near(of: Any) -> st.SearchStrategy[Any]:
    """Values that a field of a type may well take."""
    if typing.get_origin(of) is typing.Literal:
        return st.sampled_from(typing.get_args(of))
    kinds = {int: st.integers(0, 64), float: st.floats(0, 1), bool: st.booleans()}
    kinds[str] = st.text(st.characters(codec="utf-8"), max_size=8)
    return kinds.get(of, st.lists(st.integers(1, 64), min_size=1, max_size=3))


FIELDS = st.sampled_from(sorted(LEAVES)).flatmap(
    lambda name: st.tuples(st.just(name), st.one_of(near(LEAVES[name]), near(LEAVES[name]), NASTY))
)
SECTIONS = st.tuples(st.sampled_from(sorted(sections())), NASTY)


@examples(25)
@given(st.lists(st.one_of(FIELDS, FIELDS, FIELDS, SECTIONS), min_size=1, max_size=3).map(dict))
def test_any_value_of_any_field_is_taken_or_refused(file: Path, values: dict[str, Any]) -> None:
    tree: dict[str, Any] = {}
    for name, value in sorted(values.items()):
        *way, last = name.split(".")
        section = tree
        for step in way:
            inner = section.setdefault(step, {})
            section = inner if isinstance(inner, dict) else section.__setitem__(step, {}) or {}
        section[last] = value
    file.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    found = accepted("configs with any values", lambda: checked(file))
    if found is None:
        return
    config, text = found
    _check_taken(tree, config)
    file.write_text(text)
    assert read(file)[0] == config, "what a run writes is what it was"


def _check_taken(tree: dict[str, Any], config: TrainConfig) -> None:
    for name, value in _flat(tree, set(LEAVES)):
        taken = functools.reduce(getattr, name.split("."), config)
        assert _same(taken, value), (name, value, taken)


def _flat(tree: dict[str, Any], names: set[str], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if path + key in names:
            yield path + key, value
        elif isinstance(value, dict):
            yield from _flat(value, names, f"{path}{key}.")


def _same(taken: Any, value: Any) -> bool:
    """Whether a field holds what YAML says; numbers given for text are that text."""
    if isinstance(taken, float) and isinstance(value, int | float):
        return taken == float(value) and math.isfinite(taken)
    if isinstance(taken, tuple | list):
        return (
            isinstance(value, list) and len(value) == len(taken) and all(map(_same, taken, value))
        )
    if isinstance(taken, dict) and isinstance(value, dict):
        return taken == value
    return bool(type(taken) is type(value) and taken == value)
