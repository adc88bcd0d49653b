"""`dare bench train`: throughput of the real training path on data of a known shape."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from modules.model_config import Preset
from trainer.bench.data import write_uniform
from trainer.bench.machine import machine
from trainer.bench.series import Series
from trainer.bench.setting import DataShape, TrainSetting, check_least
from trainer.bench.training import WARM_UP_STEPS, Training
from trainer.distributed import RunContext, run_context
from trainer.optim import SparseOptimizer
from trainer.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)


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
    told: dict[str, Any] = {
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
    for name in ("steps", "repeats"):
        check_least(name, told[name])
    setting = TrainSetting(
        preset=preset,
        data=DataShape(items=items, history_length=history_length, targets=targets),
        top_k=top_k,
        width=width,
        batch_size=batch_size,
        auxiliary=auxiliary,
        sparse_optimizer=sparse_optimizer,
        seed=seed,
    )
    with run_context() as context:
        configure_logging(context.rank)
        with _shared_folder(folder, context) as shared:
            requests = (steps * repeats + WARM_UP_STEPS + 3) * setting.requests * context.world
            if context.is_main:
                write_uniform(shared, setting.data, requests, seed)
            context.wait()
            figures = _measure(setting, shared, context, steps, repeats)
        return {**figures, **told, **machine()} if context.is_main else {}


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
    setting: TrainSetting, folder: Path, context: RunContext, steps: int, repeats: int
) -> dict[str, Any]:
    training = Training(setting, folder, context)
    found = []
    for repeat in range(repeats):
        measured = training.steps(steps)
        found.append(measured._replace(samples=measured.samples * context.world))
        rate = found[-1].samples / found[-1].seconds
        logger.info("repeat %d of %d: %s samples/s", repeat + 1, repeats, f"{rate:,.0f}")
    return {
        **Series(found, steps).figures(),
        "peak_memory_bytes": training.peak_memory_bytes(),
        "ranks": context.world,
        "device": context.device.type,
    }
