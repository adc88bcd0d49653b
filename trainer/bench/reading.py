"""Does reading keep up with the step?"""

from __future__ import annotations

import itertools
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.batch import Batch
from pipelines.overlap import make_pipeline
from pipelines.schema import load_schema
from trainer.bench.data import write_uniform
from trainer.bench.series import ratio, spread
from trainer.bench.setting import Effort, TrainSetting
from trainer.build import build, open_stream
from trainer.config import TrainConfig
from trainer.distributed import RunContext, run_context

logger = logging.getLogger(__name__)

_BATCHES = 24
_KEPT_BATCHES = 8
_FOREVER = 1 << 30
_READ_AHEAD = 4
"""Batches that a worker may have ready when its turn comes; they do not count."""
_STEP = "the step alone"


def measure_reading(base: TrainSetting, effort: Effort) -> dict[str, Any]:
    """Samples a second that are read alone, beside those that the step alone takes.

    Args:
        base: of the training.
        effort: of each.

    Returns:
        `cells`: of reading in the training process, of reading in one worker process, and of a step
        whose batches are in memory, each with how many times faster than the step it is.
    """
    with tempfile.TemporaryDirectory(prefix="dare-bench-") as folder, run_context() as context:
        write_uniform(Path(folder), base.data, _BATCHES * base.requests, base.seed)
        config = base.config(Path(folder))
        sources: dict[str, Iterator[int]] = {
            "reading, in the training process": _reading(config, context, workers=0),
            "reading, one worker process": _reading(config, context, workers=1),
            _STEP: _training(config, context),
        }
        rates: dict[str, list[float]] = {name: [] for name in sources}
        for repeat in range(effort.repeats):
            for name, source in sources.items():
                rates[name].append(_rate(source, effort.seconds))
            logger.info("reading, repeat %d of %d", repeat + 1, effort.repeats)
    cells = []
    for name, found in rates.items():
        over = ratio(found, rates[_STEP])["ratio"]
        cells.append({"part": name, **spread(found), "over_step": over})
    return {"cells": cells}


def _stream(config: TrainConfig, context: RunContext, workers: int) -> Iterator[Batch]:
    reading = replace(config, data=replace(config.data, workers=workers))
    schema = load_schema(config.data.schema)
    return open_stream(reading, "train", schema, context, epochs=_FOREVER)


def _reading(config: TrainConfig, context: RunContext, workers: int) -> Iterator[int]:
    """Samples of batches that were read."""
    for batch in _stream(config, context, workers):
        yield batch.label.numel()


def _training(config: TrainConfig, context: RunContext) -> Iterator[int]:
    """Samples of batches that were trained; all are in memory before the first."""
    kept = itertools.cycle(list(itertools.islice(_stream(config, context, 0), _KEPT_BATCHES)))
    run = build(config, load_schema(config.data.schema), context)
    pipeline = make_pipeline(run.model, run.optimizers.combined, context.device)
    run.model.train()
    while True:
        yield pipeline.progress(kept).label_T.numel()


def _rate(source: Iterator[int], seconds: float) -> float:
    """Samples a second, over about so many seconds."""
    for _ in range(_READ_AHEAD):
        next(source)
    started, samples = time.perf_counter(), 0
    while True:
        samples += next(source)
        taken = time.perf_counter() - started
        if taken >= seconds:
            return samples / taken
