"""TorchRec's table kernels on CPU, over our tables instead of FBGEMM's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torchrec.distributed.embedding_lookup as torchrec_lookup
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    EmbeddingLocation,
    PoolingMode,
)
from torchrec.distributed.batched_embedding_kernel import (
    BaseBatchedEmbedding,
    BaseBatchedEmbeddingBag,
    BatchedFusedEmbedding,
    BatchedFusedEmbeddingBag,
    EmbeddingFusedOptimizer,
)
from torchrec.distributed.embedding_types import GroupedEmbeddingConfig
from torchrec.distributed.types import ShardingEnv, ShardingType
from torchrec.modules.embedding_configs import data_type_to_sparse_type

from modules.host_tables import HostTables


def _host_tables(
    kernel: BaseBatchedEmbedding[Any] | BaseBatchedEmbeddingBag[Any], pooling: PoolingMode
) -> HostTables:
    """The tables that one of TorchRec's kernels holds on this rank."""
    config = kernel.config
    return HostTables(
        embedding_specs=[
            (rows, cols, EmbeddingLocation.HOST, ComputeDevice.CPU)
            for rows, cols in zip(kernel._local_rows, kernel._local_cols, strict=True)
        ],
        feature_table_map=kernel._feature_table_map,
        pooling_mode=pooling,
        weights_precision=data_type_to_sparse_type(config.data_type),
        table_names=[table.name for table in config.embedding_tables],
        **dict(config.fused_params or {}),
    )


class HostKernel(BatchedFusedEmbedding):
    """TorchRec's fused kernel of unpooled tables, over `HostTables`."""

    def __init__(
        self,
        config: GroupedEmbeddingConfig,
        pg: dist.ProcessGroup | None = None,
        device: torch.device | None = None,
    ) -> None:
        BaseBatchedEmbedding.__init__(self, config, pg, device)
        self._emb_module = _host_tables(self, PoolingMode.NONE)
        self._optim = EmbeddingFusedOptimizer(config, self._emb_module, pg)
        self.init_parameters()


class HostBagKernel(BatchedFusedEmbeddingBag):
    """TorchRec's fused kernel of pooled tables, over `HostTables`, which only looks rows up."""

    def __init__(
        self,
        config: GroupedEmbeddingConfig,
        pg: dist.ProcessGroup | None = None,
        device: torch.device | None = None,
        sharding_type: ShardingType | None = None,
        env: ShardingEnv | None = None,  # noqa: ARG002  TorchRec names it.
    ) -> None:
        BaseBatchedEmbeddingBag.__init__(self, config, pg, device, sharding_type)
        self._emb_module = _host_tables(self, PoolingMode.SUM)
        self._optim = EmbeddingFusedOptimizer(config, self._emb_module, pg)
        self.init_parameters()


@contextlib.contextmanager
def host_kernels(device: torch.device) -> Iterator[None]:
    """While sharding on a CPU, let TorchRec build our kernels for its fused tables.

    TorchRec 1.6 to 1.8 names the kernels' classes in the module that builds lookups and offers no
    other place to choose them.
    """
    if device.type != "cpu":
        yield
        return
    with mock.patch.multiple(
        torchrec_lookup, BatchedFusedEmbedding=HostKernel, BatchedFusedEmbeddingBag=HostBagKernel
    ):
        yield
