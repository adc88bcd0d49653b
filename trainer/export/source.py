"""Tables and dense weights of a checkpoint of any ranks and plan, whole, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from trainer.checkpoints.checkpoint import Checkpoints
from trainer.checkpoints.manifest import DamagedCheckpointError, Manifest
from trainer.checkpoints.tensor_files import TensorReader
from trainer.checkpoints.writer import reason_of
from trainer.config import TrainConfig
from trainer.distributed import RunContext

_TABLES, _DENSE = "model.ranker.embeddings.", "model.ranker.interaction."


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint that is whole."""

    path: str
    name: str
    manifest: Manifest
    tables: Mapping[str, str]
    """Entries of the checkpoint by table, `<space>_<feature>`."""
    shapes: Mapping[str, tuple[int, int]]
    """Rows and width by table."""

    def table(self, name: str) -> Tensor:
        """One whole table, float32; takes twice its memory while it is read."""
        return self._read([self.tables[name]])[0].float()

    def dense(self) -> dict[str, Tensor]:
        """Weights and statistics of the interaction, by its own names."""
        entries = [e for e in _metadata(self.path).state_dict_metadata if e.startswith(_DENSE)]
        names = [entry.removeprefix(_DENSE) for entry in entries]
        return dict(zip(names, self._read(entries), strict=True))

    def _read(self, entries: list[str]) -> list[Tensor]:
        metadata = _metadata(self.path)
        state = {entry: _empty(metadata, entry) for entry in entries}
        try:
            load(state, storage_reader=TensorReader(self.path), no_dist=True)
        except CheckpointException as failed:
            raise ValueError(f"{self.path} is damaged: {reason_of(failed)}") from failed
        return list(state.values())


def find_trained(config: TrainConfig, context: RunContext, at: str) -> TrainedModel:
    """Find a checkpoint of a run and compare its files with their digests.

    Args:
        config: of the run.
        context: of this process, the only one.
        at: `best`, `last` or the checkpoint's name.

    Raises:
        DamagedCheckpointError: a file is missing, cut off or changed.
        ValueError: there is none, or it is another run's.
    """
    folder = config.checkpoint.folder or str(Path(config.out_dir) / config.name / "checkpoints")
    options = replace(config.checkpoint, asynchronous=False)
    checkpoints = Checkpoints(folder, options, context, config.name)
    name = checkpoints.find(at)
    manifest = dict(checkpoints.complete())[name]
    checkpoints.check_run(name, manifest)
    for file, digest in manifest.files.items():
        problem = checkpoints.store.check(name, file, digest)
        if problem:
            raise DamagedCheckpointError(f"{problem}: the checkpoint is damaged")
    path = checkpoints.store.path(name)
    metadata = _metadata(path)
    tables = {
        entry.split(".")[-2]: entry
        for entry in metadata.state_dict_metadata
        if entry.startswith(_TABLES)
    }
    shapes = {table: _shape(metadata, entry) for table, entry in tables.items()}
    return TrainedModel(path, name, manifest, tables, shapes)


def _metadata(path: str) -> Metadata:
    return TensorReader(path).read_metadata()


def _stored(metadata: Metadata, entry: str) -> TensorStorageMetadata:
    found = metadata.state_dict_metadata[entry]
    assert isinstance(found, TensorStorageMetadata)
    return found


def _empty(metadata: Metadata, entry: str) -> Tensor:
    stored = _stored(metadata, entry)
    return torch.empty(stored.size, dtype=stored.properties.dtype)


def _shape(metadata: Metadata, entry: str) -> tuple[int, int]:
    rows, width = _stored(metadata, entry).size
    return rows, width
