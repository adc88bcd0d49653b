"""The one door to files: local paths and every scheme iopath has a handler for."""

from __future__ import annotations

import fnmatch
from pathlib import Path, PurePath, PurePosixPath
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


def place(path: str) -> PurePath:
    """One name for a file, however it was given."""
    return PurePosixPath(path) if "://" in path else Path(path).resolve()


def is_meant(path: str, pattern: str) -> bool:
    """Whether a file, which need not be there, is one of those that `find` looks for."""
    folder, _, name = pattern.rpartition("/")
    file = place(path)
    if is_folder(pattern):
        return file.parent == place(pattern)
    return file.parent == place(folder or ".") and fnmatch.fnmatch(file.name, name)


def find(pattern: str, suffix: str = ".parquet") -> list[str]:
    """The files a user means by a file, a folder, or a glob in the last part of a path.

    Of a folder those that begin with `.` or `_` are left out: what other programs leave there, such
    as `._part.parquet` or `_metadata.parquet`, is no data.

    Returns:
        Paths in name order, so that every rank sees the same list.

    Raises:
        ValueError: nothing is there.
    """
    folder, _, name = pattern.rpartition("/")
    if is_folder(pattern):
        names = [name for name in _manager.ls(pattern) if name.endswith(suffix)]
        found = [join(pattern, name) for name in names if not name.startswith((".", "_"))]
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
