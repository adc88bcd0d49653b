"""Unpooled embedding lookup on CPU, with the sparse optimizer inside its backward.

FBGEMM's CPU kernel for `PoolingMode.NONE` takes about 0.5 s backward for 137 k ids of a 4 M row
table, and knows no Adam. This one sorts the ids, sums the gradient of equal ids with one
`embedding_bag`, and updates each row once, in a twentieth of the time. On CUDA, FBGEMM's own
kernels are used. Letters: N ids, U different rows, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal
from unittest import mock

import torch
import torch.distributed as dist
import torchrec.distributed.embedding_lookup as torchrec_lookup
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    EmbeddingLocation,
    PoolingMode,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor
from torch.optim.adam import adam
from torchrec.distributed.batched_embedding_kernel import (
    BaseBatchedEmbedding,
    BatchedFusedEmbedding,
    EmbeddingFusedOptimizer,
)
from torchrec.distributed.embedding_types import GroupedEmbeddingConfig
from torchrec.modules.embedding_configs import data_type_to_sparse_type

StateShape = Literal["row", "element"]

_STATES: dict[EmbOptimType, dict[str, StateShape]] = {
    EmbOptimType.EXACT_SGD: {},
    EmbOptimType.EXACT_ROWWISE_ADAGRAD: {"sum": "row"},
    EmbOptimType.ADAM: {"exp_avg": "element", "exp_avg_sq": "element"},
    EmbOptimType.PARTIAL_ROWWISE_ADAM: {"exp_avg": "element", "exp_avg_sq": "row"},
}
"""Optimizer state by FBGEMM's names, so that a checkpoint reads the same on CPU and CUDA."""


