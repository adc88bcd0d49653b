"""Where each table lives: the planner's input, the plan, the sharded model."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
import yaml
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec import EmbeddingBagConfig, EmbeddingCollection, EmbeddingConfig
from torchrec.distributed.embedding import EmbeddingCollectionSharder, ShardedEmbeddingCollection
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.types import PlannerError, Topology
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    ModuleSharder,
    ShardingPlan,
)

from modules.exchange import Wire
from modules.host_kernels import host_kernels
from modules.pooled import PooledEmbeddings
from modules.sharded_pooled import PooledSharder, ShardedPooledEmbeddings
from pipelines import storage
from trainer.distributed import RunContext

_INIT_BLOCK_ROWS = 1 << 16
_CPU_TYPES = ("table_wise", "row_wise", "column_wise")
_TYPES = (*_CPU_TYPES, "table_row_wise", "grid_shard", "data_parallel")


@dataclass(frozen=True, kw_only=True)
class ShardingConfig:
    """How the tables are spread over ranks."""

    plan: str = ""
    """A YAML file with constraints for TorchRec's planner; empty lets the planner choose freely.
    Its only key, `tables`, maps a table (such as `attention_item`, or `*` for all others) to
    `sharding_types` and `compute_kernels`, lists of TorchRec's names."""


def load_constraints(
    path: str, tables: list[str], device_type: str
) -> dict[str, ParameterConstraints]:
    """Read a planner config.

    Args:
        path: the YAML file; empty for none.
        tables: every table of the model.
        device_type: `cpu` or `cuda`.

    Raises:
        ValueError: not readable, an unknown key, table, sharding type or kernel, or a type the
            device cannot do.
    """
    if not path:
        return {}
    if not storage.exists(path):
        raise ValueError(f"sharding.plan is {path}, which is not there")
    with storage.open_file(path) as stream:
        try:
            raw = yaml.safe_load(stream)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"sharding.plan: {path} is not YAML: {reason}") from error
    if not isinstance(raw, dict) or set(raw) != {"tables"} or not isinstance(raw["tables"], dict):
        raise ValueError(f"sharding.plan: {path} must hold one mapping, `tables`")
    unknown = set(raw["tables"]) - {*tables, "*"}
    if unknown:
        raise ValueError(
            f"sharding.plan: {path} names {', '.join(sorted(unknown))}; tables are "
            f"{', '.join(tables)}, or * for all others"
        )
    return {
        table: _constraint(raw["tables"].get(table, raw["tables"].get("*")), table, device_type)
        for table in tables
        if table in raw["tables"] or "*" in raw["tables"]
    }


def _constraint(raw: Any, table: str, device_type: str) -> ParameterConstraints:
    where = f"sharding.plan: tables.{table}"
    if not isinstance(raw, dict) or not set(raw) <= {"sharding_types", "compute_kernels"}:
        raise ValueError(f"{where} is {raw!r}; it takes sharding_types and compute_kernels")
    types = raw.get("sharding_types")
    allowed = _CPU_TYPES if device_type == "cpu" else _TYPES
    for kind in types or []:
        if kind not in allowed:
            raise ValueError(
                f"{where}.sharding_types has {kind}; on {device_type}: {', '.join(allowed)}"
            )
    kernels = raw.get("compute_kernels")
    for kernel in kernels or []:
        if kernel not in {known.value for known in EmbeddingComputeKernel}:
            raise ValueError(f"{where}.compute_kernels has {kernel}, which TorchRec does not know")
    return ParameterConstraints(sharding_types=types, compute_kernels=kernels)


def sharders(fused_params: dict[str, Any]) -> list[ModuleSharder[nn.Module]]:
    """The sharders of the collections we use, with the optimizer their kernels fuse."""
    wire = Wire()
    made = (
        EmbeddingCollectionSharder(fused_params=dict(fused_params)),
        PooledSharder(dict(fused_params), wire),
    )
    return [cast(ModuleSharder[nn.Module], sharder) for sharder in made]


def make_plan(
    model: nn.Module,
    context: RunContext,
    config: ShardingConfig,
    *,
    fused_params: dict[str, Any],
    pooling: dict[str, float],
    batch_size: int,
) -> ShardingPlan:
    """Let TorchRec's planner place the tables; a collective, equal on all ranks.

    Args:
        model: with its collections on meta.
        context: of this process.
        config: the user's constraints.
        fused_params: the tables' optimizer, whose state takes memory too.
        pooling: mean ids a request by feature, from the data's own statistics; the planner's
            default of 1 is far too low for long histories.
        batch_size: requests a step and rank.

    Raises:
        ValueError: a constraint is wrong, or nothing fits.
    """
    tables = collection_tables(model)
    constraints = load_constraints(config.plan, list(tables), context.device.type)
    for table, features in tables.items():
        given = constraints.setdefault(table, ParameterConstraints())
        given.pooling_factors = [_ids_a_request(feature, pooling) for feature in features]
        if given.sharding_types is None:
            given.sharding_types = _default_types(context)
    topology = Topology(
        world_size=context.world,
        local_world_size=context.local_world,
        compute_device=context.device.type,
    )
    planner = EmbeddingShardingPlanner(
        topology=topology, constraints=constraints, batch_size=batch_size
    )
    try:
        if context.world > 1:
            group = context.control or dist.group.WORLD
            return planner.collective_plan(model, sharders(fused_params), group)
        return planner.plan(model, sharders(fused_params))
    except PlannerError as error:
        raise ValueError(
            f"sharding.plan {config.plan or '(none)'}: no plan fits: {error}"
        ) from error


