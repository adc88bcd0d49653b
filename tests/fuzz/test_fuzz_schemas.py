"""Any `schema.json` is taken for what it says and can be planned with, or is refused in a line."""

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.loader import make_dataset
from pipelines.schema import DatasetSchema, load_schema
from pipelines.synthetic import prepare_synthetic
from tests.fuzz.harness import accepted, examples
from tests.fuzz.test_fuzz_configs import NASTY
from tests.small_run import small_config
from trainer.build import expected_steps
from trainer.config import TrainConfig
from trainer.planner.command import plan_run

JSON = st.one_of(
    NASTY.filter(lambda value: not isinstance(value, bytes)),
    st.sampled_from([0, 0.5, 10**30, 2**40, 2**40 + 1, 2**62, 1e300, float("nan"), "train", "\0"]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "data"
    prepare_synthetic(out=str(folder), users=40, items=60, categories=6, history_length=12)
    return folder


@pytest.fixture(scope="module")
def good(folder: Path) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads((folder / "schema.json").read_text())
    return raw


@pytest.fixture(scope="module")
def config(folder: Path) -> TrainConfig:
    splits = (f"--data.{split}={folder / split}" for split in ("train", "val", "test"))
    return small_config(*splits, f"--data.schema={folder / 'schema.json'}")


def use(config: TrainConfig) -> DatasetSchema:
    """Read a schema and do what a run does with it before it starts."""
    schema = load_schema(config.data.schema)
    config.check(schema, world=1)
    for split in ("train", "val", "test"):
        make_dataset(config.data, split, schema, seed=1, rank=0, world=1)
        schema.best_auc(split, config.data.history_length)
    expected_steps(config, schema, world=1)
    plan_run(config)
    return schema


def places(part: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value, all that hold others too."""
    keys = part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
    for key in keys:
        yield (*way, key)
        yield from places(part[key], (*way, key))


def near(value: Any) -> st.SearchStrategy[Any]:
    """Values that may well stand in a value's place."""
    if isinstance(value, float):
        return st.floats(0, 2**62)
    if isinstance(value, int):
        return st.one_of(st.integers(0, 1000), st.integers(0, 2**62), st.just(2**40))
    return st.text(max_size=5) if isinstance(value, str) else JSON


def _holder(raw: Any, way: tuple[Any, ...]) -> Any:
    for key in way[:-1]:
        raw = raw[key]
    return raw


@examples(150)
@given(st.data())
def test_any_schema_is_taken_for_what_it_says_or_refused(
    folder: Path, config: TrainConfig, good: dict[str, Any], data: st.DataObject
) -> None:
    raw = copy.deepcopy(good)
    for _ in range(data.draw(st.integers(1, 2))):
        # What only the author of the data reads is a third of the file.
        ways = [way for way in places(raw) if way[0] not in ("protocol", "counts")]
        if not ways:
            break
        way = data.draw(st.sampled_from(ways))
        holder, kind = _holder(raw, way), data.draw(st.sampled_from("vvvvdm"))
        if kind == "d":
            del holder[way[-1]]
        elif kind == "m" and isinstance(holder, dict):
            holder[data.draw(st.text(max_size=6))] = holder[way[-1]]
        else:
            holder[way[-1]] = data.draw(st.one_of(near(holder[way[-1]]), JSON))
    (folder / "schema.json").write_text(json.dumps(raw, default=repr))
    schema = accepted("schemas", lambda: use(config))
    if schema is not None:
        said = json.loads(json.dumps(raw, default=repr))
        assert dataclasses.asdict(schema) | said == dataclasses.asdict(schema)


@examples(100)
@given(st.data())
def test_any_text_is_a_schema_or_refused(
    folder: Path, good: dict[str, Any], data: st.DataObject
) -> None:
    content = json.dumps(good).encode()
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(content)))
        slip = data.draw(st.one_of(st.binary(max_size=4), st.sampled_from([b"9" * 5000, b"[" * 9])))
        content = content[:at] + slip + content[at + data.draw(st.integers(0, 8)) :]
    (folder / "schema.json").write_bytes(content)
    accepted("schemas with slips", lambda: load_schema(str(folder / "schema.json")))


def test_the_schema_that_is_changed_is_taken_itself(
    folder: Path, config: TrainConfig, good: dict[str, Any]
) -> None:
    (folder / "schema.json").write_text(json.dumps(good))
    assert dataclasses.asdict(use(config)) == good
