"""What a checkpoint holds, read without a model."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from trainer.checkpoints.tensor_files import TensorReader


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors but the states of random generators, which data loaders draw from too."""
    metadata = TensorReader(str(checkpoint)).read_metadata()
    found = {}
    for name, entry in metadata.state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata)
        if not name.startswith("generator_"):
            found[name] = torch.zeros(entry.size, dtype=entry.properties.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        load(found, storage_reader=TensorReader(str(checkpoint)), no_dist=True)
    return found


def assert_same_tensors(checkpoint: Path, other: Path) -> None:
    """Bit for bit."""
    ours, theirs = tensors_of(checkpoint), tensors_of(other)
    assert len(ours) > 10
    assert ours.keys() == theirs.keys()
    unequal = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not unequal
