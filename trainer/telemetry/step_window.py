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
        # Windows of before have none; over one rank it is 1 in each step.
        self.imbalance = known.get("imbalance", float(self.steps))
        self.loss: Tensor | float = known.get("loss", 0.0)
        self.weight: Tensor | float = known.get("weight", 0.0)
        self.started = time.perf_counter() - known.get("seconds", 0.0)

    def state(self) -> dict[str, float]:
        """What JSON can hold of it."""
        return {
            "steps": self.steps,
            "samples": self.samples,
            "behaviours": self.behaviours,
            "data_wait_s": self.data_wait_s,
            "imbalance": self.imbalance,
            "loss": float(torch.as_tensor(self.loss).item()),
            "weight": float(torch.as_tensor(self.weight).item()),
            "seconds": time.perf_counter() - self.started,
        }

    def add(
        self,
        loss: Tensor,
        weight: Tensor,
        samples: int,
        behaviours: int,
        data_wait_s: float,
        imbalance: float,
    ) -> None:
        """Count a step; its loss is a sum over targets, its weight theirs."""
        # New tensors: adding in place would change the caller's after the first step.
        self.loss, self.weight = self.loss + loss, self.weight + weight
        self.steps += 1
        self.samples += samples
        self.behaviours += behaviours
        self.data_wait_s += data_wait_s
        self.imbalance += imbalance

    def scalars(self, world: int) -> dict[str, float]:
        """Means and rates over the steps."""
        # Waits for the device, so before the clock; not a number where all was padding.
        loss = float((torch.as_tensor(self.loss) / torch.as_tensor(self.weight)).item())
        seconds = max(time.perf_counter() - self.started, 1e-9)
        return {
            "train/loss": loss,
            "train/samples_per_s": self.samples * world / seconds,
            "train/behaviours_per_s": self.behaviours * world / seconds,
            "train/step_s": seconds / self.steps,
            "train/behaviour_imbalance": self.imbalance / self.steps,
            "train/data_wait_share": min(1.0, self.data_wait_s / seconds),
        }