def _ids_a_request(feature: str, pooling: dict[str, float]) -> float:
    """Of a feature; that of a pooled table, such as `item`, stands for history and target."""
    if feature in pooling:
        return pooling[feature]
    return sum(ids for name, ids in pooling.items() if name.endswith(f"_{feature}"))


def _default_types(context: RunContext) -> list[str] | None:
    """Sharding types to choose from; on one rank splitting a table only costs."""
    if context.world == 1:
        return ["table_wise"]
    return list(_CPU_TYPES) if context.device.type == "cpu" else None


def collection_tables(model: nn.Module) -> dict[str, list[str]]:
    """Features by table, over all collections of a model."""
    configs: list[EmbeddingConfig | EmbeddingBagConfig] = []
    for module in model.modules():
        if isinstance(module, EmbeddingCollection):
            configs += module.embedding_configs()
        elif isinstance(module, PooledEmbeddings):
            configs += module.embedding_bag_configs()
    return {table.name: list(table.feature_names) for table in configs}


def shard(
    model: nn.Module, context: RunContext, plan: ShardingPlan, *, fused_params: dict[str, Any]
) -> DistributedModelParallel:
    """Make the tables where the plan puts them and wrap the rest in DDP."""
    with host_kernels(context.device):
        return DistributedModelParallel(
            model,
            device=context.device,
            plan=plan,
            sharders=sharders(fused_params),
        )


@torch.no_grad()
def initialise_tables(model: DistributedModelParallel, *, seed: int, std: float) -> None:
    """Draw all table weights from N(0, std^2), the same whatever the plan and the world size.

    Each block of rows has a seed of its own, so that a shard can draw just its part.
    """
    for name, value in model.state_dict().items():
        if isinstance(value, ShardedTensor):
            for part in value.local_shards():
                row, column = part.metadata.shard_offsets
                width, table = value.size()[1], name.split(".")[-2]
                _draw(part.tensor, table, seed, std, row=row, column=column, width=width)


def _draw(
    weight: Tensor, name: str, seed: int, std: float, *, row: int, column: int, width: int
) -> None:
    generator = torch.Generator(device=weight.device)
    done = 0
    while done < weight.size(0):
        block, inside = divmod(row + done, _INIT_BLOCK_ROWS)
        generator.manual_seed(zlib.crc32(f"{name} {seed} {block}".encode()))
        values = torch.empty(_INIT_BLOCK_ROWS, width, device=weight.device)
        values.normal_(0.0, std, generator=generator)
        take = min(_INIT_BLOCK_ROWS - inside, weight.size(0) - done)
        weight[done : done + take] = values[
            inside : inside + take, column : column + weight.size(1)
        ]
        done += take


def table_kernels(model: nn.Module) -> list[SplitTableBatchedEmbeddingBagsCodegen]:
    """The kernels that hold this rank's tables.

    TorchRec 1.6 to 1.8 keeps its lookups in a plain list, where `modules()` does not see them.
    """
    return [
        kernel
        for collection in model.modules()
        if isinstance(collection, (ShardedEmbeddingCollection, ShardedPooledEmbeddings))
        for lookup in collection._lookups
        for kernel in lookup.modules()
        if isinstance(kernel, SplitTableBatchedEmbeddingBagsCodegen)
    ]


def set_optimizer_step(model: nn.Module, step: int) -> None:
    """Tell the tables' fused optimizers how many steps they have taken; Adam corrects by it."""
    for kernel in table_kernels(model):
        kernel.set_optimizer_step(step)


def plan_rows(plan: ShardingPlan) -> list[dict[str, str | int | float]]:
    """A plan as rows of a table: one row a shard."""
    rows: list[dict[str, str | int | float]] = []
    for module, tables in plan.plan.items():
        assert isinstance(tables, EmbeddingModuleShardingPlan)
        collection = module.removeprefix("ranker.embeddings.collections.")
        for table, sharding in tables.items():
            spec = sharding.sharding_spec
            rows += [
                {
                    "collection": collection,
                    "table": table,
                    "sharding": sharding.sharding_type,
                    "kernel": sharding.compute_kernel,
                    "rank": part.placement.rank(),
                    "first row": part.shard_offsets[0],
                    "rows": part.shard_sizes[0],
                    "first column": part.shard_offsets[1],
                    "columns": part.shard_sizes[1],
                    "bytes": part.shard_sizes[0] * part.shard_sizes[1] * 4,
                }
                for part in getattr(spec, "shards", None) or []
            ]
    return rows
