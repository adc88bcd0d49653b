"""From a config to a sharded model with its optimizers, in the order TorchRec needs."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel

from modules.ranker import Ranker
from pipelines.loader import DataConfig, Split, count_collisions, make_dataset
from pipelines.lockstep import BatchStream
from pipelines.overlap import check_device
from pipelines.schema import FEATURES, DatasetSchema
from trainer.config import TrainConfig
from trainer.distributed import RunContext
from trainer.optim import Optimizers, make_optimizers
from trainer.planner.advice import explain
from trainer.planner.config import PlanConfig, Precision, TopologySpec, load_plan_config
from trainer.planner.job import Placement, make_plan, place, with_saved_precisions
from trainer.planner.workload import Workload, group_topology, job_topology
from trainer.sharding import DATA_TYPES, initialise_tables, shard, table_kinds
from trainer.task import TrainTask

logger = logging.getLogger(__name__)


@dataclass
class ShardedRun:
    """A model ready to train."""

    model: DistributedModelParallel
    optimizers: Optimizers
    placement: Placement
    """Where its tables live."""


def build_task(
    config: TrainConfig,
    schema: DatasetSchema,
    device: torch.device,
    precisions: Mapping[str, Precision] | None = None,
) -> TrainTask:
    """The model with its loss: tables on meta, everything else on the device.

    The dense starting values are a function of the seed alone.

    Args:
        config: of the run.
        schema: of the data.
        device: of everything but the tables.
        precisions: by table, fp32 for those that are not named.
    """
    torch.manual_seed(config.seed)
    ranker = Ranker(
        config.model,
        rows=config.data.rows(schema, config.model.embeddings.features),
        history_length=config.data.history_length,
        device=torch.device("meta"),
        autocast=config.loop.autocast,
        table_types={name: DATA_TYPES[p] for name, p in (precisions or {}).items()},
    )
    ranker.interaction.to(device)
    return TrainTask(ranker, auxiliary_weight=config.model.head.auxiliary_weight, l2=config.loop.l2)


def build(config: TrainConfig, schema: DatasetSchema, context: RunContext) -> ShardedRun:
    """Model, plan, shards, starting values, optimizers; a collective.

    Raises:
        ValueError: no plan fits, or the planner config or the saved plan is wrong.
    """
    check_device(config.loop.overlap, context.device)
    machines = job_topology(context)
    planning = read_planning(config, schema, machines)
    task = build_task(config, schema, context.device, planning.precisions())
    workload = make_workload(config, schema, planning, machines, task)
    plan = make_plan(
        task,
        context,
        config.sharding,
        fused_params=workload.fused_params,
        pooling=workload.pooling,
        batch_size=workload.batch_size,
        explain=lambda workload, failed: explain(
            config,
            workload,
            failed,
            lambda config, planning: make_workload(config, schema, planning, machines),
        ),
    )
    placement = place(workload, plan)
    ahead = {"prefetch_pipeline": True} if config.loop.overlap == "prefetch" else {}
    model = shard(
        task,
        context,
        plan,
        fused_params={**workload.fused_params, **ahead},
        groups=planning.replication.groups,
        communication=config.sharding.communication,
    )
    initialise_tables(model, seed=config.seed, std=config.model.init.std)
    return ShardedRun(model, make_optimizers(model, config.optim), placement)


def read_planning(config: TrainConfig, schema: DatasetSchema, machines: TopologySpec) -> PlanConfig:
    """The planner config of a run; its tables have the precisions of the saved plan, if any.

    Raises:
        ValueError: it is wrong, one line a mistake, or its device does not know the optimizer.
    """
    sketch = build_task(config, schema, torch.device("meta"))
    planning = load_plan_config(config.sharding.plan, table_kinds(sketch), machines.device)
    config.optim.sparse.check_device((planning.topology or machines).device)
    return with_saved_precisions(planning, config.sharding.saved_plan)


def make_workload(
    config: TrainConfig,
    schema: DatasetSchema,
    planning: PlanConfig,
    machines: TopologySpec,
    task: TrainTask | None = None,
) -> Workload:
    """What the planner is told of a run.

    Args:
        config: of the run.
        schema: of the data, whose lengths are the planner's pooling factors.
        planning: the planner config.
        machines: of the running job, for a planner config without any.
        task: the model, where it is there already.
    """
    pooling = mean_ids(config.data, schema, config.model.embeddings.features)
    targets_a_request = max(1.0, pooling["target_item"])
    return Workload(
        model=task or build_task(config, schema, torch.device("meta"), planning.precisions()),
        config=planning,
        topology=group_topology(planning, machines),
        fused_params=config.optim.sparse.fused_params(),
        pooling=pooling,
        batch_size=max(1, int(config.data.batch_size / targets_a_request)),
    )


def describe_sizes(run: ShardedRun, schema: DatasetSchema, context: RunContext) -> str:
    """How much there is to train, in a line."""
    train = schema.splits["train"]
    size = sum(int(row["bytes"]) for row in run.placement.rows)
    return (
        f"{train.targets:,} targets in {train.requests:,} requests, tables of {size:,} bytes "
        f"on {context.world} ranks ({context.device.type})"
    )


def expected_steps(config: TrainConfig, schema: DatasetSchema, world: int) -> int | None:
    """Steps a run will have; an estimate where requests differ in targets or behaviours."""
    train, data = schema.splits["train"], config.data
    requests = train.requests if data.targets == "together" else train.targets
    batch = max(1, int(data.batch_size / _targets_a_request(data, schema)))
    if data.behaviours_per_batch:
        behaviours = mean_ids(data, schema)["history_item"]
        batch = min(batch, max(1, int(data.behaviours_per_batch / behaviours)))
    steps = config.loop.epochs * math.ceil(requests / world / batch)
    return min(steps, config.loop.steps) if config.loop.steps else steps


def mean_ids(
    config: DataConfig, schema: DatasetSchema, features: Sequence[str] = FEATURES
) -> dict[str, float]:
    """Mean ids a request by key of a batch: what the planner calls pooling factors."""
    train = schema.splits["train"]
    history = min(float(config.history_length), train.history_length["mean"])
    targets = _targets_a_request(config, schema)
    return {
        f"{side}_{name}": max(1.0, ids)
        for side, ids in (("history", history), ("target", targets))
        for name in features
    }


def _targets_a_request(config: DataConfig, schema: DatasetSchema) -> float:
    """As the stream hands requests out, in the mean."""
    train = schema.splits["train"]
    together = config.targets == "together"
    return max(1.0, train.targets / max(1, train.requests)) if together else 1.0


def open_stream(
    config: TrainConfig,
    split: Split,
    schema: DatasetSchema,
    context: RunContext,
    *,
    epochs: int = 1,
) -> BatchStream:
    """Batches of a split for this rank."""
    dataset = make_dataset(
        config.data,
        split,
        schema,
        seed=config.seed,
        rank=context.rank,
        world=context.world,
        features=config.model.embeddings.features,
    )
    if config.data.ids == "hash" and split == "train" and context.is_main:
        for table, (ids, sharing) in count_collisions(dataset).items():
            logger.info(
                "data.ids hash: %s of %s different %s ids share a row with another (%.2f %%)",
                f"{sharing:,}",
                f"{ids:,}",
                table,
                100 * sharing / max(1, ids),
            )
    return BatchStream(
        dataset,
        workers=config.data.workers,
        epochs=epochs,
        group=context.control,
        pin_memory=context.device.type == "cuda",
        stop=context.stop.asked,
        phase=context.progress.phase,
        patience=context.stop.waiting,
    )


def check_splits(config: TrainConfig, schema: DatasetSchema, context: RunContext) -> None:
    """Look for the files that are scored, so that none is missed after hours of training.

    Raises:
        ValueError: a split has none, or their columns do not fit the layout.
    """
    for split in ("val", "test") if config.data.test else ("val",):
        open_stream(config, split, schema, context)
