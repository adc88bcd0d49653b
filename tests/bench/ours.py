"""This project's training, timed in turns, as `tests.bench.race` starts it.

What runs is what `dare train` runs: its stream, its model under TorchRec, its pipeline.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pipelines.batch import Batch
from pipelines.overlap import make_pipeline
from pipelines.schema import load_schema
from tests.bench.rows import Array, Rows, Shape, digest
from tests.bench.turns import FIRST_STEPS, Turns, add_turns
from trainer.bench.data import Users, write_equal
from trainer.bench.machine import machine
from trainer.bench.setting import DataShape, TrainSetting
from trainer.build import build, open_stream
from trainer.config import TrainConfig
from trainer.distributed import RunContext, run_context
from trainer.telemetry.logs import configure_logging

WIDTH = 16


def write_ours(folder: Path, rows: Rows, items: int) -> None:
    """The rows in the `user` layout."""

    def users(first: int, last: int) -> Users:
        history_UL, target_UT = rows.history_RL[first:last], rows.target_RT[first:last]
        return Users(
            history={"item": history_UL, "category": rows.category(history_UL)},
            target={"item": target_UT, "category": rows.category(target_UT)},
            label=rows.label_RT[first:last],
        )

    requests, length = rows.history_RL.shape
    sizes = {"item": items + 1, "category": rows.categories + 1}
    write_equal(folder, users, requests, length, sizes)


def make_config(data: Path, shape: Shape, options: list[str]) -> TrainConfig:
    """The run, as the command line makes it."""
    rows = DataShape(items=shape.items, history_length=shape.history_length, targets=shape.targets)
    return TrainSetting(data=rows, width=WIDTH, batch_size=shape.batch_size).config(data, options)


def rows_of(batch: Batch) -> tuple[Array, Array, Array]:
    """Items and categories of each target's history and its own, oldest first; labels."""
    counts = batch.features["target_item"].lengths().numpy()
    found = []
    for feature in ("item", "category"):
        newest_first = batch.features[f"history_{feature}"].values().numpy()
        history_NL = np.repeat(newest_first.reshape(len(counts), -1)[:, ::-1], counts, axis=0)
        target_N = batch.features[f"target_{feature}"].values().numpy()
        found.append(np.concatenate([history_NL, target_N[:, None]], axis=1))
    return found[0], found[1], batch.label.numpy().astype(np.int64)


def time_training(config: TrainConfig, context: RunContext, digest_read: str, steps: int) -> None:
    """Train in turns and tell of them."""
    schema = load_schema(config.data.schema)
    stream = open_stream(config, "train", schema, context, epochs=1 << 30)
    run = build(config, schema, context)
    pipeline = make_pipeline(run.model, run.optimizers.combined, context.device)
    run.model.train()
    sparse = config.optim.sparse
    figures = {
        **machine(),
        "optimizer": f"{sparse.name}, rate {sparse.learning_rate}",
        "digest": digest_read,
    }
    turns = Turns(steps, figures)
    for _ in range(FIRST_STEPS):
        pipeline.progress(stream)
    for _ in turns:
        started, samples = time.perf_counter(), 0
        for _ in range(steps):
            samples += pipeline.progress(stream).label_T.numel()
        if context.device.type == "cuda":
            torch.cuda.synchronize()
        turns.taken(samples, time.perf_counter() - started)


def read_once(config: TrainConfig, context: RunContext) -> Iterator[Batch]:
    """One epoch."""
    schema = load_schema(config.data.schema)
    yield from open_stream(config, "train", schema, context)


def main() -> None:
    """Time it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ours", description=__doc__)
    add_turns(parser)
    given, options = parser.parse_known_args()
    data = Path(given.data)
    configure_logging(0)
    with run_context() as context:
        config = make_config(data / "ours", Shape.load(data), options)
        read = digest(map(rows_of, read_once(config, context)))
        time_training(config, context, read, given.steps)


if __name__ == "__main__":
    main()
