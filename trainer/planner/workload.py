"""What TorchRec's planner is told: machines, tables, what they may do and what they cost.

Needs neither a GPU nor a process group: tables are on meta, the machines are a description.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec import DataType
from torchrec.distributed.planner import ParameterConstraints
from torchrec.distributed.planner import types as planner_types
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.shard_estimators import (
    EmbeddingPerfEstimator,
    EmbeddingStorageEstimator,
    _calculate_shard_io_sizes,
)
from torchrec.distributed.planner.types import Shard, ShardingOption, Storage, Topology
from torchrec.distributed.types import CacheParams, ModuleSharder, PipelineType

from trainer.distributed import RunContext
from trainer.planner.config import CAPABILITIES, GB, Kind, PlanConfig, TableSpec, TopologySpec
from trainer.sharding import model_tables

ID_BYTES = 8
_STATE_BYTES: dict[EmbOptimType, tuple[int, int]] = {
    EmbOptimType.EXACT_SGD: (0, 0),
    EmbOptimType.EXACT_ROWWISE_ADAGRAD: (0, 4),
    EmbOptimType.ADAM: (8, 0),
    EmbOptimType.PARTIAL_ROWWISE_ADAM: (4, 4),
}
"""Optimizer state in bytes an element and bytes a row; FBGEMM keeps it in float32."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is to be placed, and on what."""

    model: nn.Module
    """With its collections on meta."""
    config: PlanConfig
    topology: TopologySpec
    """Of one group of replicated tables; of all ranks where nothing is replicated."""
    fused_params: dict[str, Any]
    """The tables' optimizer, whose state takes memory too."""
    pooling: Mapping[str, float]
    """Mean ids a request by feature; the planner's default of 1 is far too low for histories."""
    batch_size: int
    """Requests a step and rank."""

    @property
    def hbm_capacity(self) -> int:
        """Bytes of a GPU that tables may take."""
        if self.topology.device == "cpu":
            return 0
        return int(self.topology.hbm_gb * GB * (1 - self.config.reservation.hbm_share))

    @property
    def host_capacity(self) -> int:
        """Bytes of host memory that a rank's tables may take."""
        of_rank = self.topology.host_memory_gb * GB / self.topology.gpus_a_host
        return int(of_rank * (1 - self.config.reservation.host_share))


