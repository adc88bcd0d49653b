"""`PooledEmbeddings` as TorchRec shards them, and their sharder.

TorchRec cuts, holds and steps the tables. Its own exchange of weighted bags is not used: it wants
the weights together with the ids, and over two ranks or more it loses the gradient of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor
from torchrec.distributed.comm_ops import get_gradient_division
from torchrec.distributed.embedding_sharding import KJTListSplitsAwaitable
from torchrec.distributed.embedding_types import EmbeddingComputeKernel, KJTList
from torchrec.distributed.embeddingbag import (
    EmbeddingBagCollectionContext,
    EmbeddingBagCollectionSharder,
    ShardedEmbeddingBagCollection,
)
from torchrec.distributed.types import (
    Awaitable,
    ParameterSharding,
    ShardingEnv,
    ShardingEnv2D,
    ShardingType,
)
from torchrec.streamable import Multistreamable

from modules.exchange import Wire
from modules.host_tables import HostTables
from modules.pooled import LocalRows, PooledEmbeddings, Rows, Searched, kept_slots, slots_of
from modules.routing import PartMap, Slots
from modules.shard_rows import ShardedRows
from modules.travel import Shards, Travelling

SHARDING_TYPES = (
    ShardingType.TABLE_WISE,
    ShardingType.ROW_WISE,
    ShardingType.COLUMN_WISE,
    ShardingType.TABLE_COLUMN_WISE,
    ShardingType.TABLE_ROW_WISE,
    ShardingType.GRID_SHARD,
)
"""What pooled tables can be sharded by, on CPU and on CUDA alike."""


class ShardedPooledEmbeddings(ShardedEmbeddingBagCollection):
    """The shards of `PooledEmbeddings` on one rank."""

    def __init__(
        self,
        module: PooledEmbeddings,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        *,
        wire: Wire,
        **options: Any,
    ) -> None:
        super().__init__(module, params, env, **options)
        self._sides, self._whole = module.sides, module.whole
        names = [config.name for config in module.embedding_bag_configs()]
        self._names = [config.feature_names[0] for config in module.embedding_bag_configs()]
        # Where tables are replicated, each copy is spread over a group of its own.
        group = env.sharding_pg if isinstance(env, ShardingEnv2D) else env.process_group
        assert group is not None
        parts = PartMap.from_plan(self.module_sharding_plan, names, group)
        share = 1 / parts.world if get_gradient_division() else 1.0
        self._shards = Shards(parts, group, self._rows, share, wire)
        self._kernel_of_part = self._find_kernels(names)
        self._has_uninitialized_input_dist = False  # TorchRec's own is never made.

    def input_dist(
        self, ctx: EmbeddingBagCollectionContext, features: KeyedJaggedTensor
    ) -> Awaitable[Awaitable[KJTList]]:
        """Send the ids, where they are known already; a collective."""
        slots, shards = slots_of(features, self._names, self._sides), self._shards
        ahead: Awaitable[Any]
        if shards.parts.world == 1 and len(shards.parts.parts) == len(self._names):
            ahead = _Ready(LocalRows(slots, self._rows))
        elif self._whole:
            fullest = max(1, int(features[f"target_{self._names[0]}"].lengths().max()))
            ahead = _Arriving(shards, slots, Travelling(shards, slots, fullest))
        else:
            ahead = _Ready(_Unsent(shards, slots))
        return KJTListSplitsAwaitable([_Started(ahead)], ctx)

    def compute(self, ctx: EmbeddingBagCollectionContext, dist_input: KJTList) -> list[Tensor]:
        """Not used: rows are looked up when their weights are there."""
        raise NotImplementedError

    def compute_and_output_dist(  # type: ignore[override]
        self,
        ctx: EmbeddingBagCollectionContext,  # noqa: ARG002
        input: KJTList,
    ) -> Rows | Searched:
        """The rows of this batch."""
        rows: Any = input[0]
        return rows

    def prefetch(
        self,
        dist_input: KJTList,
        forward_stream: torch.Stream | None = None,
        ctx: EmbeddingBagCollectionContext | None = None,  # noqa: ARG002
    ) -> None:
        """Bring rows of tables in host memory into their caches, where the ids are known already.

        Args:
            dist_input: the rows of the next batch.
            forward_stream: where it will be looked up.
            ctx: not used.
        """
        rows: Any = dist_input[0]
        if not isinstance(rows, ShardedRows):
            return
        for kernel, tables, _ in self._by_kernel(rows.arrived.ids):
            configs = kernel.config.embedding_tables
            if any(c.compute_kernel == EmbeddingComputeKernel.FUSED_UVM_CACHING for c in configs):
                kernel.emb_module.prefetch(*_bags_of_one(tables), forward_stream)

    def _find_kernels(self, names: list[str]) -> list[tuple[int, int]]:
        """Number of the kernel, and of the table in it, of each part on this rank."""
        found = {}
        for number, kernel in enumerate(self._kernels()):
            for table, config in enumerate(kernel.config.embedding_tables):
                row, column = config.local_metadata.shard_offsets
                found[names.index(config.name), column, row] = (number, table)
        return [
            found[part.table, part.first_column, part.first_row] for part in self._shards.parts.mine
        ]

    def _kernels(self) -> list[Any]:
        return [kernel for lookup in self._lookups for kernel in _children(lookup)]

    def _rows(self, ids: Sequence[Tensor]) -> list[Tensor]:
        """Rows of the ids of each part on this rank; the backward is one optimizer step."""
        rows: list[Tensor | None] = [None] * len(ids)
        for kernel, tables, places in self._by_kernel(ids):
            for place, found in zip(places, look_up(kernel.emb_module, tables), strict=True):
                if place is not None:
                    rows[place] = found
        return [row for row in rows if row is not None]

    def _by_kernel(
        self, ids: Sequence[Tensor]
    ) -> Iterator[tuple[Any, list[Tensor], list[int | None]]]:
        """Each kernel with the ids of its tables, and which parts these are."""
        for number, kernel in enumerate(self._kernels()):
            device = kernel.emb_module.current_device
            count = len(kernel.config.embedding_tables)
            tables = [torch.zeros(0, dtype=torch.int64, device=device)] * count
            places: list[int | None] = [None] * count
            for part, (of_kernel, table) in enumerate(self._kernel_of_part):
                if of_kernel == number:
                    tables[table], places[table] = ids[part], part
            yield kernel, tables, places


def look_up(kernel: SplitTableBatchedEmbeddingBagsCodegen, ids: Sequence[Tensor]) -> list[Tensor]:
    """Rows of ids of each table of a kernel, [N, D]."""
    if isinstance(kernel, HostTables):
        return kernel.rows(ids)
    flat = kernel(*_bags_of_one(ids))
    widths = [width for _, width, *_ in kernel.embedding_specs]
    rows = flat.split(widths, dim=1)
    return [row[: id_N.numel()] for row, id_N in zip(rows, ids, strict=True)]


def _bags_of_one(ids: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Indices and offsets with which FBGEMM's kernels of bags take each id as a bag of its own.

    Tables with fewer ids than the fullest end in empty bags.
    """
    counts = [id_N.numel() for id_N in ids]
    place = torch.arange(max(counts), device=ids[0].device)
    offsets, before = [], 0
    for count in counts:
        offsets.append(place.clamp(max=count) + before)
        before += count
    return torch.cat(list(ids)), torch.cat([*offsets, place.new_full((1,), before)])


