"""The folder of a run's checkpoints: a local path, or a URL of any scheme that fsspec knows."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from trainer.checkpoints.manifest import (
    MANIFEST_FILE,
    SCORES_FILE,
    FileDigest,
    Manifest,
    parse_manifest,
    parse_scores,
    scores_to_json,
)

_ASIDE = ".incomplete"
_NAME = re.compile(rf"step-[0-9]{{8,}}({re.escape(_ASIDE)})?")
"""What is called otherwise is no checkpoint, and is never removed."""
_DAMAGED = "damaged-"
_PROBE = ".writable"
_CHUNK_BYTES = 1 << 22


class Store:
    """Named checkpoints, each a folder of files; one is complete once its manifest is there.

    On local disks a checkpoint is written aside and renamed as a whole. Object stores cannot
    rename a folder at once, but put up whole files only: there the manifest alone decides.

    Args:
        folder: of all checkpoints; need not exist.

    Raises:
        ValueError: fsspec does not know the scheme, or lacks its package.
    """

    def __init__(self, folder: str) -> None:
        try:
            self._fs, self._root = url_to_fs(folder)
        except (ValueError, ImportError) as error:
            raise ValueError(f"checkpoint.folder is {folder}: {error}") from error
        self.is_local = isinstance(self._fs, LocalFileSystem)
        self.folder = self._root if self.is_local else folder.rstrip("/")

    def path(self, name: str, file: str = "") -> str:
        """Path or URL of a checkpoint, or of a file of it."""
        return "/".join([self.folder, name, *([file] if file else [])])

    def name_of(self, step: int) -> str:
        """Name of the checkpoint of a step."""
        return f"step-{step:08d}"

    def path_of(self, step: int) -> str:
        """Path or URL of the checkpoint of a step."""
        return self.path(self.name_of(step))

    def aside(self, name: str) -> str:
        """Where a checkpoint is written before it is complete."""
        return name + _ASIDE if self.is_local else name

    def complete(self) -> list[str]:
        """Names of complete checkpoints, oldest first."""
        return [name for name in self._names() if self._is_complete(name)]

    def _names(self) -> list[str]:
        self._fs.invalidate_cache()
        if not self._fs.isdir(self._root):
            return []
        paths = self._fs.ls(self._root, detail=False)
        names = (path.rstrip("/").rpartition("/")[2] for path in paths)
        return sorted(name for name in names if _NAME.fullmatch(name))

    def _is_complete(self, name: str) -> bool:
        there = self._fs.exists(self._at(name, MANIFEST_FILE))
        return bool(there) and not name.endswith(_ASIDE)

    def remove_incomplete(self) -> None:
        """Remove what interrupted saves have left; none may be in progress."""
        for name in self._names():
            if not self._is_complete(name):
                self.remove(name)

    def make(self, name: str) -> None:
        """Make an empty folder for a checkpoint that is about to be written."""
        self._fs.makedirs(self._at(self.aside(name)), exist_ok=True)

    def publish(self, name: str) -> None:
        """Let a checkpoint that is written aside, its manifest last, be found."""
        if self.is_local:
            self.remove(name)
            Path(self._at(self.aside(name))).rename(self._at(name))

    def remove(self, name: str) -> None:
        """Remove a checkpoint, its manifest first; one that is not there is no error."""
        if self.is_local and Path(self._at(name)).is_symlink():
            Path(self._at(name)).unlink()  # What it leads to is not this run's to delete.
            return
        manifest = self._at(name, MANIFEST_FILE)
        if self._fs.exists(manifest):
            self._fs.rm_file(manifest)
        if self._fs.exists(self._at(name)):
            self._fs.rm(self._at(name), recursive=True)

    def set_aside(self, name: str) -> None:
        """Give a checkpoint a name under which it is none."""
        self.remove(_DAMAGED + name)
        self._fs.mv(self._at(name), self._at(_DAMAGED + name), recursive=True)

    def leave_probe(self) -> str:
        """Write a small file to the folder.

        Returns:
            Its name, which no other has.

        Raises:
            OSError: that is not possible.
        """
        name = f"{_PROBE}-{uuid.uuid4().hex}"
        self._fs.makedirs(self._root, exist_ok=True)
        self.write(name, "", "")
        return name

    def has_probe(self, name: str) -> bool:
        """Whether that file is there."""
        return bool(self._fs.exists(self._at(name)))

    def remove_probe(self, name: str) -> None:
        """Remove it."""
        self._fs.rm_file(self._at(name))

    def read(self, name: str, file: str) -> bytes:
        """What a small file holds.

        Raises:
            OSError: it is not there.
        """
        content: bytes = self._fs.cat_file(self._at(name, file))
        return content

    def write(self, name: str, file: str, text: str) -> FileDigest:
        """Write a small file as a whole or not at all."""
        content, path = text.encode(), self._at(name, file)
        if self.is_local:
            scratch = Path(path + ".tmp")
            with scratch.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            scratch.replace(path)
        else:
            self._fs.pipe_file(path, content)
        return FileDigest(len(content), hashlib.sha256(content).hexdigest())

    def manifest(self, name: str) -> Manifest:
        """What a complete checkpoint says of itself, with its scores.

        Raises:
            DamagedCheckpointError: its manifest is none, or not what was written.
            ValueError: it has another format.
            OSError: it could not be read.
        """
        content = self.read(name, MANIFEST_FILE)
        manifest = parse_manifest(content, self.path(name, MANIFEST_FILE))
        try:
            scores = parse_scores(self.read(name, SCORES_FILE), content)
        except FileNotFoundError:
            scores = None
        return manifest if scores is None else replace(manifest, metrics=scores)

    def write_scores(self, name: str, metrics: Mapping[str, float]) -> None:
        """Let `manifest` of a complete checkpoint tell these metrics.

        Raises:
            OSError: that could not be written.
        """
        text = scores_to_json(metrics, self.read(name, MANIFEST_FILE))
        self.write(name, SCORES_FILE, text)

    def check(self, name: str, file: str, expected: FileDigest) -> str:
        """Compare a file with what was written; about 2 GB/s.

        Returns:
            What is wrong with it, empty if nothing is.
        """
        path = self._at(name, file)
        size = self._fs.size(path) if self._fs.exists(path) else -1
        if size != expected.bytes:
            return f"{self.path(name, file)} has {size} bytes, its manifest says {expected.bytes}"
        digest = hashlib.sha256()
        with self._fs.open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
        if digest.hexdigest() != expected.sha256:
            return f"{self.path(name, file)} does not hold the bytes that were written"
        return ""

    def _at(self, name: str, file: str = "") -> str:
        return "/".join([self._root, name, *([file] if file else [])])