def job_topology(context: RunContext) -> TopologySpec:
    """The machines of the running job, as this rank sees its own."""
    hbm = 0
    if context.device.type == "cuda":
        hbm = torch.cuda.get_device_properties(context.device).total_memory
    return TopologySpec(
        hosts=max(1, context.world // context.local_world),
        gpus_a_host=context.local_world,
        device="cuda" if context.device.type == "cuda" else "cpu",
        hbm_gb=hbm / GB,
        host_memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB,
    )


def group_topology(config: PlanConfig, job: TopologySpec) -> TopologySpec:
    """The machines that one copy of all tables is spread over."""
    whole = config.topology or job
    ranks = whole.ranks // config.replication.groups
    a_host = min(ranks, whole.gpus_a_host)
    memory = whole.host_memory_gb * a_host / whole.gpus_a_host
    return replace(whole, hosts=ranks // a_host, gpus_a_host=a_host, host_memory_gb=memory)


def make_topology(spec: TopologySpec, *, hbm: int, host: int) -> Topology:
    """TorchRec's description of the machines.

    Args:
        spec: the machines.
        hbm: bytes of a GPU that tables may take.
        host: bytes of host memory that a rank's tables may take.
    """
    # TorchRec counts in bytes a millisecond.
    in_host, between = (
        gb * GB / 1000 for gb in (spec.in_host_gb_per_s, spec.between_hosts_gb_per_s)
    )
    factory = getattr(planner_types, "TopologyFactory", None)
    if factory is None:  # The class warns where there is a factory; not all of 1.6 to 1.8 have it.
        return Topology(
            world_size=spec.ranks,
            local_world_size=spec.gpus_a_host,
            compute_device=spec.device,
            hbm_cap=hbm,
            ddr_cap=host,
            intra_host_bw=in_host,
            inter_host_bw=between,
        )
    topology: Topology = factory.create_topology(
        planner_types.TrainerConfig(
            world_size=spec.ranks,
            local_world_size=spec.gpus_a_host,
            hbm_cap_bytes=hbm,
            ddr_cap_bytes=host,
        ),
        planner_types.HardwareConfig(intra_host_bw=in_host, inter_host_bw=between),
        planner_types.KernelConfig(compute_device=spec.device, use_hardware_based_bandwidth=True),
    )
    return topology


def make_constraints(workload: Workload) -> dict[str, ParameterConstraints]:
    """What each table may do, and how many ids a request has for it."""
    found = {}
    for name, table in model_tables(workload.model).items():
        spec = workload.config.tables.get(name, TableSpec())
        load = spec.cache_load_factor
        found[name] = ParameterConstraints(
            sharding_types=list(spec.sharding_types) or _free_types(workload, table.kind),
            compute_kernels=list(spec.compute_kernels) or ["fused"],
            min_partition=spec.min_partition or None,
            pooling_factors=[_ids_a_request(name, workload.pooling) for name in table.features],
            cache_params=CacheParams(load_factor=load) if load else None,
            # Looked up rows are fp32 whatever the table; unsaid, TorchRec counts the table's type.
            output_dtype=None if table.precision == "fp32" else DataType.FP32,
        )
    return found


def _free_types(workload: Workload, kind: Kind) -> list[str]:
    """Sharding types to choose from where the config names none.

    On one rank splitting a table only costs; a grid is for those who ask.
    """
    if workload.topology.ranks == 1:
        return ["table_wise"]
    can = CAPABILITIES[workload.topology.device, kind].sharding_types
    return [name for name in can if name != "grid_shard"]


def _ids_a_request(feature: str, pooling: Mapping[str, float]) -> float:
    """Mean ids of a feature; that of a pooled table, such as `item`, has history and targets."""
    if feature in pooling:
        return pooling[feature]
    return pooling[f"history_{feature}"] + pooling[f"target_{feature}"]


def state_bytes(rows: int, columns: int, fused_params: dict[str, Any]) -> tuple[int, int]:
    """Optimizer state of a shard, in bytes: of its elements, and of its rows."""
    an_element, a_row = _STATE_BYTES[fused_params["optimizer"]]
    return rows * columns * an_element, rows * a_row


def shard_traffic(option: ShardingOption, workload: Workload) -> tuple[list[int], list[int]]:
    """Bytes of ids that reach each shard, and of rows that leave it."""
    inputs = len(option.input_lengths)
    ids, rows = _calculate_shard_io_sizes(
        sharding_type=option.sharding_type,
        batch_sizes=[option.batch_size] * inputs,
        world_size=workload.topology.ranks,
        local_world_size=workload.topology.gpus_a_host,
        input_lengths=option.input_lengths,
        emb_dim=option.tensor.shape[1],
        shard_sizes=[shard.size for shard in option.shards],
        input_data_type_size=ID_BYTES,
        output_data_type_size=4,  # Looked up rows are fp32.
        num_poolings=option.num_poolings or [1.0] * inputs,
        is_pooled=option.is_pooled,
    )
    return ids, rows


def pooled_factors(option: ShardingOption, workload: Workload) -> tuple[float, float, float]:
    """How a request's exchange with a pooled table differs from TorchRec's count.

    Returns:
        Ids that are sent, as a share of history and targets; weights an id; vectors a request.
    """
    model = cast(Any, workload.model)
    targets = max(1.0, workload.pooling["target_item"])
    if option.path.endswith(f"{model.ranker.embeddings.config.scored_space}_pooled"):
        # Targets' vectors there and their rows back; a dot product an id and target.
        return 1.0, targets, 2 * targets
    if model.get_submodule(option.path).whole:
        # Two sums a target, of what is kept and of everything, and its own row.
        return 1.0, 2 * targets, 3 * targets
    top_k = model.ranker.interaction.search.top_k
    asked = targets * (top_k + 1) / (workload.pooling["history_item"] + targets)
    return asked, top_k / (top_k + 1), 2 * targets


class StatefulEnumerator(EmbeddingEnumerator):
    """TorchRec's, and what it does not see.

    That is the state of the optimizer that kernels fuse, and the rows that a pooled table looks up
    before it sums them.

    Args:
        topology: of the planner.
        workload: what is planned.
    """

    def __init__(self, topology: Topology, workload: Workload) -> None:
        constraints = make_constraints(workload)
        self._workload = workload
        super().__init__(
            topology=topology,
            batch_size=workload.batch_size,
            constraints=constraints,
            estimator=[
                EmbeddingPerfEstimator(topology=topology, constraints=constraints),
                EmbeddingStorageEstimator(
                    topology=topology,
                    constraints=constraints,
                    pipeline_type=PipelineType.TRAIN_SPARSE_DIST,
                    run_embedding_at_peak_memory=True,
                ),
            ],
        )

    def enumerate(
        self, module: nn.Module, sharders: list[ModuleSharder[nn.Module]]
    ) -> list[ShardingOption]:
        """All options, in an order of their own.

        TorchRec's order is that of sets of words, which differs from process to process, and of
        options that cost the same the planner takes the first: a run would be resumed with another
        plan, and other sums.
        """
        options = super().enumerate(module, sharders)
        tables = list(dict.fromkeys(option.fqn for option in options))
        return sorted(
            options,
            key=lambda option: (
                tables.index(option.fqn),
                option.sharding_type,
                option.compute_kernel,
            ),
        )

    def populate_estimates(self, sharding_options: list[ShardingOption]) -> None:
        """Storage and time of every shard."""
        super().populate_estimates(sharding_options)
        for option in sharding_options:
            for shard, rows in zip(option.shards, self._looked_up(option), strict=True):
                whole = cast(Storage, shard.storage) + self._optimizer(option, shard)
                shard.storage = whole + self._of_device(rows)

    def _looked_up(self, option: ShardingOption) -> list[int]:
        """Bytes of a step's rows on each shard that TorchRec does not count."""
        if not option.is_pooled:
            return [0] * len(option.shards)
        share, *_ = pooled_factors(option, self._workload)
        ids, _ = shard_traffic(option, self._workload)
        return [
            int(share * of_shard / ID_BYTES) * shard.size[1] * 4
            for of_shard, shard in zip(ids, option.shards, strict=True)
        ]

    def _of_device(self, size: int) -> Storage:
        on_cpu = self._compute_device == "cpu"
        return Storage(hbm=0 if on_cpu else size, ddr=size if on_cpu else 0, ssd=0)

    def _optimizer(self, option: ShardingOption, shard: Shard) -> Storage:
        rows, columns = shard.size
        elements, numbers = state_bytes(rows, columns, self._workload.fused_params)
        if self._compute_device == "cpu" or option.compute_kernel == "fused":
            return self._of_device(elements + numbers)
        # FBGEMM keeps what is one number a row on the GPU, also for tables in host memory.
        return Storage(hbm=numbers, ddr=elements, ssd=0)
