"""Ends a run whose numbers are no longer finite, and keeps the batch.

Losses are looked at before their steps are saved, scores after: their checkpoint goes again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.batch import Batch
from trainer.distributed import RunContext
from trainer.reliability.ending import DivergedError
from trainer.task import StepOutput


@dataclass(frozen=True)
class BadBatch:
    """A batch whose loss is not finite; the tables are as they were before its update."""

    rank: int
    step: int
    """The step it would have become."""
    loss: float
    batch: Batch | None
    """On its rank only."""


class LossWatch:
    """Looks at the losses of all ranks together, before the update of every n-th step.

    A context manager around training. Losses are summed on their device, and one look sees every
    step since the last look.

    Args:
        model: which is called with a batch and returns a loss and a `StepOutput`.
        context: of this process.
        every: steps between looks.
        keep: called on all ranks with the first batch that is to blame; says where it is kept.
    """

    def __init__(
        self, model: nn.Module, context: RunContext, every: int, keep: Callable[[BadBatch], str]
    ) -> None:
        self._model, self._context, self._every, self._keep = model, context, every, keep
        self._losses: list[Tensor] = []

    def __enter__(self) -> LossWatch:
        self._hook = self._model.register_forward_hook(self._after_forward)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _after_forward(self, model: nn.Module, inputs: tuple[Any, ...], result: Any) -> None:
        if not model.training:
            return
        output: StepOutput = result[1]
        self._losses.append(output.loss + output.auxiliary_loss)
        step = self._context.progress.now.step + 1
        if step % self._every == 0:
            self._look(step, inputs[0])

    def check(self, step: int) -> None:
        """Look after an update; a collective.

        Args:
            step: finished steps.

        Raises:
            DivergedError: a loss since the last look is not finite.
        """
        self._look(step, None)

    def _look(self, step: int, batch: Batch | None) -> None:
        losses = torch.stack(self._losses).tolist() if self._losses else []
        self._losses = []
        before = step - len(losses) + 1
        bad = [(before + n, loss) for n, loss in enumerate(losses) if not math.isfinite(loss)]
        if not self._context.any(bool(bad)):
            return
        found = self._context.gather({str(self._context.rank): bad[0]} if bad else {})
        rank, (first, loss) = min(found.items(), key=lambda entry: (entry[1][0], int(entry[0])))
        text = f"the loss of rank {rank} is {loss} at step {first:,}"
        if batch is None or first < step:
            raise _diverged(
                f"{text}; --resume --loop.check_loss_every 1 stops before the update of that step "
                "and keeps its batch for `dare replay`"
            )
        own = batch if int(rank) == self._context.rank else None
        raise _diverged(f"{text}; {self._keep(BadBatch(int(rank), step, loss, own))}")


def check_scores(metrics: Mapping[str, float], step: int) -> None:
    """Look at an evaluation, which sees the update that follows the last loss.

    Args:
        metrics: of `SplitMetrics.compute`.
        step: finished steps, for the message.

    Raises:
        DivergedError: a target was scored with what is not finite.
    """
    if metrics["samples"] > 0 and not math.isfinite(metrics["logloss"]):
        raise _diverged(f"the model after step {step:,} gives scores that are not finite")


def _diverged(what: str) -> DivergedError:
    return DivergedError(
        f"{what}; lower optim.sparse.learning_rate and optim.dense.learning_rate, or look at the "
        "data; the newest checkpoint is as it was"
    )
