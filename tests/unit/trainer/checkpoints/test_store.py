"""A checkpoint is there as a whole or not at all, on a disk and where folders cannot be renamed."""

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import fsspec
import pytest

from trainer.checkpoints.manifest import FileDigest, Manifest, parse_manifest
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
    manifest = Manifest(
        step=3,
        samples=7,
        world=2,
        seconds=0.5,
        optimizers={"sparse": "adam", "dense": "sgd"},
        metrics={"auc": 0.75},
        files={"a": FileDigest(3, "0f" * 32)},
    )
    assert parse_manifest(manifest.to_json().encode(), "here") == manifest


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2}', '{"format": 2, "files": {}}'])
def test_a_manifest_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="here is damaged"):
        parse_manifest(text.encode(), "here")
