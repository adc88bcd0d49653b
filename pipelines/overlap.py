"""TorchRec's pipelines: ids of the next batch travel while this one computes.

Training and evaluation each have a pipeline of their own over the same model; the one that is not
running is detached, which keeps its batches in flight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardedModule

from pipelines.batch import Batch

Pipeline = TrainPipelineSparseDist[Batch, Any]


def make_pipeline(
    model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> Pipeline:
    """A pipeline that sends the ids of batch i + 1 while batch i computes.

    In evaluation mode of the model it runs forward only.
    """
    return TrainPipelineSparseDist(model, optimizer, device, execute_all_batches=True)


def check_overlap(pipeline: Pipeline, model: nn.Module) -> None:
    """Make sure that every sharded collection is overlapped; TorchRec itself would only warn.

    Args:
        pipeline: after its first step.
        model: which it runs.

    Raises:
        RuntimeError: a collection is not overlapped, because its input was changed before it or
            its caller could not be traced.
    """
    # A private attribute (TorchRec 1.6 to 1.8); there is no public count.
    overlapped = {id(module) for module in pipeline._pipelined_modules}
    sharded = {
        name: module for name, module in model.named_modules() if isinstance(module, ShardedModule)
    }
    lost = [name for name, module in sharded.items() if id(module) not in overlapped]
    if lost:
        raise RuntimeError(
            f"{len(lost)} of {len(sharded)} collections are not overlapped ({', '.join(lost)}): "
            "their input was changed before the lookup"
        )