def _children(lookup: nn.Module) -> nn.ModuleList:
    # A private attribute (TorchRec 1.6 to 1.8); there is no public list of a lookup's kernels.
    kernels = lookup._emb_modules
    assert isinstance(kernels, nn.ModuleList)
    return kernels


class _Started(Awaitable[Any]):
    """The first of the two waits that TorchRec's pipelines expect."""

    def __init__(self, second: Awaitable[Any]) -> None:
        super().__init__()
        self._second = second

    def _wait_impl(self) -> Awaitable[Any]:
        if isinstance(self._second, _Arriving):
            self._second.travelling.depart()
        return self._second


class _Ready(Awaitable[Any]):
    """Nothing to wait for."""

    def __init__(self, rows: Any) -> None:
        super().__init__()
        self._rows = rows

    def _wait_impl(self) -> Any:
        return self._rows


class _Arriving(Awaitable[Any]):
    """Rows whose ids are on their way."""

    def __init__(self, shards: Shards, slots: Slots, travelling: Travelling) -> None:
        super().__init__()
        self._shards, self._slots, self.travelling = shards, slots, travelling

    def _wait_impl(self) -> ShardedRows:
        return ShardedRows(self._shards, self._slots, *self.travelling.wait())


class _Unsent(Multistreamable):
    """Rows of which only kept ones can be asked for: their ids travel after the search."""

    def __init__(self, shards: Shards, slots: Slots) -> None:
        self._shards, self._slots = shards, slots

    def record_stream(self, stream: torch.Stream) -> None:
        self._slots.record_stream(stream)

    def kept(self, behaviour_TK: Tensor, valid_TK: Tensor) -> ShardedRows:
        """As `Searched.kept`; a collective."""
        slots = kept_slots(self._slots, behaviour_TK, valid_TK)
        return ShardedRows(self._shards, slots, *Travelling(self._shards, slots, 1).wait())


class PooledSharder(EmbeddingBagCollectionSharder):
    """Shards `PooledEmbeddings`; knows the same sharding types on CPU as on CUDA.

    Args:
        fused_params: optimizer of the tables, as TorchRec's sharders take it.
        wire: type of what travels after the ids.
    """

    def __init__(self, fused_params: dict[str, Any], wire: Wire) -> None:
        super().__init__(fused_params=fused_params)
        self._wire = wire

    def shard(  # type: ignore[override]
        self,
        module: PooledEmbeddings,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedPooledEmbeddings:
        """Make the shards of this rank."""
        return ShardedPooledEmbeddings(
            module,
            params,
            env,
            fused_params=self.fused_params,
            device=device,
            wire=self._wire,
            module_fqn=module_fqn,
        )

    def sharding_types(self, compute_device_type: str) -> list[str]:  # noqa: ARG002
        """TorchRec leaves row-wise and its kin out on CPU, where they work with our exchange."""
        return [kind.value for kind in SHARDING_TYPES]

    @property
    def module_type(self) -> type[PooledEmbeddings]:
        """What it shards."""
        return PooledEmbeddings

    @property
    def sharded_module_type(self) -> type[ShardedPooledEmbeddings]:
        """What it makes."""
        return ShardedPooledEmbeddings
