"""Attention by category and position tables alone, as the paper's analysis takes it.

The paper's figures leave out the item (here also what else is looked up) and scale by the widths of
single features, which is not the score that the model itself searches with.
Letters: C categories, A and B some of them, T targets, L behaviours, P width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from modules.embedding import Use
from modules.projection import UseProjection
from modules.scorers import DotScorer
from trainer.analysis.scoring import OpenedRun

_ROWS = 1 << 18
"""Rows of behaviours that are gathered at a time."""


@dataclass(frozen=True)
class TableScores:
    """`c_a . c_c / sqrt(width of c) + p_0 . p_p / sqrt(width of p)`."""

    target_CP: Tensor
    """Category rows of targets."""
    history_CP: Tensor
    """Category rows of behaviours."""
    position_L: Tensor
    """The position's term of each behaviour, newest first."""

    def grid(self, target_A: Tensor, behaviour_B: Tensor) -> Tensor:
        """Scores of categories of targets and of behaviours at all positions, [A, B, L]."""
        dot_AB = self.target_CP[target_A] @ self.history_CP[behaviour_B].T
        return dot_AB.unsqueeze(2) / math.sqrt(self.target_CP.size(1)) + self.position_L

    def scores(self, target_T: Tensor, category_TL: Tensor) -> Tensor:
        """Scores of histories against their targets, score_TL."""
        # Some targets at a time: neither the scores of all categories nor all rows at once may fit.
        dot_TL = torch.empty(category_TL.shape)
        some = max(1, _ROWS // max(1, category_TL.size(1)))
        for first in range(0, len(target_T), some):
            part = slice(first, first + some)
            row_TLP = self.history_CP[category_TL[part]]
            dot_TL[part] = torch.einsum("tp,tlp->tl", self.target_CP[target_T[part]], row_TLP)
        return dot_TL / math.sqrt(self.target_CP.size(1)) + self.position_L[: category_TL.size(1)]


def table_scores(opened: OpenedRun) -> TableScores | None:
    """The scores of a run's tables, behind its projections of features where it has them.

    Returns:
        None where attention is no dot product of category and position beside the item: it is a
        network, has several heads or buckets, or sees all features joined by a projection.
    """
    interaction = opened.interaction
    if not isinstance(interaction.attention_scorer, DotScorer):
        return None
    target, history = _seen(opened, "attention_target"), _seen(opened, "attention_history")
    position_L = history.position[1:] @ target.position[0]
    return TableScores(
        target_CP=target.category,
        history_CP=history.category,
        position_L=position_L / math.sqrt(max(1, target.position.size(1))),
    )


class _Seen(NamedTuple):
    """Tables as a use sees them."""

    category: Tensor
    position: Tensor


@torch.no_grad()
def _seen(opened: OpenedRun, use: Use) -> _Seen:
    interaction, model = opened.interaction, opened.trainer.run.model
    projection = cast(UseProjection, interaction.uses[use])
    space = opened.trainer.config.model.embeddings.space(use)
    category = read_table(model, f"{space}_category")
    position = projection.position(interaction.positions.table(use)).detach().float().cpu()
    if "category" in projection.features:
        device = next(projection.parameters()).device
        category = projection.features["category"](category.to(device)).cpu()
    return _Seen(category, position)


def read_table(model: nn.Module, name: str) -> Tensor:
    """A whole table of a sharded model, float32 on the CPU; on one process."""
    for path, value in model.state_dict().items():
        if path.endswith(f".{name}.weight") and isinstance(value, ShardedTensor):
            whole = torch.zeros(value.size(), dtype=value.dtype)
            for shard in value.local_shards():
                (row, column), (rows, width) = (
                    shard.metadata.shard_offsets,
                    shard.metadata.shard_sizes,
                )
                whole[row : row + rows, column : column + width] = shard.tensor
            return whole.float()
    raise RuntimeError(f"the model has no table {name}")
