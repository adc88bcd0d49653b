"""Attention's gradient brought to the size of the representation's, where they share tables.

The last of the paper's failed ways to decouple one table (arXiv:2410.02604, appendix C, "avoid
domination"): of each table, attention's gradient is scaled to the norm of the representation's,
then they are added. Norms are of the whole table's gradient, summed over ranks.
Letters: N behaviours or targets, U different ids, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec import KeyedJaggedTensor

from modules.embedding import Embeddings, Use
from modules.feature_rows import FeatureRows


class _Table(NamedTuple):
    """Where a table's rows lie: columns of the joined rows, and ids, the history's first."""

    columns: slice
    id_N: Tensor


def balanced(
    rows: Mapping[Use, FeatureRows],
    positions: Mapping[Use, Tensor],
    features: KeyedJaggedTensor,
    embeddings: Embeddings,
) -> tuple[dict[Use, FeatureRows], dict[Use, Tensor]]:
    """The same values, whose gradients meet in equal sizes.

    Args:
        rows: of each use; history's and target's are shared by attention and representation.
        positions: the position table of each use, shared by all.
        features: the ids.
        embeddings: their tables.

    Returns:
        Rows and position tables, each use with its own.
    """
    tables, start = [], 0
    space = embeddings.config.space("attention_history")
    for name, width in embeddings.config.table_widths(space).items():
        ids = [features[f"{side}_{name}"].values() for side in ("history", "target")]
        tables.append(_Table(slice(start, start + width), torch.cat(ids)))
        start += width
    views = _Balance.apply(  # type: ignore[no-untyped-call]
        tables,
        rows["attention_history"].joined,
        rows["attention_target"].joined,
        positions["attention_history"],
    )
    histories, targets, places = views[0:2], views[2:4], views[4:6]
    return (
        {
            "attention_history": FeatureRows(histories[0]),
            "representation_history": FeatureRows(histories[1]),
            "attention_target": FeatureRows(targets[0]),
            "representation_target": FeatureRows(targets[1]),
        },
        {
            "attention_history": places[0],
            "attention_target": places[0],
            "representation_history": places[1],
            "representation_target": places[1],
        },
    )


class _Balance(torch.autograd.Function):
    """Two views of each input, one for attention, one for representation."""

    @staticmethod
    def forward(
        ctx: Any,
        tables: Sequence[_Table],
        history_ND: Tensor,
        target_TD: Tensor,
        position_LP: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.tables = tables
        return tuple(
            value.view_as(value) for value in (history_ND, target_TD, position_LP) for _ in range(2)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        history, target, position = (
            (gradients[n], gradients[n + 1]) for n in range(0, len(gradients), 2)
        )
        joined = [torch.cat([history[n], target[n]]) for n in range(2)]
        sums = [torch.empty_like(history[0]), torch.empty_like(target[0])]
        for table in ctx.tables:
            attention_ND, representation_ND = (part[:, table.columns] for part in joined)
            factor = _ratio(
                _table_norm(table.id_N, representation_ND), _table_norm(table.id_N, attention_ND)
            )
            both_ND = torch.addcmul(representation_ND, factor, attention_ND)
            for total, part in zip(sums, torch.split(both_ND, [len(s) for s in sums]), strict=True):
                total[:, table.columns] = part
        norms = [_over_ranks(part).norm() for part in reversed(position)]
        both_LP = position[1] + _ratio(*norms) * position[0]
        return None, *sums, both_LP


def _ratio(representation: Tensor, attention: Tensor) -> Tensor:
    """What attention's gradient is multiplied by; 1 where it has none."""
    return torch.where(attention > 0, representation / attention, torch.ones_like(attention))


def _table_norm(id_N: Tensor, gradient_ND: Tensor) -> Tensor:
    """L2 norm of a table's gradient, whose rows are sums over equal ids and over ranks."""
    id_U, row_UD = _sum_equal(id_N, gradient_ND)
    if dist.is_initialized() and dist.get_world_size() > 1:
        id_U, row_UD = _sum_equal(*_gathered(id_U, row_UD))
    return row_UD.norm()


def _sum_equal(id_N: Tensor, value_ND: Tensor) -> tuple[Tensor, Tensor]:
    id_U, place_N = torch.unique(id_N, return_inverse=True)
    return id_U, value_ND.new_zeros(len(id_U), value_ND.size(1)).index_add_(0, place_N, value_ND)


def _gathered(id_U: Tensor, row_UD: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and rows of all ranks; a collective. Rows of padding are zero."""
    most = torch.tensor([len(id_U)], device=id_U.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    missing = int(most) - len(id_U)
    padded = [
        torch.cat([id_U, id_U.new_zeros(missing)]),
        torch.cat([row_UD, row_UD.new_zeros(missing, row_UD.size(1))]),
    ]
    found = []
    for value in padded:
        parts = [torch.empty_like(value) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, value)
        found.append(torch.cat(parts))
    return found[0], found[1]


def _over_ranks(gradient: Tensor) -> Tensor:
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return gradient
    total = gradient.clone()
    dist.all_reduce(total)
    return total
