"""The tables of a model and their sharders; the sharded model and its starting values."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.tensor import DTensor
from torchrec import DataType, EmbeddingBagCollection, EmbeddingCollection
from torchrec.distributed.embedding import EmbeddingCollectionSharder, ShardedEmbeddingCollection
from torchrec.distributed.fbgemm_qcomm_codec import (
    CommType,
    QCommsConfig,
    get_qcomm_codecs_registry,
)
from torchrec.distributed.model_parallel import DistributedModelParallel, DMPCollection
from torchrec.distributed.shards_wrapper import LocalShardsWrapper
from torchrec.distributed.types import ModuleSharder, QuantizedCommCodecs, ShardingPlan

from modules.exchange import Wire
from modules.host_kernels import host_kernels
from modules.sharded_pooled import PooledSharder, ShardedPooledEmbeddings
from trainer.distributed import RunContext
from trainer.planner.config import Kind, Precision

_INIT_BLOCK_ROWS = 1 << 16
DATA_TYPES: dict[Precision, DataType] = {"fp32": DataType.FP32, "fp16": DataType.FP16}
"""TorchRec's types of a table by our names."""


WireType = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True, kw_only=True)
class CommunicationConfig:
    """Type of what tables exchange on its way between ranks; it is float32 before and after."""

    forward: WireType = "fp32"
    """Of rows, sums, weights and scores. `int8` needs unpooled tables whose widths are multiples
    of 32, and sends what belongs to pooled tables as bf16."""
    backward: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Of gradients; those of a mean over many targets can be too small for fp16."""

    def codecs(self) -> dict[str, QuantizedCommCodecs] | None:
        """What TorchRec's sharders take."""
        if (self.forward, self.backward) == ("fp32", "fp32"):
            return None
        forward, backward = CommType(self.forward), CommType(self.backward)
        config = QCommsConfig(forward_precision=forward, backward_precision=backward)
        return get_qcomm_codecs_registry(config)

    def wire(self) -> Wire:
        """What our own exchange takes."""
        return Wire(_WIRE_TYPES[self.forward], _WIRE_TYPES[self.backward])


_WIRE_TYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.bfloat16,
}


@dataclass(frozen=True, kw_only=True)
class ShardingConfig:
    """How the tables are spread over ranks."""

    plan: str = ""
    """A YAML file for TorchRec's planner, such as those in launch/plans: machines, and what each
    table may do; empty lets the planner choose freely on the machines of the job."""
    saved_plan: str = ""
    """A `plan.json` to use as it is, from a run, a checkpoint or `dare plan --out`; empty plans."""
    communication: CommunicationConfig = field(default_factory=CommunicationConfig)
    """Type of what tables exchange on its way."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a model, before sharding."""

    path: str
    """Of the module that holds it."""
    kind: Kind
    rows: int
    width: int
    precision: Precision
    features: tuple[str, ...]
    """Whose ids it is looked up with."""

    @property
    def element_bytes(self) -> int:
        """Bytes of one number."""
        return 4 if self.precision == "fp32" else 2


def sharders(
    fused_params: dict[str, Any], communication: CommunicationConfig | None = None
) -> list[ModuleSharder[nn.Module]]:
    """The sharders of the collections we use.

    Args:
        fused_params: the optimizer their kernels fuse.
        communication: type of what they exchange; a plan does not depend on it.
    """
    given = communication or CommunicationConfig()
    made = (
        EmbeddingCollectionSharder(
            fused_params=dict(fused_params), qcomm_codecs_registry=given.codecs()
        ),
        PooledSharder(dict(fused_params), given.wire()),
    )
    return [cast(ModuleSharder[nn.Module], sharder) for sharder in made]


def model_tables(model: nn.Module) -> dict[str, Table]:
    """Every table of a model by name, over its collections of both kinds."""
    precisions = {data_type: precision for precision, data_type in DATA_TYPES.items()}
    found = {}
    for path, module in model.named_modules():
        kind: Kind = "unpooled" if isinstance(module, EmbeddingCollection) else "pooled"
        if isinstance(module, EmbeddingCollection):
            configs = list[Any](module.embedding_configs())
        elif isinstance(module, EmbeddingBagCollection):
            configs = list[Any](module.embedding_bag_configs())
        else:
            continue
        for config in configs:
            found[config.name] = Table(
                path=path,
                kind=kind,
                rows=config.num_embeddings,
                width=config.embedding_dim,
                precision=precisions[config.data_type],
                features=tuple(config.feature_names),
            )
    return found


def table_kinds(model: nn.Module) -> dict[str, Kind]:
    """Kind by table, over all collections of a model."""
    return {name: table.kind for name, table in model_tables(model).items()}


def shard(
    model: nn.Module,
    context: RunContext,
    plan: ShardingPlan,
    *,
    fused_params: dict[str, Any],
    groups: int = 1,
    communication: CommunicationConfig | None = None,
) -> DistributedModelParallel:
    """Make the tables where the plan puts them and wrap the rest in DDP.

    Args:
        model: with its collections on meta.
        context: of this process.
        plan: of the ranks of one group.
        fused_params: the tables' optimizer.
        groups: groups of neighbouring ranks, each with all tables.
        communication: type of what tables exchange.
    """
    made = sharders(fused_params, communication)
    with host_kernels(context.device):
        if groups == 1:
            return DistributedModelParallel(
                model,
                device=context.device,
                plan=plan,
                sharders=made,
            )
        return DMPCollection(
            model,
            device=context.device,
            plan=plan,
            world_size=context.world,
            sharding_group_size=context.world // groups,
            global_pg=cast(dist.ProcessGroup, dist.group.WORLD),
            sharders=made,
            # TorchRec's name for groups of neighbours: the exchange stays within a host, and
            # copies of a shard are on different hosts.
            use_inter_host_allreduce=True,
        )


def average_replicas(model: nn.Module) -> None:
    """Average replicated tables and their optimizer state over the groups, if there are several.

    A collective.
    """
    if isinstance(model, DMPCollection):
        model.sync()


@torch.no_grad()
def initialise_tables(model: DistributedModelParallel, *, seed: int, std: float) -> None:
    """Draw all table weights from N(0, std^2), the same whatever the plan and the world size.

    Each block of rows has a seed of its own, so that a shard can draw just its part.
    """
    for name, value in model.state_dict().items():
        for weight, (row, column) in local_parts(value):
            width, table = value.size()[1], name.split(".")[-2]
            _draw(weight, table, seed, std, row=row, column=column, width=width)


def local_parts(value: Any) -> list[tuple[Tensor, Sequence[int]]]:
    """This rank's parts of a table with their first row and column; none where it is no table."""
    if isinstance(value, ShardedTensor):
        return [(part.tensor, part.metadata.shard_offsets) for part in value.local_shards()]
    if isinstance(value, DTensor):  # A replicated table.
        local = cast(LocalShardsWrapper, value.to_local())
        return list(zip(local.local_shards(), local.local_offsets(), strict=True))
    return []


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
        # FBGEMM 1.8 counts forward passes here and corrects by it, evaluation's too.
        if hasattr(kernel, "iter_cpu"):
            kernel.iter_cpu.fill_(step)
