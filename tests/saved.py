"""What a checkpoint holds, read without a model, or made to hold."""

from __future__ import annotations

import json
import pickle
import warnings
from hashlib import sha256
from pathlib import Path

import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from trainer.checkpoints.manifest import FileDigest, Manifest
from trainer.checkpoints.tensor_files import TensorReader

MANIFEST = Manifest(
    run="run",
    step=3,
    samples=7,
    world=2,
    seconds=0.5,
    optimizers={"sparse": "adam", "dense": "sgd"},
    metrics={"auc": 0.75},
    files={"loader.json": FileDigest(3, "0f" * 32)},
)
"""Of a checkpoint that is nowhere."""


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


def name_a_file(checkpoint: Path, place: str) -> None:
    """Let the metadata say that a tensor is in another file, under a digest that fits."""
    metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    next(iter(metadata.storage_data.values())).relative_path = place
    content = pickle.dumps(metadata)
    (checkpoint / ".metadata").write_bytes(content)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    digest = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    manifest["files"][".metadata"] = digest
    del manifest["digest"]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
