"""What a model attends to, summed over an evaluation: by position and by category.

Letters: T targets of a batch, K kept, L longest history, C categories shown.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from modules.history import RequestGrid
from pipelines.batch import Batch
from trainer.task import StepOutput

CATEGORIES_SHOWN = 10


class AttentionMap:
    """Sums attention weights over batches.

    The categories shown are the most frequent target categories of the first batch of rank 0.

    Args:
        history_length: positions there can be.
        group: a gloo group of all ranks, None for one.
    """

    def __init__(self, history_length: int, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self._weight_L = torch.zeros(history_length, dtype=torch.float64)
        self._targets = torch.zeros(1, dtype=torch.float64)
        self._categories = torch.zeros(0, dtype=torch.int64)
        self._weight_CC = torch.zeros(CATEGORIES_SHOWN, CATEGORIES_SHOWN, dtype=torch.float64)
        self._target_C = torch.zeros(CATEGORIES_SHOWN, dtype=torch.float64)

    def update(self, batch: Batch, output: StepOutput) -> None:
        """Add a batch.

        Args:
            batch: on any device.
            output: the model's for it; padding targets are left out.
        """
        counts_T = output.weight_T > 0
        kept_TK, weight_TK = output.kept_TK, output.attention_TK * counts_T.unsqueeze(1)
        self._weight_L.index_add_(0, kept_TK.flatten().cpu(), weight_TK.flatten().double().cpu())
        self._targets += counts_T.sum().cpu()
        target_T = batch.features["target_category"].values()
        if self._categories.numel() == 0:
            self._choose(target_T[counts_T].cpu())
        place_T = self._place(target_T.cpu())
        place_TK = self._place(_kept_categories(batch, kept_TK).cpu())
        pair_TK = place_T.unsqueeze(1) * CATEGORIES_SHOWN + place_TK
        shown_TK = (place_T.unsqueeze(1) >= 0) & (place_TK >= 0)
        self._weight_CC.view(-1).index_add_(
            0, pair_TK[shown_TK], weight_TK.double().cpu()[shown_TK]
        )
        shown_T = (place_T >= 0) & counts_T.cpu()
        self._target_C += torch.bincount(place_T[shown_T], minlength=CATEGORIES_SHOWN)

    def compute(self) -> dict[str, list[int] | list[float] | list[list[float]]]:
        """Means over all ranks; a collective.

        Returns:
            `position_weight`: mean weight of the newest behaviour, the next, ...; `categories`;
            `category_weight`: mean total weight that targets of one category (rows) give to
            behaviours of another (columns).
        """
        for value in (self._weight_L, self._targets, self._weight_CC, self._target_C):
            if self._group is not None:
                dist.all_reduce(value, group=self._group)
        shown = self._categories.numel()
        mean_CC = self._weight_CC / self._target_C.clamp(min=1).unsqueeze(1)
        return {
            "position_weight": (self._weight_L / self._targets.clamp(min=1)).tolist(),
            "categories": self._categories.tolist(),
            "category_weight": mean_CC[:shown, :shown].tolist(),
        }

    def _choose(self, target: Tensor) -> None:
        category, count = torch.unique(target, return_counts=True)
        best = torch.argsort(count, descending=True, stable=True)[:CATEGORIES_SHOWN]
        chosen = torch.full((CATEGORIES_SHOWN,), -1, dtype=torch.int64)
        chosen[: best.numel()] = category[best].sort().values
        if self._group is not None:
            dist.broadcast(chosen, group_src=0, group=self._group)
        self._categories = chosen[chosen >= 0]

    def _place(self, category: Tensor) -> Tensor:
        """Place of each category among those shown, -1 for others."""
        if self._categories.numel() == 0:
            return torch.full_like(category, -1)
        place = torch.searchsorted(self._categories, category)
        place = place.clamp(max=self._categories.numel() - 1)
        return torch.where(self._categories[place] == category, place, -1)


def _kept_categories(batch: Batch, kept_TK: Tensor) -> Tensor:
    """Category of each kept behaviour; anything on padding, whose weight is zero."""
    history, target = batch.features["history_category"], batch.features["target_category"]
    grid = RequestGrid(
        history_offset_R1=history.offsets().long(),
        target_offset_R1=target.offsets().long(),
        num_history=batch.num_history,
        num_targets=batch.num_targets,
        total_targets=kept_TK.size(0),
    )
    request_T = torch.div(grid.target_cell_T(), batch.num_targets, rounding_mode="floor")
    values_N = history.values()
    if values_N.numel() == 0:
        return torch.full_like(kept_TK, -1)
    row_TK = kept_TK + grid.history_offset_R1[request_T].unsqueeze(1)
    return values_N[row_TK.clamp(max=values_N.numel() - 1)]
