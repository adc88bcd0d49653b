"""A run small enough to compare step by step: its config, its data, its losses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pipelines.batch import Batch, collate, padding_batch
from pipelines.interval import Clock
from pipelines.overlap import check_overlap, make_pipeline
from pipelines.requests import Requests
from pipelines.schema import DatasetSchema, SplitInfo, TableInfo
from trainer.arguments import parse_config
from trainer.build import ShardedRun, build
from trainer.config import TrainConfig
from trainer.distributed import RunContext

HISTORY_LENGTH = 12
ROWS = {"item": 211, "category": 17}
SIDE_ROWS = {"behaviour_type": 5, "scenario": 9}
"""Of what a model can read besides, beside the interval."""
REQUESTS_A_STEP = 24
SHARES = {1: [0, 24], 2: [0, 8, 24], 4: [0, 3, 9, 9, 24]}
"""Requests of each rank; with 4 ranks the third has none."""


def small_schema() -> DatasetSchema:
    """What the planner needs to know of the data below."""
    lengths = {"mean": 6.0, "p50": 6.0, "p90": 12.0, "p99": 12.0, "max": 12.0}
    split = SplitInfo(
        rows=1, requests=100, targets=250, positives=80, history_length=lengths, files=[]
    )
    return DatasetSchema(
        source="test",
        layout="user",
        seed=0,
        protocol={},
        tables={
            name: TableInfo(rows=rows, distinct=rows - 1)
            for name, rows in (ROWS | SIDE_ROWS).items()
        },
        splits={"train": split, "val": split, "test": split},
    )


def small_config(*options: str) -> TrainConfig:
    """A run with narrow tables; options as on the command line."""
    return parse_config(
        [
            f"--data.history_length={HISTORY_LENGTH}",
            "--model.search.top_k=5",
            "--model.embeddings.attention={item: 8, category: 8, position: 4}",
            "--model.embeddings.representation={item: 16, category: 8, position: 4}",
            "--model.init.std=0.1",
            # With some seeds two scores differ by less than rounding within 20 steps, and what a
            # search keeps depends on the order of sums: losses then differ by up to 2e-4.
            "--seed=2",
            # Adam divides by the gradient's own size: without an eps above the rounding of float32
            # it turns the rounding of a gradient that is zero in truth into a full step.
            "--optim.sparse.eps=1e-3",
            "--optim.dense.eps=1e-3",
            "--optim.sparse.learning_rate=0.003",
            "--optim.dense.learning_rate=0.003",
            *options,
        ]
    )[0]


def requests_of_step(step: int, *, side_features: tuple[str, ...] = ()) -> Requests:
    """Ragged requests, some with an empty history, the same on every rank."""
    rng = np.random.default_rng(step)
    length = rng.integers(0, HISTORY_LENGTH + 1, REQUESTS_A_STEP)
    count = rng.integers(1, 5, REQUESTS_A_STEP)
    end, targets = np.cumsum(length), int(count.sum())
    requests = Requests(
        history={name: rng.integers(1, ROWS[name], end[-1]) for name in ("item", "category")},
        start=end - length,
        end=end,
        user=np.arange(REQUESTS_A_STEP),
        target_offset=np.concatenate([[0], np.cumsum(count)]),
        target={name: rng.integers(1, ROWS[name], targets) for name in ("item", "category")},
        label=(rng.random(targets) < 0.4).astype(np.float32),
    )
    if not side_features:
        return requests
    for name in side_features:
        requests.history[name] = rng.integers(1, SIDE_ROWS[name], end[-1])
        requests.target[name] = rng.integers(0, SIDE_ROWS[name], targets)
    moments = rng.integers(0, 10_000, end[-1]), rng.integers(0, 10_000, REQUESTS_A_STEP)
    return replace(
        requests, clock=Clock(behaviour=moments[0], request=moments[1], unit=1, buckets=32)
    )


def batches(
    rank: int, world: int, steps: int, *, side_features: tuple[str, ...] = ()
) -> Iterator[Batch]:
    """This rank's share of each step's requests; with side features the interval is there too."""
    first, last = SHARES[world][rank], SHARES[world][rank + 1]
    keys = (*ROWS, *side_features, *(("interval",) if side_features else ()))
    for step in range(steps):
        requests = requests_of_step(step, side_features=side_features)
        chosen = np.arange(first, last)
        batch = collate([(requests, chosen)]) if len(chosen) else padding_batch(keys)
        batch.total_weight.fill_(float(len(requests.label)))
        yield batch


def mean_loss(output: Any, total: float) -> float:
    """Main and auxiliary loss of a step over the targets of all ranks."""
    both = (output.loss + output.auxiliary_loss).double()
    if dist.get_world_size() > 1:
        dist.all_reduce(both)
    return float(both) / total


def train_pipelined(config: TrainConfig, context: RunContext, steps: int) -> list[float]:
    """Losses of the steps through TorchRec's pipeline."""
    run = build(config, small_schema(), context)
    pipeline = make_pipeline(run.model, run.optimizers.combined, context.device)
    run.model.train()
    source, losses = batches(context.rank, context.world, steps), []
    for step in range(steps):
        run.optimizers.set_learning_rates(step)
        output = pipeline.progress(source)
        check_overlap(pipeline, run.model)
        losses.append(mean_loss(output, float(len(requests_of_step(step).label))))
    return losses


def train_plainly(config: TrainConfig, context: RunContext, steps: int) -> list[float]:
    """Losses of the steps through the model alone, one line after the other."""
    run = build(config, small_schema(), context)
    run.model.train()
    losses = []
    for step, batch in enumerate(batches(context.rank, context.world, steps)):
        run.optimizers.set_learning_rates(step)
        run.optimizers.combined.zero_grad()
        loss, output = run.model(batch.to(context.device))
        loss.backward()
        run.optimizers.combined.step()
        losses.append(mean_loss(output, float(len(requests_of_step(step).label))))
    return losses


def full_tables(run: ShardedRun) -> dict[str, torch.Tensor]:
    """All tables gathered on rank 0, empty elsewhere; a collective."""
    gathered = {}
    for name, value in run.model.state_dict().items():
        if hasattr(value, "local_shards"):
            whole = torch.zeros(value.size()) if dist.get_rank() == 0 else None
            value.gather(dst=0, out=whole)
            if whole is not None:
                gathered[name] = whole
    return gathered
