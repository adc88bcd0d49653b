"""Embedding lookup on CPU, one row an id, with the sparse optimizer inside its backward.

FBGEMM's CPU kernel for `PoolingMode.NONE` takes about 0.5 s backward for 137 k ids of a 4 M row
table, and knows no Adam. This one sorts the ids while forward goes on (`named_rows`) and moves each
row once, in one pass over its gradients, weights and state (`row_steps`). On CUDA, FBGEMM's own
kernels are used.
Letters: N ids, U different rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor
from torch.optim.adam import adam

from modules import row_steps
from modules.named_rows import NamedRows, named_rows, sum_ids
from modules.row_lookup import look_up
from modules.row_steps import AdamNumbers
from modules.threads import soon

StateShape = Literal["row", "element"]
Names = Callable[[], NamedRows]
MovedRows = Literal["present", "every"]
"""Which rows a step moves: those that occur in the batch, or all, by Adam's momentum."""

_DENSE_STEP = 1 << 22
"""Numbers of a table that dense Adam steps at once, whose gradient it lays out; 16 MiB."""
_STATES: dict[EmbOptimType, dict[str, StateShape]] = {
    EmbOptimType.EXACT_SGD: {},
    EmbOptimType.EXACT_ROWWISE_ADAGRAD: {"sum": "row"},
    EmbOptimType.ADAM: {"exp_avg": "element", "exp_avg_sq": "element"},
    EmbOptimType.PARTIAL_ROWWISE_ADAM: {"exp_avg": "element", "exp_avg_sq": "row"},
}
"""Optimizer state by FBGEMM's names, so that a checkpoint reads the same on CPU and CUDA."""


class HostTables(SplitTableBatchedEmbeddingBagsCodegen):  # type: ignore[misc]
    """FBGEMM's table batch on CPU with another lookup.

    Args:
        optimizer: SGD, rowwise Adagrad, Adam or partial rowwise Adam.
        eps: added to the root of the second moment.
        beta1: decay of Adam's first moment.
        beta2: decay of Adam's second moment.
        moved_rows: `present`, or `every`, which makes Adam the `torch.optim.Adam` of a dense
            parameter.
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
        moved_rows: MovedRows = "present",
        **table_kwargs: Any,
    ) -> None:
        if (optimizer, moved_rows) not in _STEPS:
            known = ", ".join(f"{known} ({moved})" for known, moved in _STEPS)
            raise ValueError(
                f"optimizer {optimizer} is not known on CPU with moved rows {moved_rows}; "
                f"known are {known}"
            )
        super().__init__(optimizer=EmbOptimType.EXACT_SGD, eps=eps, **table_kwargs)
        self.host_optimizer, self.moved_rows = optimizer, moved_rows
        self.eps, self.beta1, self.beta2 = eps, beta1, beta2
        self.states: list[dict[str, Tensor]] = [
            {
                name: torch.zeros((rows,) if shape == "row" else (rows, width))
                for name, shape in _STATES[optimizer].items()
            }
            for rows, width, *_ in self.embedding_specs
        ]

    def table(self, number: int) -> Tensor:
        """One table, [rows, D], a view."""
        sizes = [rows * width for rows, width, *_ in self.embedding_specs]
        first, (rows, width, *_) = sum(sizes[:number]), self.embedding_specs[number]
        flat: Tensor = self.weights_host.detach()
        return flat[first : first + rows * width].view(rows, width)

    def rows(self, ids: Sequence[Tensor]) -> list[Tensor]:
        """Look ids up, one row an id.

        Args:
            ids: of each table, [N].

        Returns:
            Of each table [N, D]. Their backward is one optimizer step.

        Raises:
            IndexError: an id is outside its table.
        """
        # Wants a gradient also on a rank without rows: over ranks, backward is a collective.
        tie = self.placeholder_autograd_tensor
        found = _Lookup.apply(tie, self, self._names(ids), *ids)  # type: ignore[no-untyped-call]
        return list(found)

    def forward(self, indices: Tensor, offsets: Tensor) -> Tensor:
        """Look ids up, one row an id, where all tables are of one width.

        Args:
            indices: ids, feature by feature, [N]; a table's features follow each other.
            offsets: where each bag of each feature starts, [features * bags + 1].

        Returns:
            [N, D], in the order of `indices`.

        Raises:
            IndexError: an id is outside its table.
        """
        features = self.feature_table_map
        bags = (offsets.numel() - 1) // len(features)
        bounds = offsets[::bags].tolist() if bags else [0] * (len(features) + 1)
        counts = [0] * len(self.embedding_specs)
        for table, start, stop in zip(features, bounds, bounds[1:], strict=False):
            counts[table] += stop - start
        ids = torch.split(indices, counts)
        joined: Tensor = _JoinedLookup.apply(  # type: ignore[no-untyped-call]
            self.placeholder_autograd_tensor, self, self._names(ids), *ids
        )
        return joined

    def _names(self, ids: Sequence[Tensor]) -> list[Names]:
        """The rows that each table's ids name, which backward asks for and forward begins."""
        if not torch.is_grad_enabled():
            return []
        sizes = [rows for rows, *_ in self.embedding_specs]
        return [soon(named_rows, row_N, rows) for row_N, rows in zip(ids, sizes, strict=True)]

    @torch.no_grad()
    def update(self, names: Sequence[Names], grads: Sequence[Tensor | None]) -> None:
        """One optimizer step on the rows that occur; others keep weight and state, or move too.

        Args:
            names: of each table, give the rows of its N ids.
            grads: of their rows, [N, D]; None where a table's rows were not used.
        """
        self.iter += 1
        step = _STEPS[self.host_optimizer, self.moved_rows]
        for number, (named, grad_ND) in enumerate(zip(names, grads, strict=True)):
            home = Home(self.table(number), self.states[number])
            if grad_ND is not None:
                step(self, home, named(), grad_ND.float())
            elif self.moved_rows == "every":
                none = torch.empty(0, dtype=torch.int64)
                step(self, home, named_rows(none, len(home.weight)), home.weight[:0])

    def adam_numbers(self) -> AdamNumbers:
        """Of the step that is taken."""
        lr = self.get_learning_rate()
        return AdamNumbers(lr, self.beta1, self.beta2, self.eps, int(self.iter))

    def get_optimizer_state(self) -> list[dict[str, Tensor]]:
        """Optimizer state by table, under FBGEMM's names."""
        return self.states


