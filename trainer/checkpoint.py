"""Checkpoints through DCP: written aside, renamed when complete, read without unpickling code."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torchrec.distributed.model_parallel import DistributedModelParallel

from modules.norm import average_running_statistics
from trainer.distributed import RunContext
from trainer.optim import Optimizers
from trainer.sharding import set_optimizer_step

logger = logging.getLogger(__name__)

FORMAT = 2
_PREFIX = "step-"
_ASIDE = ".incomplete"


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written and which stay."""

    every: int = 0
    """Steps between checkpoints; 0 writes one at the end only."""
    keep_last: int = 2
    """Newest checkpoints that stay; the best by validation AUC stays too."""

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"checkpoint.every is {self.every}; it must be 0 or more")
        if self.keep_last < 1:
            raise ValueError(f"checkpoint.keep_last is {self.keep_last}; it must be at least 1")


@dataclass(frozen=True)
class Manifest:
    """What a complete checkpoint says of itself; its presence makes it complete."""

    step: int
    samples: int
    """Targets trained, over all ranks."""
    world: int
    seconds: float
    """Spent training, over all resumed runs."""
    metrics: dict[str, float]
    """Of the last evaluation before it."""
    files: dict[str, int]
    """Bytes by file name."""
    format: int = FORMAT


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: `<out_dir>/<name>/checkpoints`.
        config: which stay.
        context: of this process.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, context: RunContext) -> None:
        self.folder, self.config, self.context = folder, config, context

    def complete(self) -> list[tuple[Path, Manifest]]:
        """Complete checkpoints, oldest first."""
        return [
            (path, read_manifest(path))
            for path in sorted(self.folder.glob(_PREFIX + "*"))
            if path.suffix != _ASIDE and (path / "manifest.json").exists()
        ]

    def latest(self) -> tuple[Path, Manifest] | None:
        """The newest complete checkpoint."""
        complete = self.complete()
        return complete[-1] if complete else None

    def best(self) -> tuple[Path, Manifest] | None:
        """The checkpoint with the highest validation AUC, the newest of equals."""
        scored = [(p, m) for p, m in self.complete() if m.metrics.get("auc", -1.0) >= 0]
        return max(scored, key=lambda entry: (entry[1].metrics["auc"], entry[1].step), default=None)

    def find(self, name: str) -> Path:
        """A checkpoint by name.

        Args:
            name: `best`, `last`, or the name of its folder.

        Raises:
            ValueError: there is none.
        """
        known = {path.name: path for path, _ in self.complete()}
        for alias, entry in (("best", self.best() or self.latest()), ("last", self.latest())):
            if entry is not None:
                known[alias] = entry[0]
        if name not in known:
            raise ValueError(f"--at is {name}; {self.folder} has {', '.join(known) or 'none'}")
        return known[name]

    def save(
        self,
        model: DistributedModelParallel,
        optimizers: Optimizers,
        place: dict[str, Any],
        manifest: Manifest,
    ) -> Path:
        """Write a checkpoint; a collective.

        Args:
            model: sharded model.
            optimizers: whose state is saved.
            place: where the data of all ranks goes on.
            manifest: what to say of it; `files` is filled in here.

        Returns:
            The folder of the checkpoint.
        """
        final = self.folder / f"{_PREFIX}{manifest.step:08d}"
        aside = final.with_name(final.name + _ASIDE)
        if self.context.is_main:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        self.context.wait()
        average_running_statistics(model)
        save(_state(model, optimizers), storage_writer=FileSystemWriter(str(aside)))
        self.context.wait()
        if self.context.is_main:
            _write_json(aside / "loader.json", place)
            files = {file.name: file.stat().st_size for file in sorted(aside.iterdir())}
            _write_json(aside / "manifest.json", {**vars(manifest), "files": files})
            shutil.rmtree(final, ignore_errors=True)
            aside.rename(final)
            self._prune()
        self.context.wait()
        logger.info("checkpoint %s", final)
        return final

    def restore(
        self, path: Path, model: DistributedModelParallel, optimizers: Optimizers
    ) -> Manifest:
        """Read tables, dense weights and optimizer state; a collective.

        Raises:
            ValueError: a file is missing, cut off, or holds something else than tensors, or the
                model's tensors have other names or shapes.
        """
        manifest = read_manifest(path)
        for name, size in manifest.files.items():
            found = (path / name).stat().st_size if (path / name).exists() else -1
            if found != size:
                raise ValueError(
                    f"{path / name} has {found} bytes, its manifest says {size}: the checkpoint "
                    "is damaged; delete it to go on from the one before"
                )
        optimizers.dense.init_state()
        state = _state(model, optimizers)
        reader = _TensorReader(str(path))
        reader.read_metadata()  # Where DCP itself fails to, it tries another file and tells both.
        try:
            load(state, storage_reader=reader)
        except CheckpointException as failed:  # It is no Exception.
            reason = str(next(iter(failed.failures.values()))[0]).partition("\n")[0]
            raise ValueError(
                f"{path} does not fit this config's model or is damaged: {reason}"
            ) from failed
        set_optimizer_step(model, manifest.step)
        return manifest

    def place(self, path: Path) -> dict[str, Any]:
        """Where the data of all ranks goes on."""
        place: dict[str, Any] = json.loads((path / "loader.json").read_text())
        return place

    def _prune(self) -> None:
        complete, best = self.complete(), self.best()
        for path, _ in complete[: -self.config.keep_last]:
            if best is None or path != best[0]:
                shutil.rmtree(path)


def read_manifest(path: Path) -> Manifest:
    """Read a checkpoint's manifest.

    Raises:
        ValueError: not there, damaged, or of another format.
    """
    file = path / "manifest.json"
    if not file.exists():
        raise ValueError(f"{path} is no complete checkpoint: it has no manifest.json")
    try:
        manifest = Manifest(**json.loads(file.read_text()))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if manifest.format != FORMAT:
        raise ValueError(f"{file} has format {manifest.format}; this version reads {FORMAT}")
    return manifest


def _state(model: DistributedModelParallel, optimizers: Optimizers) -> dict[str, Any]:
    """Everything a checkpoint holds, as views: tensors and sharded tensors, nothing else."""
    return {
        "model": model.state_dict(),
        "optimizer": {
            name: {key: value for key, value in state.items() if isinstance(value, Tensor)}
            for name, state in optimizers.combined.state_dict()["state"].items()
        },
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


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
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and name not in _METADATA_NAMES.get(module, ()):
            raise ValueError(f"checkpoint metadata names {module}.{name}, which is no part of it")
        return super().find_class(module, name)


class _TensorReader(FileSystemReader):
    """Reads tensors only: bytes entries, which DCP would unpickle, are refused."""

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        path = Path(str(self.path)) / ".metadata"
        with path.open("rb") as stream:
            metadata = _load_metadata(stream, path)
        for name, entry in metadata.state_dict_metadata.items():
            if isinstance(entry, BytesStorageMetadata):
                raise ValueError(f"{path}: entry {name} holds bytes; a checkpoint holds tensors")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        return metadata


def _load_metadata(stream: IO[bytes], path: Path) -> Metadata:
    try:
        metadata = _MetadataUnpickler(stream).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(metadata, Metadata):
        raise ValueError(f"{path} holds {type(metadata).__name__}, not DCP's metadata")
    return metadata
