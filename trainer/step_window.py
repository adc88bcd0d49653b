"""What is counted between two log points."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor


class StepWindow:
    """The steps since the last log point; `state` of an earlier window is gone on with."""

    def __init__(self, state: Mapping[str, float] | None = None) -> None:
        known = state or {}
        self.steps, self.samples = int(known.get("steps", 0)), int(known.get("samples", 0))
        self.behaviours = int(known.get("behaviours", 0))
        self.data_wait_s = known.get("data_wait_s", 0.0)
        self.loss = torch.tensor(known["loss"]) if self.steps else None
        self.started = time.perf_counter() - known.get("seconds", 0.0)

    def state(self) -> dict[str, float]:
        """What JSON can hold of it."""
        return {
            "steps": self.steps,
            "samples": self.samples,
            "behaviours": self.behaviours,
            "data_wait_s": self.data_wait_s,
            "loss": 0.0 if self.loss is None else float(self.loss.item()),
            "seconds": time.perf_counter() - self.started,
        }

    def add(self, loss: Tensor, samples: int, behaviours: int, data_wait_s: float) -> None:
        """Count a step."""
        # A new tensor: adding in place would change the caller's loss after the first step.
        self.loss = loss.detach() if self.loss is None else self.loss + loss.detach()
        self.steps += 1
        self.samples += samples
        self.behaviours += behaviours
        self.data_wait_s += data_wait_s

    def scalars(self, world: int) -> dict[str, float]:
        """Means and rates over the steps."""
        assert self.loss is not None
        loss = float(self.loss.item()) / self.steps  # Waits for the device, so before the clock.
        seconds = max(time.perf_counter() - self.started, 1e-9)
        return {
            "train/loss": loss,
            "train/samples_per_s": self.samples * world / seconds,
            "train/behaviours_per_s": self.behaviours * world / seconds,
            "train/step_s": seconds / self.steps,
            "train/data_wait_share": min(1.0, self.data_wait_s / seconds),
        }