class Home(NamedTuple):
    """Where a table's rows and their optimizer state live."""

    weight: Tensor
    states: dict[str, Tensor]

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """The weights, and Adam's first and second moments."""
        return self.weight, self.states["exp_avg"], self.states["exp_avg_sq"]


class _Lookup(torch.autograd.Function):
    """Row gather whose backward is an optimizer step; the weights themselves get no gradient."""

    @staticmethod
    def forward(
        ctx: Any, _weights: Tensor, tables: HostTables, names: list[Names], *ids: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.tables, ctx.names = tables, names
        ctx.set_materialize_grads(False)
        found = []
        for number, row_N in enumerate(ids):
            table = tables.table(number)
            found.append(table.new_empty(row_N.numel(), table.size(1)))
            look_up(table, row_N, found[number])
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[None, ...]:
        ctx.tables.update(ctx.names, grads)
        return (None,) * (3 + len(grads))


class _JoinedLookup(torch.autograd.Function):
    """The same with the tables' rows below each other, each written where it stays."""

    @staticmethod
    def forward(
        ctx: Any, _weights: Tensor, tables: HostTables, names: list[Names], *ids: Tensor
    ) -> Tensor:
        ctx.tables, ctx.names = tables, names
        ctx.counts = [row_N.numel() for row_N in ids]
        joined = torch.empty(sum(ctx.counts), tables.table(0).size(1))
        parts = torch.split(joined, ctx.counts)
        for number, (row_N, part_ND) in enumerate(zip(ids, parts, strict=True)):
            look_up(tables.table(number), row_N, part_ND)
        return joined

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        ctx.tables.update(ctx.names, torch.split(grad, ctx.counts))
        return (None,) * (3 + len(ctx.counts))


def _sgd(tables: HostTables, home: Home, named: NamedRows, grad_ND: Tensor) -> None:
    row_steps.sgd(home.weight, named, grad_ND, tables.get_learning_rate())


def _rowwise_adagrad(tables: HostTables, home: Home, named: NamedRows, grad_ND: Tensor) -> None:
    lr = tables.get_learning_rate()
    row_steps.rowwise_adagrad(
        home.weight, home.states["sum"], named, grad_ND, lr=lr, eps=tables.eps
    )


def _adam(tables: HostTables, home: Home, named: NamedRows, grad_ND: Tensor) -> None:
    row_steps.adam(*home.moments(), named, grad_ND, tables.adam_numbers())


def _partial_rowwise_adam(
    tables: HostTables, home: Home, named: NamedRows, grad_ND: Tensor
) -> None:
    row_steps.partial_rowwise_adam(*home.moments(), named, grad_ND, tables.adam_numbers())


def _dense_adam(tables: HostTables, home: Home, named: NamedRows, grad_ND: Tensor) -> None:
    """Adam on all rows, block by block: the gradient of those that do not occur is 0."""
    homes = home.moments()
    row_U, grad_UD = named.row_U, sum_ids(named, grad_ND)
    rows, width = home.weight.shape
    block = min(rows, max(1, _DENSE_STEP // width))
    starts = list(range(0, rows, block))
    bounds = torch.searchsorted(row_U, torch.tensor([*starts, rows])).tolist()
    grad_BD = torch.zeros(block, width)
    for start, (first, last) in zip(starts, pairwise(bounds), strict=True):
        inside_U = row_U[first:last] - start
        grad_BD.index_copy_(0, inside_U, grad_UD[first:last])
        values = [home[start : start + block] for home in homes]
        _torch_adam(tables, values, grad_BD[: len(values[0])])
        grad_BD.index_fill_(0, inside_U, 0.0)


def _torch_adam(tables: HostTables, values: Sequence[Tensor], grad: Tensor) -> None:
    """PyTorch's own fused Adam, in place on weights, first and second moments."""
    weight, first, second = values
    adam(
        [weight],
        [grad],
        [first],
        [second],
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


_STEPS: dict[
    tuple[EmbOptimType, MovedRows], Callable[[HostTables, Home, NamedRows, Tensor], None]
] = {
    (EmbOptimType.EXACT_SGD, "present"): _sgd,
    (EmbOptimType.EXACT_ROWWISE_ADAGRAD, "present"): _rowwise_adagrad,
    (EmbOptimType.ADAM, "present"): _adam,
    (EmbOptimType.ADAM, "every"): _dense_adam,
    (EmbOptimType.PARTIAL_ROWWISE_ADAM, "present"): _partial_rowwise_adam,
}
