"""The real training path over data of a known shape, measured step by step."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple, cast

import torch

from pipelines.overlap import make_pipeline
from pipelines.schema import load_schema
from trainer.bench.setting import TrainSetting
from trainer.build import build, open_stream
from trainer.distributed import RunContext
from trainer.telemetry.memory import peak_memory_bytes

WARM_UP_STEPS = 3
_FOREVER = 1 << 30


class Measured(NamedTuple):
    """Some training steps."""

    seconds: float
    """Of this rank, the device's work included."""
    samples: int
    """Targets of this rank."""
    waited_s: float
    """Of the seconds, those spent waiting for data."""


class Training:
    """A model that reads, looks up, learns; a collective over all ranks.

    Args:
        setting: what is trained.
        folder: of its data, seen by all ranks.
        context: this process.
    """

    def __init__(self, setting: TrainSetting, folder: Path, context: RunContext) -> None:
        config = setting.config(folder)
        schema = load_schema(config.data.schema)
        self._context = context
        self._stream = open_stream(config, "train", schema, context, epochs=_FOREVER)
        run = build(config, schema, context)
        self.table_bytes = sum(int(cast(int, row["bytes"])) for row in run.placement.rows)
        """Of all tables over all ranks, without optimizer state."""
        self._pipeline = make_pipeline(run.model, run.optimizers.combined, context.device)
        run.model.train()
        self.steps(WARM_UP_STEPS)

    def steps(self, number: int) -> Measured:
        """Train, and tell what it took."""
        self._context.wait()
        waited, started, samples = self._stream.waited_s, time.perf_counter(), 0
        for _ in range(number):
            samples += self._pipeline.progress(self._stream).label_T.numel()
        if self._context.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        return Measured(seconds, samples, self._stream.waited_s - waited)

    def peak_memory_bytes(self) -> int:
        """Of this process, on its device, so far."""
        return int(peak_memory_bytes(self._context.device))
