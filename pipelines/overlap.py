"""TorchRec's pipelines: what of the next batch happens while this one computes.

Training and evaluation each have a pipeline of their own over the same model. The one that is not
running is detached; its batches in flight stay, and go on once it is attached again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torchrec.distributed.train_pipeline import (
    PrefetchTrainPipelineSparseDist,
    TrainPipelineBase,
    TrainPipelineSparseDist,
)
from torchrec.distributed.types import ShardedModule

from pipelines.batch import Batch

Overlap = Literal["plain", "sparse_dist", "prefetch"]
"""What of batch i + 1 is done while batch i computes: nothing, the exchange of its ids, also the
filling of caches of tables in host memory."""


class Pipeline(Protocol):
    """Steps through batches; in evaluation mode of the model forward only."""

    def progress(self, dataloader_iter: Iterator[Batch]) -> Any:
        """Take a step and return its output.

        Raises:
            StopIteration: no batch is left.
        """

    def detach(self) -> Any:
        """Give the model back as it was; batches in flight stay."""


class _Plain(TrainPipelineBase[Batch, Any]):
    """One batch after the other; only its copy to the device overlaps."""

    def detach(self) -> None:
        """There is nothing to give back."""


def make_pipeline(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    overlap: Overlap = "sparse_dist",
) -> Pipeline:
    """A pipeline over a sharded model.

    Args:
        model: in training mode it steps, in evaluation mode it runs forward only.
        optimizer: of the model's dense parameters and tables.
        device: where the model is.
        overlap: what is done ahead.

    Raises:
        ValueError: as `check_device`.
    """
    check_device(overlap, device)
    if overlap == "plain":
        return _Plain(model, optimizer, device)
    kind = PrefetchTrainPipelineSparseDist if overlap == "prefetch" else TrainPipelineSparseDist
    return kind(model, optimizer, device, execute_all_batches=True)


def attach_again(pipeline: Pipeline, model: nn.Module) -> None:
    """Let a detached pipeline go on with its batches in flight, whose ids were sent before.

    Left to itself TorchRec would send the ids of the first of them once more, and mix the two.

    Args:
        pipeline: detached, or not begun yet.
        model: which it runs.
    """
    if isinstance(pipeline, TrainPipelineSparseDist) and pipeline.contexts:
        pipeline.attach(model, sparse_dist=False)


def check_device(overlap: Overlap, device: torch.device) -> None:
    """Make sure that a device can overlap so.

    Raises:
        ValueError: `prefetch` without CUDA; TorchRec has it there only.
    """
    if overlap == "prefetch" and device.type != "cuda":
        raise ValueError(
            f"loop.overlap is prefetch, the device is {device.type}: it fills caches of GPUs; use "
            "sparse_dist"
        )


def check_overlap(pipeline: Pipeline, model: nn.Module) -> None:
    """Make sure that every sharded collection is overlapped; TorchRec itself would only warn.

    Args:
        pipeline: after its first step; with `plain` there is nothing to check.
        model: which it runs.

    Raises:
        RuntimeError: a collection is not overlapped, because its input was changed before it or
            its caller could not be traced.
    """
    if not isinstance(pipeline, TrainPipelineSparseDist):
        return
    # A private attribute (TorchRec 1.6 to 1.8); there is no public count.
    overlapped = {id(module) for module in pipeline._pipelined_modules}
    sharded = {
        name: module for name, module in model.named_modules() if isinstance(module, ShardedModule)
    }
    lost = [module for module in sharded.values() if id(module) not in overlapped]
    if lost:
        tables = {key.split(".")[-2] for module in lost for key in module.state_dict()}
        raise RuntimeError(
            f"{len(lost)} of {len(sharded)} collections are not overlapped (tables "
            f"{', '.join(sorted(tables))}): their input was changed before the lookup; "
            "loop.overlap plain trains without"
        )
