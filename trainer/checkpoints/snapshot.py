"""What a checkpoint holds as tensors: model, optimizer state, random generators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.shard import Shard
from torchrec.distributed.model_parallel import DistributedModelParallel

from trainer.distributed import RunContext
from trainer.optim import Optimizers

Snapshot = dict[str, Any]
"""Tensors and sharded tensors by name, in nested dicts."""


def take_snapshot(
    model: DistributedModelParallel, optimizers: Optimizers, context: RunContext
) -> Snapshot:
    """Everything a checkpoint holds, as views: tensors and sharded tensors, nothing else."""
    return {
        "model": model.state_dict(),
        "optimizer": {
            name: {key: value for key, value in state.items() if isinstance(value, Tensor)}
            for name, state in optimizers.combined.state_dict()["state"].items()
        },
        **_generators(context),
    }


def copy_snapshot(snapshot: Snapshot) -> Snapshot:
    """A copy in the host's memory, which training does not change."""
    return {name: _copy(value) for name, value in snapshot.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(inner) for name, inner in value.items()}
    if isinstance(value, ShardedTensor):
        shards = [
            Shard(shard.tensor.detach().to("cpu", copy=True), shard.metadata)
            for shard in value.local_shards()
        ]
        return ShardedTensor._init_from_local_shards_and_global_metadata(
            shards, sharded_tensor_metadata=value.metadata(), process_group=value._process_group
        )
    assert isinstance(value, Tensor)
    return value.detach().to("cpu", copy=True)


def without_absent_generators(snapshot: Snapshot, names: set[str]) -> Snapshot:
    """What of a snapshot can be read from a checkpoint that has entries of these names.

    A rank that the checkpoint's run did not have, or a device of another kind, keeps its own
    random generator.
    """
    return {
        name: value
        for name, value in snapshot.items()
        if not name.startswith("generator_") or name in names
    }


def set_generators(snapshot: Snapshot, context: RunContext) -> None:
    """Let this rank's random generators go on where a snapshot was taken."""
    for name in _generators(context):
        if name in snapshot:
            if "cuda" in name:
                torch.cuda.set_rng_state(snapshot[name], context.device)
            else:
                torch.set_rng_state(snapshot[name])


def _generators(context: RunContext) -> Snapshot:
    states = {f"generator_cpu_{context.rank:05d}": torch.get_rng_state()}
    if context.device.type == "cuda":
        states[f"generator_cuda_{context.rank:05d}"] = torch.cuda.get_rng_state(context.device)
    return states
