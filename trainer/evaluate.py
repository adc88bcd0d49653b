"""One pass over a split: exact metrics, calibration, what the model attends to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pipelines.batch import Batch
from pipelines.lockstep import BatchStream
from pipelines.overlap import Overlap, make_pipeline
from pipelines.planted import Planted
from trainer.build import ShardedRun
from trainer.config import LoopConfig
from trainer.distributed import RunContext
from trainer.metrics import SplitMetrics
from trainer.released_metrics import ReleasedMetrics
from trainer.report.attention_map import AttentionMap
from trainer.report.data import AttentionSummary
from trainer.task import StepOutput


@dataclass(frozen=True)
class Evaluation:
    """The result of a pass; `calibration` is filled on rank 0 only."""

    metrics: dict[str, float]
    calibration: dict[str, list[float]]
    attention: AttentionSummary | None


class _Remembering(Iterator[Batch]):
    """Hands batches on and keeps those that a pipeline has in flight."""

    def __init__(self, stream: BatchStream) -> None:
        self._stream = stream
        self.in_flight: list[Batch] = []

    def __next__(self) -> Batch:
        batch = next(self._stream)
        self.in_flight.append(batch)
        return batch


def evaluate(
    run: ShardedRun,
    stream: BatchStream,
    context: RunContext,
    config: LoopConfig,
    *,
    history_length: int,
    planted: Planted | None,
) -> Evaluation:
    """Score every target of a split once, on all ranks together; a collective.

    Args:
        run: the model; it is in evaluation mode during the pass only. Its running statistics must
            be the same on all ranks.
        stream: one epoch of the split.
        context: of this process.
        config: what of the next batch is done while one is scored, and which metrics are told.
        history_length: positions there can be.
        planted: the data's true attention, where it is known.

    Raises:
        Stopped: a rank was asked to stop; not all was scored.
    """
    metrics, attention = SplitMetrics(), AttentionMap(history_length, context.control, planted)
    released = ReleasedMetrics() if config.released_metrics else None
    for batch, output in score_batches(run, stream, context, config.overlap):
        metrics.update(output.logit_T, output.label_T, output.weight_T, output.user_T)
        attention.update(batch, output)
        if released is not None:
            released.update(output, batch.features["target_category"].values())
    if stream.stopped:
        raise context.stop.stopped()
    with context.progress.phase("reporting"):
        values = metrics.compute(context.control)
        if released is not None:
            values |= released.compute()
        curve = metrics.calibration_curve() if context.is_main else {}
        return Evaluation(values, curve, attention.compute())


def score_batches(
    run: ShardedRun, stream: BatchStream, context: RunContext, overlap: Overlap
) -> Iterator[tuple[Batch, StepOutput]]:
    """Score every batch of a split, in evaluation mode and without gradients; a collective.

    Args:
        run: the model; it is in evaluation mode during the pass only.
        stream: one epoch of the split.
        context: of this process.
        overlap: what of the next batch is done while one is scored.

    Returns:
        Each batch as it was read, and the model's output for it.
    """
    batches = _Remembering(stream)
    pipeline = make_pipeline(run.model, run.optimizers.combined, context.device, overlap)
    run.model.eval()
    try:
        while True:
            try:
                with torch.no_grad():
                    output: StepOutput = pipeline.progress(batches)
            except StopIteration:
                return
            yield batches.in_flight.pop(0), output
    finally:
        pipeline.detach()
        run.model.train()
