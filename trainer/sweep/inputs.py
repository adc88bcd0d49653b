"""What a run reads, told so that it is the same wherever the dataset lies, and who reads it."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import PurePath

from pipelines import storage
from pipelines.loader import DataConfig
from pipelines.schema import DatasetSchema
from trainer.doctor.probes import PROJECT

_SPLITS = ("train", "val", "test")


def files_of(data: DataConfig, schema: DatasetSchema) -> dict[str, dict[str, str | int]]:
    """The files of each split.

    Args:
        data: says where they are.
        schema: of the data.

    Returns:
        By the field's dotted name, the SHA-256 that `schema.json` has of each file, or its size in
        bytes where it has none. Files are called by their path from the folder of `schema.json`,
        those that are not in it by their whole path. A split that is not used has none.

    Raises:
        ValueError: there is no file, a line each split.
    """
    folder, slash, _ = data.schema.rpartition("/")
    # Of `/schema.json` the folder is `/`, of `schema.json` the present one.
    home = storage.place(folder or slash or ".")
    digests = {
        storage.place(storage.join(folder or slash or ".", file.path)): file.sha256
        for split in schema.splits.values()
        for file in split.files
    }
    found: dict[str, dict[str, str | int]] = {}
    problems = []
    for split in _SPLITS:
        pattern, name = getattr(data, split), f"data.{split}"
        try:
            paths = storage.find(pattern) if pattern else []
        except ValueError as error:
            problems.append(f"{name}: {error}")
            continue
        places = {storage.place(path): path for path in paths}
        found[name] = {
            _called(place, home): digests.get(place) or _size(path)
            for place, path in places.items()
        }
    if problems:
        raise ValueError("\n".join(problems))
    return found


def _called(place: PurePath, home: PurePath) -> str:
    return place.relative_to(home).as_posix() if place.is_relative_to(home) else str(place)


def _size(path: str) -> int:
    with storage.open_file(path, "rb") as stream:
        return int(stream.seek(0, os.SEEK_END))


def version() -> str:
    """Of this package; empty where it is not installed."""
    try:
        return importlib.metadata.version(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        return ""
