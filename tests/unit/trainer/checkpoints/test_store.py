"""A checkpoint is there as a whole or not at all, on a disk and where folders cannot be renamed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import fsspec
import pytest

from tests.saved import MANIFEST
from trainer.checkpoints.manifest import FileDigest, parse_manifest, scores_to_json
from trainer.checkpoints.store import Store


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    memory = "memory://store-test/run"
    yield Store(str(tmp_path / "run") if request.param == "disk" else memory)
    files = fsspec.filesystem("memory")
    if files.exists("/store-test"):
        files.rm("/store-test", recursive=True)


def write(store: Store, name: str, *, manifest: bool, publish: bool) -> None:
    store.make(name)
    store.write(store.aside(name), "tensors", "1 2 3")
    if manifest:
        store.write(store.aside(name), "manifest.json", "{}")
    if publish:
        store.publish(name)


def test_only_what_was_written_to_its_end_is_found(store: Store) -> None:
    assert store.complete() == []
    write(store, "step-00000002", manifest=True, publish=True)
    write(store, "step-00000003", manifest=False, publish=False)
    write(store, "step-00000001", manifest=True, publish=True)
    if store.is_local:  # With its manifest, and not yet renamed.
        write(store, "step-00000004", manifest=True, publish=False)
    assert store.complete() == ["step-00000001", "step-00000002"]


def test_what_interrupted_saves_left_is_removed_and_nothing_else(store: Store) -> None:
    write(store, "step-00000001", manifest=True, publish=True)
    write(store, "step-00000002", manifest=False, publish=False)
    write(store, "other", manifest=True, publish=True)
    store.remove_incomplete()
    assert store.complete() == ["step-00000001"]
    assert store.read("step-00000001", "tensors") == b"1 2 3"
    assert store.read("other", "tensors") == b"1 2 3"
    with pytest.raises(OSError, match="step-00000002"):
        store.read(store.aside("step-00000002"), "tensors")


def test_removing_takes_the_manifest_first(store: Store) -> None:
    """So that a removal that is cut short leaves nothing that looks complete."""
    write(store, "step-00000001", manifest=True, publish=True)
    with (
        mock.patch.object(type(store._fs), "rm", side_effect=OSError("cut short")),
        pytest.raises(OSError, match="cut short"),
    ):
        store.remove("step-00000001")
    assert store.complete() == []


def test_a_file_is_compared_with_what_was_written(store: Store) -> None:
    store.make("step-00000001")
    digest = store.write(store.aside("step-00000001"), "tensors", "1 2 3")
    store.write(store.aside("step-00000001"), "manifest.json", "{}")
    store.publish("step-00000001")
    assert digest.bytes == 5
    assert store.check("step-00000001", "tensors", digest) == ""
    path = store.path("step-00000001", "tensors")
    shorter = store.check("step-00000001", "tensors", FileDigest(6, digest.sha256))
    assert shorter == f"{path} has 5 bytes, its manifest says 6"
    store.write("step-00000001", "tensors", "1 2 4")
    assert "does not hold the bytes" in store.check("step-00000001", "tensors", digest)
    missing = store.check("step-00000001", "nothing", digest)
    assert missing.endswith("nothing has -1 bytes, its manifest says 5")


def test_a_write_that_fails_leaves_the_file_that_was(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.make("step-00000001")
    store.write(store.aside("step-00000001"), "manifest.json", "old")
    with (
        mock.patch("trainer.checkpoints.store.os.fsync", side_effect=OSError(28, "No space left")),
        pytest.raises(OSError, match="No space left"),
    ):
        store.write(store.aside("step-00000001"), "manifest.json", "new")
    assert store.read(store.aside("step-00000001"), "manifest.json") == b"old"


def test_a_manifest_says_again_what_it_was_told() -> None:
    assert parse_manifest(MANIFEST.to_json().encode(), "here") == MANIFEST


def with_scores(store: Store, metrics: dict[str, float]) -> bytes:
    """A complete checkpoint; returns what its file of scores holds."""
    store.make("step-00000003")
    store.write(store.aside("step-00000003"), "manifest.json", MANIFEST.to_json())
    store.publish("step-00000003")
    store.write_scores("step-00000003", metrics)
    return store.read("step-00000003", "metrics.json")


def test_scores_beside_a_manifest_count_and_change_nothing_else(store: Store) -> None:
    with_scores(store, {"auc": 0.5, "logloss": 0.25})
    told = store.manifest("step-00000003")
    assert told == replace(MANIFEST, metrics={"auc": 0.5, "logloss": 0.25})
    assert store.read("step-00000003", "manifest.json") == MANIFEST.to_json().encode()


def test_scores_of_earlier_versions_are_in_the_manifest(store: Store) -> None:
    with_scores(store, {"auc": 0.5})
    store._fs.rm_file(store._at("step-00000003", "metrics.json"))
    assert store.manifest("step-00000003") == MANIFEST


def test_scores_that_are_not_whole_or_of_another_checkpoint_are_none(store: Store) -> None:
    whole = with_scores(store, {"auc": 0.5})
    other = replace(MANIFEST, samples=8).to_json().encode()
    broken = [whole[:cut] for cut in range(len(whole) - 2)]
    broken += [whole.replace(b"0.5", b"0.6"), scores_to_json({"auc": 0.5}, other).encode()]
    broken += [b"\xff", b"[]", b"null", b"[" * 100_000]
    for content in broken:
        store._fs.pipe_file(store._at("step-00000003", "metrics.json"), content)
        assert store.manifest("step-00000003") == MANIFEST, content[:60]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2}', '{"format": 2, "files": {}}'])
def test_a_manifest_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="here is damaged"):
        parse_manifest(text.encode(), "here")
