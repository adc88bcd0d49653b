"""`dare bench train`: throughput of the real training path on data of a known shape."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from modules.model_config import Preset
from pipelines.overlap import make_pipeline
from pipelines.prepare.writer import DatasetWriter, user_table
from pipelines.schema import DatasetSchema, load_schema
from trainer.arguments import parse_run, run_parser
from trainer.build import build, open_stream
from trainer.config import TrainConfig
from trainer.distributed import RunContext, run_context
from trainer.optim import SparseOptimizer
from trainer.telemetry.memory import peak_memory_bytes
from trainer.telemetry.telemetry import configure_logging

logger = logging.getLogger(__name__)

CATEGORIES = 9_407
_WARM_UP_STEPS = 3


def bench_train(
    *,
    preset: Preset = "dare",
    items: int = 4_068_790,
    history_length: int = 200,
    top_k: int = 20,
    width: int = 16,
    batch_size: int = 2048,
    targets: int = 3,
    auxiliary: bool = True,
    sparse_optimizer: SparseOptimizer = "adam",
    steps: int = 30,
    repeats: int = 5,
    folder: str = "",
    seed: int = 1,
) -> dict[str, Any]:
    """Measure training at the paper's setting: reading, collating, lookups, backward, optimizers.

    Ids are uniform and every history is full, which is the hardest case for tables and caches.
    Under torchrun all ranks train together, and rank 0 tells of all.

    Args:
        preset: the model.
        items: rows of the item table, but one.
        history_length: behaviours of every history.
        top_k: behaviours kept.
        width: of each feature's embedding.
        batch_size: targets a step and rank.
        targets: targets a request.
        auxiliary: with the auxiliary loss.
        sparse_optimizer: of the tables.
        steps: steps a repeat.
        repeats: repeats; the median counts.
        folder: where the data goes and is deleted again, seen by all ranks; empty: the system's.
        seed: of ids and starting values.

    Returns:
        samples/s (median, least, most), peak memory, share of time waiting for data, what was run;
        nothing on ranks other than 0.

    Raises:
        ValueError: nothing to measure, or a setting that cannot be.
    """
    setting: dict[str, Any] = {
        "preset": preset,
        "items": items,
        "history_length": history_length,
        "top_k": top_k,
        "width": width,
        "batch_size": batch_size,
        "targets": targets,
        "auxiliary": auxiliary,
        "sparse_optimizer": sparse_optimizer,
        "steps": steps,
        "repeats": repeats,
        "seed": seed,
    }
    for name in ("items", "history_length", "top_k", "targets", "batch_size", "steps", "repeats"):
        check_least(name, setting[name])
    if targets > batch_size:
        raise ValueError(
            f"--targets is {targets}, --batch_size {batch_size}; a batch holds whole requests"
        )
    if top_k > history_length:
        raise ValueError(
            f"--top_k is {top_k}, --history_length {history_length}; a search keeps at most what "
            "there is"
        )
    with run_context() as context:
        configure_logging(context.rank)
        with _shared_folder(folder, context) as shared:
            requests = (steps * repeats + _WARM_UP_STEPS + 3) * (batch_size // targets)
            config = _config(shared, setting)
            if context.is_main:
                requests *= context.world
                _write_data(shared, items, history_length, targets, requests, seed)
            context.wait()
            schema = load_schema(config.data.schema)
            figures = _measure(config, schema, context, steps, repeats)
        return {**figures, **setting, **machine()} if context.is_main else {}


def check_least(name: str, value: int) -> None:
    """Refuse an option below 1.

    Raises:
        ValueError: it is.
    """
    if value < 1:
        raise ValueError(f"--{name} is {value}; it must be at least 1")


@contextmanager
def _shared_folder(parent: str, context: RunContext) -> Iterator[Path]:
    """A new folder of rank 0 for all ranks, deleted when all are done with it; a collective."""
    made = [tempfile.mkdtemp(prefix="dare-bench-", dir=parent or None) if context.is_main else ""]
    if context.control is not None:
        dist.broadcast_object_list(made, group=context.control, group_src=0)
    try:
        yield Path(made[0])
        context.wait()
    finally:
        if context.is_main:
            shutil.rmtree(made[0])


def _measure(
    config: TrainConfig, schema: DatasetSchema, context: RunContext, steps: int, repeats: int
) -> dict[str, Any]:
    stream = open_stream(config, "train", schema, context)
    run = build(config, schema, context)
    pipeline = make_pipeline(run.model, run.optimizers.combined, context.device)
    run.model.train()
    for _ in range(_WARM_UP_STEPS):
        pipeline.progress(stream)
    rates, waits = [], []
    for repeat in range(repeats):
        context.wait()
        waited, started, samples = stream.waited_s, time.perf_counter(), 0
        for _ in range(steps):
            samples += pipeline.progress(stream).label_T.numel()
        if context.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        rates.append(samples * context.world / seconds)
        waits.append((stream.waited_s - waited) / seconds)
        logger.info("repeat %d of %d: %s samples/s", repeat + 1, repeats, f"{rates[-1]:,.0f}")
    return {
        "samples_per_s": round(statistics.median(rates), 1),
        "samples_per_s_min": round(min(rates), 1),
        "samples_per_s_max": round(max(rates), 1),
        "data_wait_share": round(statistics.median(waits), 4),
        "peak_memory_bytes": int(peak_memory_bytes(context.device)),
        "ranks": context.world,
        "device": context.device.type,
    }


def _config(folder: Path, setting: dict[str, Any]) -> TrainConfig:
    """The run that is measured, built as the command line would."""
    width = setting["width"]
    widths = f"{{item: {width}, category: {width}, position: {width}}}"
    config, _, _ = parse_run(
        run_parser("dare bench train", ""),
        [
            *(f"--data.{split}={folder / split}" for split in ("train", "val", "test")),
            f"--data.schema={folder / 'schema.json'}",
            f"--data.history_length={setting['history_length']}",
            f"--data.batch_size={setting['batch_size']}",
            "--data.shuffle_requests=8192",
            f"--model.preset={setting['preset']}",
            f"--model.embeddings.attention={widths}",
            f"--model.embeddings.representation={widths}",
            f"--model.search.top_k={setting['top_k']}",
            f"--model.head.auxiliary_weight={float(setting['auxiliary'])}",
            f"--optim.sparse.name={setting['sparse_optimizer']}",
            f"--seed={setting['seed']}",
        ],
    )
    return config


def _write_data(
    folder: Path, items: int, history_length: int, targets: int, requests: int, seed: int
) -> None:
    """Uniform ids, one request a user, full histories."""
    rng = np.random.default_rng(seed)
    writer = DatasetWriter(str(folder))
    chunk = max(1, (1 << 20) // history_length)
    for first in range(0, requests, chunk):
        users = min(chunk, requests - first)
        behaviours, shown = users * history_length, users * targets
        life = {
            "item": rng.integers(1, items + 1, behaviours),
            "category": rng.integers(1, CATEGORIES + 1, behaviours),
            "timestamp": np.tile(np.arange(history_length), users),
        }
        table = user_table(
            np.arange(first, first + users),
            life,
            np.arange(users + 1) * history_length,
            {
                "history_end": np.full(users, history_length),
                "timestamp": np.full(users, history_length),
            },
            np.arange(users + 1),
            {
                "item": rng.integers(1, items + 1, shown),
                "category": rng.integers(1, CATEGORIES + 1, shown),
                "label": (np.arange(shown) % targets == 0).astype(np.float32),
            },
            np.arange(users + 1) * targets,
        )
        writer.add("train", table)
    rows = {"item": items + 1, "category": CATEGORIES + 1}
    writer.close(
        source="bench",
        seed=seed,
        protocol={},
        distinct={name: size - 1 for name, size in rows.items()},
        rows=rows,
    )


def machine() -> dict[str, Any]:
    """What a figure belongs to: commit, versions, threads, processor."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "commit": commit or None,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "torchrec")},
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
    }
