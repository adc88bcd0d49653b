"""Any manifest is what was written, or is refused as damaged."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.harness import accepted, examples
from tests.fuzz.test_fuzz_configs import NASTY
from tests.saved import MANIFEST
from trainer.checkpoints.manifest import (
    DamagedCheckpointError,
    Manifest,
    parse_manifest,
)

WRITTEN = MANIFEST.to_json().encode()
FIELDS = sorted(set(json.loads(WRITTEN)) - {"digest"})
LEAVES = [(field,) for field in FIELDS] + [
    ("optimizers", "sparse"),
    ("metrics", "auc"),
    ("files", "loader.json"),
    ("files", "loader.json", "bytes"),
    ("files", "loader.json", "sha256"),
]


def _read(content: bytes) -> Manifest:
    return parse_manifest(content, "here")


@examples(300)
@given(place=st.integers(0, len(WRITTEN) - 1), change=st.integers(1, 255))
def test_a_byte_that_changed_is_damage_or_changes_nothing(place: int, change: int) -> None:
    content = bytearray(WRITTEN)
    content[place] ^= change
    found = accepted("manifest, a byte changed", lambda: _read(bytes(content)))
    assert found in (None, MANIFEST)


@examples(50)
@given(end=st.integers(0, len(WRITTEN) - 3))
def test_a_manifest_that_is_cut_off_is_damage(end: int) -> None:
    with pytest.raises(DamagedCheckpointError, match="here is damaged"):
        _read(WRITTEN[:end])


@examples(300)
@given(
    leaf=st.sampled_from(LEAVES),
    value=NASTY.map(lambda value: json.loads(json.dumps(value, default=str))),
)
def test_a_value_of_another_kind_is_damage(leaf: tuple[str, ...], value: Any) -> None:
    """Without a digest, as earlier versions wrote manifests."""
    raw = json.loads(WRITTEN)
    del raw["digest"]
    where = raw
    for name in leaf[:-1]:
        where = where[name]
    before, where[leaf[-1]] = where[leaf[-1]], value
    content = json.dumps(raw).encode()
    found = accepted("manifest, a value changed", lambda: _read(content))
    assert found is None or value == before or isinstance(value, type(before) | int)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("step", -1), ("step", "x"), ("step", True), ("samples", 1.5), ("world", 0)),
        *(("seconds", float("nan")), ("optimizers", {}), ("metrics", None), ("files", {})),
        *(("files", {"a": {"bytes": 1, "sha256": "x"}}), ("run", 3), ("more", 1)),
    ],
)
def test_what_a_field_cannot_be_is_damage(field: str, value: Any) -> None:
    raw = json.loads(WRITTEN) | {field: value}
    del raw["digest"]
    with pytest.raises(DamagedCheckpointError, match=f"here is damaged: .*{field}"):
        _read(json.dumps(raw).encode())


def test_a_manifest_of_before_digests_is_read() -> None:
    raw = json.loads(WRITTEN)
    del raw["digest"], raw["run"]
    found = _read(json.dumps(raw).encode())
    assert (found.step, found.run) == (3, "")
