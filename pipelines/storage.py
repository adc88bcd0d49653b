"""The one door to files: local paths and every scheme iopath has a handler for."""

from __future__ import annotations

import fnmatch
from pathlib import PurePosixPath
from typing import IO, Any

from iopath.common.file_io import PathManager

_manager = PathManager()


def register_handler(handler: Any) -> None:
    """Teach every reader and writer of this project one more scheme (`s3://`, `hdfs://`, ...).

    Args:
        handler: an iopath `PathHandler`.
    """
    _manager.register_handler(handler)


def open_file(path: str, mode: str = "r") -> IO[Any]:
    """Open a file of any known scheme, as `open` would."""
    stream: IO[Any] = _manager.open(path, mode)
    return stream


def exists(path: str) -> bool:
    """Whether the path is a file or a folder."""
    return bool(_manager.exists(path))


def is_folder(path: str) -> bool:
    """Whether the path is a folder."""
    return bool(_manager.isdir(path))


def make_folder(path: str) -> None:
    """Make a folder and its parents; an existing one is left alone."""
    _manager.mkdirs(path)


def join(folder: str, *names: str) -> str:
    """Join path parts with `/`, whatever the scheme."""
    return "/".join([folder.rstrip("/"), *names])


def find(pattern: str, suffix: str = ".parquet") -> list[str]:
    """The files a user means by a file, a folder, or a glob in the last part of a path.

    Returns:
        Paths in name order, so that every rank sees the same list.

    Raises:
        ValueError: nothing is there.
    """
    folder, _, name = pattern.rpartition("/")
    if is_folder(pattern):
        found = [join(pattern, f) for f in _manager.ls(pattern) if f.endswith(suffix)]
    elif any(mark in name for mark in "*?[") and not exists(pattern):
        names = _manager.ls(folder or ".") if is_folder(folder or ".") else []
        found = [join(folder, f) if folder else f for f in names if fnmatch.fnmatch(f, name)]
    else:
        found = [pattern] if exists(pattern) else []
    if not found:
        raise ValueError(
            f"{pattern}: no {suffix} file is there; give a file, a folder or a glob such as "
            f"{PurePosixPath(folder or '.') / ('*' + suffix)}"
        )
    return sorted(found)
