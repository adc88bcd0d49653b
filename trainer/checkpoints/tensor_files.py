"""Tensors to and from files through DCP: digests as they are written, no code as they are read."""

from __future__ import annotations

import enum
import hashlib
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.checkpoint._fsspec_filesystem import FileSystem, FsspecReader, FsspecWriter
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, StorageMeta

from trainer.checkpoints.manifest import FileDigest, check_file_name


class _DigestingStream:
    """A stream that is written to from its start to its end, and the digest of what passed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self._bytes = 0
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes, or anything with a buffer."""
        self._sha256.update(data)
        self._bytes += memoryview(data).nbytes
        try:
            written: int = self._stream.write(data)
        except OSError as error:
            self.failure = error
            raise
        return written

    def digest(self) -> FileDigest:
        """Of all that was written."""
        return FileDigest(self._bytes, self._sha256.hexdigest())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # tell, flush, fileno, close


class _DigestingFiles(FileSystem):
    """DCP's door to fsspec; remembers the digests of the files that were written through it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[str, FileDigest] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        with super().create_stream(path, mode) as stream:
            if mode != "wb":
                yield stream
                return
            digesting = _DigestingStream(stream)
            try:
                yield digesting
            except RuntimeError as error:
                # Torch's zip writer (2.13) puts an error of its own over the disk's.
                raise (digesting.failure or error) from error
            self.written[_name(path)] = digesting.digest()

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.written[_name(new_path)] = self.written.pop(_name(path))


def _name(path: str | os.PathLike[str]) -> str:
    return os.fspath(path).rpartition("/")[2]


class TensorWriter(FsspecWriter):
    """Writes a rank's tensors to a folder and knows the digests of its files.

    Args:
        path: a local folder or a URL.
        sync: wait until the bytes are on the disk; for local folders.
    """

    def __init__(self, path: str, *, sync: bool) -> None:
        super().__init__(path, sync_files=sync)
        files = _DigestingFiles()
        self.fs = files  # type: ignore[assignment]
        self.path = files.init_path(path)
        self.written = files.written
        """Digests by file name, complete after DCP's `save`."""


class TensorReader(FsspecReader):
    """Reads tensors only: bytes entries, which DCP would unpickle, are refused.

    The tensors themselves DCP reads with `torch.load(weights_only=True)`.
    """

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        """DCP's metadata.

        Raises:
            ValueError: it names a class that is no part of it, is damaged, has bytes entries, or
                names files that are not in the folder.
        """
        path = os.fspath(self._get_metadata_path())
        with self.fs.create_stream(path, "rb") as stream:
            metadata = _load_metadata(stream, path)
        for name, entry in metadata.state_dict_metadata.items():
            if isinstance(entry, BytesStorageMetadata):
                raise ValueError(f"{path}: entry {name} holds bytes; a checkpoint holds tensors")
        for stored in (metadata.storage_data or {}).values():
            check_file_name(str(getattr(stored, "relative_path", "")), path)
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        return metadata


_METADATA_NAMES = {
    "pathlib": {"PosixPath", "PurePosixPath"},
    "torch": {"Size", "device"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed._shard.sharded_tensor.metadata": {"TensorProperties", "MEM_FORMAT_ENCODING"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}


class _MetadataUnpickler(pickle.Unpickler):
    """Knows the classes of DCP's metadata and no other, so that no code can ride in on it."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and name not in _METADATA_NAMES.get(module, ()):
            raise ValueError(f"checkpoint metadata names {module}.{name}, which is no part of it")
        return super().find_class(module, name)


def _member(kind: Any, name: str) -> Any:
    """A member of an enumeration, which Python 3.11.0 to 3.11.4 pickle as an attribute."""
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum) and name in kind.__members__):
        raise ValueError(f"checkpoint metadata asks {kind} for {name}, which is no part of it")
    return kind[name]


def _load_metadata(stream: Any, path: str) -> Metadata:
    try:
        metadata = _MetadataUnpickler(stream).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(metadata, Metadata):
        raise ValueError(f"{path} holds {type(metadata).__name__}, not DCP's metadata")
    return metadata
