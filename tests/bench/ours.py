"""This project's training, timed in turns: `python -m tests.bench.ours --data FOLDER`.

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
from pipelines.prepare.writer import DatasetWriter, user_table
from pipelines.schema import load_schema
from tests.bench.rows import Array, Rows, Shape, digest, draw
from tests.bench.turns import FIRST_STEPS, Turns
from trainer.arguments import parse_run, run_parser
from trainer.bench.machine import machine
from trainer.build import build, open_stream
from trainer.config import TrainConfig
from trainer.distributed import RunContext, run_context
from trainer.telemetry.telemetry import configure_logging

WIDTH = 16
_CHUNK_BEHAVIOURS = 1 << 20


def write_ours(folder: Path, rows: Rows, items: int) -> None:
    """The rows in the `user` layout."""
    writer = DatasetWriter(str(folder))
    requests, length = rows.history_RL.shape
    targets, chunk = rows.target_RT.shape[1], max(1, _CHUNK_BEHAVIOURS // length)
    for first in range(0, requests, chunk):
        part = slice(first, first + chunk)
        history, shown = rows.history_RL[part].ravel(), rows.target_RT[part].ravel()
        users = shown.size // targets
        table = user_table(
            np.arange(first, first + users),
            {
                "item": history,
                "category": rows.category(history),
                "timestamp": np.tile(np.arange(length), users),
            },
            np.arange(users + 1) * length,
            {"history_end": np.full(users, length), "timestamp": np.full(users, length)},
            np.arange(users + 1),
            {
                "item": shown,
                "category": rows.category(shown),
                "label": rows.label_RT[part].ravel().astype(np.float32),
            },
            np.arange(users + 1) * targets,
        )
        writer.add("train", table)
    sizes = {"item": items + 1, "category": rows.categories + 1}
    distinct = {name: size - 1 for name, size in sizes.items()}
    writer.close(source="bench", seed=0, protocol={}, distinct=distinct, rows=sizes)


def make_config(data: Path, shape: Shape, options: list[str]) -> TrainConfig:
    """The run, as the command line makes it."""
    widths = f"{{item: {WIDTH}, category: {WIDTH}, position: {WIDTH}}}"
    config, _, _ = parse_run(
        run_parser("tests.bench.ours", ""),
        [
            *(f"--data.{split}={data / split}" for split in ("train", "val", "test")),
            f"--data.schema={data / 'schema.json'}",
            f"--data.history_length={shape.history_length}",
            f"--data.batch_size={shape.batch_size}",
            "--data.shuffle_requests=8192",
            f"--model.embeddings.attention={widths}",
            f"--model.embeddings.representation={widths}",
            *options,
        ],
    )
    return config


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


def time_training(
    config: TrainConfig, context: RunContext, digest_read: str, steps: int, repeats: int
) -> None:
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
    turns = Turns(steps, repeats, figures)
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
    parser.add_argument("--data", required=True, help="folder of rows; drawn where it is empty")
    parser.add_argument("--items", type=int, default=100_000, help="rows of the item table, but 1")
    parser.add_argument("--history_length", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=2048)
    parser.add_argument("--targets", type=int, default=3, help="targets a request")
    parser.add_argument("--steps", type=int, default=15, help="of a turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns; 0: one a line of input")
    given, options = parser.parse_known_args()
    data = Path(given.data)
    if not (data / "shape.json").is_file():
        names = ("items", "history_length", "batch_size", "targets")
        shape = Shape(**{name: getattr(given, name) for name in names})
        write_ours(data / "ours", draw(shape), shape.items)
        shape.save(data)
    shape = Shape.load(data)
    configure_logging(0)
    with run_context() as context:
        config = make_config(data / "ours", shape, options)
        read = digest(map(rows_of, read_once(config, context)))
        time_training(config, context, read, given.steps, given.repeats)


if __name__ == "__main__":
    main()
