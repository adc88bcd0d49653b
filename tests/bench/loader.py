"""Does reading keep up? `python -m tests.bench.loader`.

Targets/s that the stream reads alone, in the training process and in one worker process, beside the
targets/s that the step takes where batches are in memory already.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.overlap import make_pipeline
from pipelines.schema import load_schema
from tests.bench.ours import make_config, write_ours
from tests.bench.rows import Shape, draw
from trainer.bench.machine import machine
from trainer.build import build, open_stream
from trainer.config import TrainConfig
from trainer.distributed import RunContext, run_context
from trainer.telemetry.telemetry import configure_logging

_KEPT_BATCHES = 8


def read_rates(
    config: TrainConfig, context: RunContext, workers: int, steps: int, repeats: int
) -> list[float]:
    """Targets/s of reading alone, once the worker is there.

    Args:
        config: of the run.
        context: of this process.
        workers: processes that read ahead; 0 reads here.
        steps: batches a repeat.
        repeats: so many.
    """
    reading = replace(config, data=replace(config.data, workers=workers))
    schema = load_schema(config.data.schema)
    stream = open_stream(reading, "train", schema, context, epochs=1 << 30)
    rates = []
    # What a worker has read ahead before the clock starts is used up first.
    for _ in range(_KEPT_BATCHES):
        next(stream)
    for _ in range(repeats):
        started = time.perf_counter()
        targets = sum(next(stream).label.numel() for _ in range(steps))
        rates.append(targets / (time.perf_counter() - started))
    return rates


def step_rates(config: TrainConfig, context: RunContext, steps: int, repeats: int) -> list[float]:
    """Targets/s of the step alone, over batches that are in memory.

    Args:
        config: of the run.
        context: of this process.
        steps: of a repeat.
        repeats: so many.
    """
    schema = load_schema(config.data.schema)
    stream = open_stream(config, "train", schema, context)
    kept = itertools.cycle(list(itertools.islice(stream, _KEPT_BATCHES)))
    run = build(config, schema, context)
    pipeline = make_pipeline(run.model, run.optimizers.combined, context.device)
    run.model.train()
    rates = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        targets = sum(pipeline.progress(kept).label_T.numel() for _ in range(steps))
        rates.append(targets / (time.perf_counter() - started))
    return rates[1:]


def measure(shape: Shape, options: list[str], steps: int, repeats: int) -> dict[str, Any]:
    """All of it for rows of a shape.

    Args:
        shape: of the rows.
        options: of the run, as on the command line.
        steps: of a repeat.
        repeats: so many; the median counts.
    """
    with tempfile.TemporaryDirectory() as work, run_context() as context:
        write_ours(Path(work) / "ours", draw(shape), shape.items)
        config = make_config(Path(work) / "ours", shape, options)
        rates = {
            f"read_{workers}_workers": statistics.median(
                read_rates(config, context, workers, steps, repeats)
            )
            for workers in (0, 1)
        }
        step = statistics.median(step_rates(config, context, steps, repeats))
    return {
        **{name: round(rate, 1) for name, rate in rates.items()},
        "step": round(step, 1),
        **{f"{name}_over_step": round(rate / step, 2) for name, rate in rates.items()},
        **machine(),
    }


def main() -> None:
    """Tell in a JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.loader", description=__doc__)
    parser.add_argument("--items", type=int, default=4_068_790)
    parser.add_argument("--history_length", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=2048)
    parser.add_argument("--targets", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="of a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    given, options = parser.parse_known_args()
    configure_logging(0)
    names = ("items", "history_length", "batch_size", "targets")
    shape = Shape(**{name: getattr(given, name) for name in names})
    print(json.dumps(measure(shape, options, given.steps, given.repeats)))


if __name__ == "__main__":
    main()
