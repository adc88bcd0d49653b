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
)
from torchrec.distributed.planner.types import Shard, ShardingOption, Storage, Topology
from torchrec.distributed.types import CacheParams, PipelineType

from trainer.distributed import RunContext
from trainer.plan_config import CAPABILITIES, GB, Kind, PlanConfig, TableSpec, TopologySpec
from trainer.sharding import model_tables

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
            compute_kernels=_kernels(spec),
            min_partition=spec.min_partition or None,
            pooling_factors=[workload.pooling[feature] for feature in table.features],
            cache_params=CacheParams(load_factor=load) if load else None,
            # Looked up rows are fp32 whatever the table; unsaid, TorchRec counts the table's type.
            output_dtype=None if table.precision == "fp32" else DataType.FP32,
        )
    return found


def _free_types(workload: Workload, kind: Kind) -> list[str]:
    """Sharding types to choose from where the config names none.

    On one rank splitting a table only costs; grid and data parallelism are for those who ask.
    """
    if workload.topology.ranks == 1:
        return ["table_wise"]
    can = CAPABILITIES[workload.topology.device, kind].sharding_types
    return [name for name in can if name not in ("grid_shard", "data_parallel")]


def _kernels(spec: TableSpec) -> list[str]:
    kernels = list(spec.compute_kernels) or ["fused"]
    return [*kernels, "dense"] if "data_parallel" in spec.sharding_types else kernels


def state_bytes(rows: int, columns: int, fused_params: dict[str, Any]) -> tuple[int, int]:
    """Optimizer state of a shard, in bytes: of its elements, and of its rows."""
    an_element, a_row = _STATE_BYTES[fused_params["optimizer"]]
    return rows * columns * an_element, rows * a_row


class StatefulEnumerator(EmbeddingEnumerator):
    """TorchRec's, which does not see the optimizer that kernels fuse: adds its state.

    Args:
        topology: of the planner.
        workload: what is planned.
    """

    def __init__(self, topology: Topology, workload: Workload) -> None:
        constraints = make_constraints(workload)
        self._fused_params = workload.fused_params
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

    def populate_estimates(self, sharding_options: list[ShardingOption]) -> None:
        """Storage and time of every shard."""
        super().populate_estimates(sharding_options)
        for option in sharding_options:
            for shard in option.shards:
                shard.storage = cast(Storage, shard.storage) + self._optimizer(option, shard)

    def _optimizer(self, option: ShardingOption, shard: Shard) -> Storage:
        rows, columns = shard.size
        elements, numbers = state_bytes(rows, columns, self._fused_params)
        if self._compute_device == "cpu":
            return Storage(hbm=0, ddr=elements + numbers, ssd=0)
        if option.compute_kernel == "dense":  # Gradient and moments of an ordinary parameter.
            return Storage(hbm=rows * columns * 12, ddr=0, ssd=0)
        if option.compute_kernel == "fused":
            return Storage(hbm=elements + numbers, ddr=0, ssd=0)
        # FBGEMM keeps what is one number a row on the GPU, also for tables in host memory.
        return Storage(hbm=numbers, ddr=elements, ssd=0)
