"""Ends a run whose numbers are no longer finite, before they are saved."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class LossWatch:
    """Sums the losses on their device: one look sees every step since the last look.

    Args:
        device: of the losses.
    """

    def __init__(self, device: torch.device) -> None:
        self._sum = torch.zeros((), device=device)

    def add(self, loss: Tensor) -> None:
        """Count the loss of a step; does not wait for the device."""
        self._sum = self._sum + loss

    def check(self, step: int) -> None:
        """Look, and begin anew; waits for the device.

        Args:
            step: finished steps, for the message.

        Raises:
            RuntimeError: a loss since the last look is not finite.
        """
        found = float(self._sum)
        if not math.isfinite(found):
            raise _diverged(f"the loss is {found} by step {step}")
        self._sum = torch.zeros_like(self._sum)


def check_scores(metrics: Mapping[str, float], step: int) -> None:
    """Look at an evaluation, which sees the update that follows the last loss.

    Args:
        metrics: of `SplitMetrics.compute`.
        step: finished steps, for the message.

    Raises:
        RuntimeError: a target was scored with what is not finite.
    """
    if metrics["samples"] > 0 and not math.isfinite(metrics["logloss"]):
        raise _diverged(f"the model after step {step} gives scores that are not finite")


def _diverged(what: str) -> RuntimeError:
    return RuntimeError(
        f"{what}; lower optim.sparse.learning_rate and optim.dense.learning_rate, or look at the "
        "data; the newest checkpoint is as it was"
    )
