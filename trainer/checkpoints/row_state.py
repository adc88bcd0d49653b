"""Optimizer state of one number a row, read by a plan that cuts the columns differently.

Row-wise Adagrad and partial row-wise Adam keep the mean square of a row's gradient, and where a
table is cut by columns TorchRec keeps one for each column shard, laid end to end: S shards of R
rows are a vector of S * R. DCP cannot bring that to another S. The mean over a row is the mean over
its parts, weighted by their widths, so joining shards is exact; a shard that is split hands its
mean to each part, the best estimate there is.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from trainer.checkpoints.snapshot import Snapshot
from trainer.checkpoints.tensor_files import TensorReader

_OPTIMIZER_PREFIX = "tables."


@dataclass(frozen=True)
class RowState:
    """A state that the checkpoint holds for other column shards than this run."""

    optimizer: str
    """Name of the optimizer's entry."""
    key: str
    """Name of the state in it."""
    here: ShardedTensor
    """To be filled."""
    rows: int
    edges_here: list[int]
    """Where the column shards of this run begin, and the last one ends."""
    edges_there: list[int]
    """The same of the checkpoint."""


def take_out_row_states(snapshot: Snapshot, metadata: Metadata) -> list[RowState]:
    """Take the states out of a snapshot that DCP could not read into it.

    Args:
        snapshot: views of this run's tensors; changed in place.
        metadata: of the checkpoint.
    """
    found = []
    for optimizer, state in list(snapshot["optimizer"].items()):
        weight = "model." + optimizer.removeprefix(_OPTIMIZER_PREFIX)
        table = snapshot["model"].get(weight.removeprefix("model."))
        for key, here in list(state.items()):
            there = metadata.state_dict_metadata.get(f"optimizer.{optimizer}.{key}")
            if (
                isinstance(here, ShardedTensor)
                and isinstance(table, ShardedTensor)
                and isinstance(there, TensorStorageMetadata)
                and len(there.size) == 1
            ):
                rows, columns = table.size()
                begins_here = {shard.shard_offsets[1] for shard in table.metadata().shards_metadata}
                saved = metadata.state_dict_metadata[weight]
                assert isinstance(saved, TensorStorageMetadata)
                begins_there = {chunk.offsets[1] for chunk in saved.chunks}
                edges = [[*sorted(begins), columns] for begins in (begins_here, begins_there)]
                if edges[0] == edges[1]:
                    continue  # DCP reads it.
                found.append(RowState(optimizer, key, here, rows, *edges))
                del state[key]
        if not state:
            del snapshot["optimizer"][optimizer]  # DCP would look for an empty entry.
    return found


@torch.no_grad()
def read_row_state(state: RowState, metadata: Metadata, path: str) -> None:
    """Fill a state from a checkpoint; reads all of it, 4 bytes a row and column shard.

    Raises:
        CheckpointException: DCP could not read it.
    """
    name = f"optimizer.{state.optimizer}.{state.key}"
    entry = metadata.state_dict_metadata[name]
    assert isinstance(entry, TensorStorageMetadata)
    whole = torch.empty(entry.size, dtype=entry.properties.dtype)
    request: dict[str, Any] = {"optimizer": {state.optimizer: {state.key: whole}}}
    with warnings.catch_warnings():
        # Each rank reads what it needs itself, which DCP finds worth a warning.
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        load(request, storage_reader=TensorReader(path), no_dist=True)
    for shard in state.here.local_shards():
        column, first = divmod(shard.metadata.shard_offsets[0], state.rows)
        part = whole.view(-1, state.rows)[:, first : first + shard.metadata.shard_sizes[0]]
        shard.tensor.view(-1).copy_(
            _mean_of_parts(part, state.edges_there, state.edges_here[column : column + 2])
        )


def _mean_of_parts(part_SR: Tensor, edges: list[int], columns: list[int]) -> Tensor:
    """The mean over some columns, of which each part knows the mean over its own."""
    begin, end = columns
    widths = [max(0, min(end, b) - max(begin, a)) for a, b in pairwise(edges)]
    inside = [part for part, width in enumerate(widths) if width]
    if len(inside) == 1:
        return part_SR[inside[0]]
    weight_S = torch.tensor(widths, dtype=part_SR.dtype) / (end - begin)
    return weight_S @ part_SR