def sum_equal_rows(row_N: Tensor, grad_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the gradients of equal ids.

    Args:
        row_N: int64 row of each gradient.
        grad_ND: the gradients.

    Returns:
        row_U, increasing and different, and grad_UD.
    """
    sorted_N, order_N = torch.sort(row_N, stable=True)
    row_U, count_U = torch.unique_consecutive(sorted_N, return_counts=True)
    start_U = torch.cumsum(count_U, 0) - count_U
    grad_UD = torch.nn.functional.embedding_bag(order_N, grad_ND, start_U, mode="sum")
    return row_U, grad_UD


class HostTables(SplitTableBatchedEmbeddingBagsCodegen):  # type: ignore[misc]
    """FBGEMM's table batch on CPU with another lookup; all tables are of one width.

    Args:
        optimizer: SGD, rowwise Adagrad, Adam or partial rowwise Adam.
        eps: added to the root of the second moment.
        beta1: decay of Adam's first moment.
        beta2: decay of Adam's second moment.
        table_kwargs: what FBGEMM's class takes.

    Raises:
        ValueError: an optimizer this class does not know.
    """

    def __init__(
        self,
        *,
        optimizer: EmbOptimType = EmbOptimType.EXACT_SGD,
        eps: float = 1e-8,
        beta1: float = 0.9,
        beta2: float = 0.999,
        **table_kwargs: Any,
    ) -> None:
        if optimizer not in _STATES:
            known = ", ".join(str(known) for known in _STATES)
            raise ValueError(f"optimizer {optimizer} is not known on CPU; known are {known}")
        super().__init__(optimizer=EmbOptimType.EXACT_SGD, eps=eps, **table_kwargs)
        self.host_optimizer = optimizer
        self.eps, self.beta1, self.beta2 = eps, beta1, beta2
        width = self.embedding_specs[0][1]
        rows = [spec[0] for spec in self.embedding_specs]
        first_row = [sum(rows[:t]) for t in range(len(rows))]
        self._first_row = first_row
        self._row_of_feature = torch.tensor([first_row[t] for t in self.feature_table_map])
        self.states: dict[str, Tensor] = {
            name: torch.zeros((sum(rows),) if shape == "row" else (sum(rows), width))
            for name, shape in _STATES[optimizer].items()
        }

    def matrix(self) -> Tensor:
        """All tables under each other: [rows of all tables, D], a view."""
        return self.weights_host.detach().view(-1, self.embedding_specs[0][1])

    def forward(self, indices: Tensor, offsets: Tensor) -> Tensor:
        """Look ids up, one row an id.

        Args:
            indices: ids, feature by feature, [N].
            offsets: where each bag of each feature starts, [features * bags + 1].

        Returns:
            [N, D], in the order of `indices`.

        Raises:
            IndexError: an id is outside all tables.
        """
        features = self._row_of_feature.numel()
        bags = (offsets.numel() - 1) // features
        count = offsets[::bags].diff() if bags else offsets.new_zeros(features)
        row_N = indices + torch.repeat_interleave(
            self._row_of_feature, count, output_size=indices.numel()
        )
        output: Tensor = _Lookup.apply(  # type: ignore[no-untyped-call]
            self.weights_host, self, row_N
        )
        return output

    @torch.no_grad()
    def update(self, row_N: Tensor, grad_ND: Tensor) -> None:
        """One optimizer step on the rows that occur; all others keep weight and state."""
        self.iter += 1
        row_U, grad_UD = sum_equal_rows(row_N, grad_ND.float())
        _STEPS[self.host_optimizer](self, row_U, grad_UD)

    def get_optimizer_state(self) -> list[dict[str, Tensor]]:
        """Optimizer state by table, views, under FBGEMM's names."""
        result = []
        for (rows, *_), first in zip(self.embedding_specs, self._first_row, strict=True):
            result.append({name: s[first : first + rows] for name, s in self.states.items()})
        return result


class _Lookup(torch.autograd.Function):
    """Row gather whose backward is an optimizer step; the weights themselves get no gradient."""

    @staticmethod
    def forward(ctx: Any, _weights: Tensor, tables: HostTables, row_N: Tensor) -> Tensor:
        ctx.tables, ctx.row_N = tables, row_N
        return tables.matrix().index_select(0, row_N)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[None, None, None]:
        ctx.tables.update(ctx.row_N, grad_ND)
        return None, None, None


def _sgd(tables: HostTables, row_U: Tensor, grad_UD: Tensor) -> None:
    # Multiplied first: index_add_ with an alpha takes three times as long (torch 2.13).
    tables.matrix().index_add_(0, row_U, grad_UD.mul_(-tables.get_learning_rate()))


def _rowwise_adagrad(tables: HostTables, row_U: Tensor, grad_UD: Tensor) -> None:
    total_U = tables.states["sum"].index_select(0, row_U) + grad_UD.square().mean(1)
    tables.states["sum"].index_copy_(0, row_U, total_U)
    _sgd(tables, row_U, grad_UD / (total_U.sqrt() + tables.eps).unsqueeze(1))


def _adam(tables: HostTables, row_U: Tensor, grad_UD: Tensor) -> None:
    """PyTorch's own fused Adam, on the rows that occur."""
    homes = (tables.matrix(), tables.states["exp_avg"], tables.states["exp_avg_sq"])
    weight_UD, first_UD, second_UD = (home.index_select(0, row_U) for home in homes)
    adam(
        [weight_UD],
        [grad_UD],
        [first_UD],
        [second_UD],
        [],
        [tables.iter[0].float() - 1],
        fused=True,
        amsgrad=False,
        beta1=tables.beta1,
        beta2=tables.beta2,
        lr=tables.get_learning_rate(),
        weight_decay=0.0,
        eps=tables.eps,
        maximize=False,
    )
    for home, value_UD in zip(homes, (weight_UD, first_UD, second_UD), strict=True):
        home.index_copy_(0, row_U, value_UD)


def _partial_rowwise_adam(tables: HostTables, row_U: Tensor, grad_UD: Tensor) -> None:
    """Adam whose second moment is one number a row, the mean square of the row's gradient."""
    step = int(tables.iter)
    first_UD = tables.states["exp_avg"].index_select(0, row_U)
    first_UD.lerp_(grad_UD, 1 - tables.beta1)
    tables.states["exp_avg"].index_copy_(0, row_U, first_UD)
    second_U = tables.states["exp_avg_sq"].index_select(0, row_U)
    second_U.lerp_(grad_UD.square().mean(1), 1 - tables.beta2)
    tables.states["exp_avg_sq"].index_copy_(0, row_U, second_U)
    root_U = (second_U / (1 - tables.beta2**step)).sqrt_().add_(tables.eps)
    _sgd(tables, row_U, first_UD.div_(1 - tables.beta1**step) / root_U.unsqueeze(1))


_STEPS: dict[EmbOptimType, Callable[[HostTables, Tensor, Tensor], None]] = {
    EmbOptimType.EXACT_SGD: _sgd,
    EmbOptimType.EXACT_ROWWISE_ADAGRAD: _rowwise_adagrad,
    EmbOptimType.ADAM: _adam,
    EmbOptimType.PARTIAL_ROWWISE_ADAM: _partial_rowwise_adam,
}


class HostKernel(BatchedFusedEmbedding):
    """TorchRec's fused kernel of unpooled tables, over `HostTables`."""

    def __init__(
        self,
        config: GroupedEmbeddingConfig,
        pg: dist.ProcessGroup | None = None,
        device: torch.device | None = None,
    ) -> None:
        BaseBatchedEmbedding.__init__(self, config, pg, device)
        fused = dict(config.fused_params or {})
        self._emb_module = HostTables(
            embedding_specs=[
                (rows, cols, EmbeddingLocation.HOST, ComputeDevice.CPU)
                for rows, cols in zip(self._local_rows, self._local_cols, strict=True)
            ],
            feature_table_map=self._feature_table_map,
            pooling_mode=PoolingMode.NONE,
            weights_precision=data_type_to_sparse_type(config.data_type),
            device=device,
            table_names=[table.name for table in config.embedding_tables],
            **fused,
        )
        self._optim = EmbeddingFusedOptimizer(config, self._emb_module, pg)
        self.init_parameters()


@contextlib.contextmanager
def host_kernels(device: torch.device) -> Iterator[None]:
    """While sharding on a CPU, let TorchRec build `HostKernel` for its fused unpooled tables.

    TorchRec 1.6 to 1.8 names the kernel's class in the module that builds lookups and offers no
    other place to choose one.
    """
    if device.type != "cpu":
        yield
        return
    with mock.patch.object(torchrec_lookup, "BatchedFusedEmbedding", HostKernel):
        yield
