"""What a model attends to, summed over an evaluation: by position and by category.

Where the data's true attention is known, it is summed over the same rows beside it, as shares of
what is seen: a model that sees the newest `data.history_length` behaviours of a life cannot weigh
the others.
Letters: T targets of a batch, S some of them, K kept, L longest history of a batch, N jagged total,
C categories shown.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from modules.attention import masked_softmax
from pipelines import storage
from pipelines.batch import Batch
from pipelines.loader import DataConfig
from pipelines.planted import Planted, load_planted
from pipelines.schema import DatasetSchema
from trainer.report.data import AttentionSummary
from trainer.task import StepOutput

CATEGORIES_SHOWN = 10
_CELLS = 1 << 22
"""Targets times behaviours at most that a step of the planted attention spreads out."""


class _Sums:
    """Attention by position and by pair of categories."""

    def __init__(self, history_length: int) -> None:
        self.weight_L = torch.zeros(history_length, dtype=torch.float64)
        self.weight_CC = torch.zeros(CATEGORIES_SHOWN, CATEGORIES_SHOWN, dtype=torch.float64)

    def add(self, column_TK: Tensor, pair_TK: Tensor, weight_TK: Tensor) -> None:
        """Add weights; a pair is target place * C + behaviour place, negative where not shown."""
        weight_TK = weight_TK.double()
        self.weight_L.index_add_(0, column_TK.flatten(), weight_TK.flatten())
        shown_TK = pair_TK >= 0
        self.weight_CC.view(-1).index_add_(0, pair_TK[shown_TK], weight_TK[shown_TK])


class _Histories:
    """The histories of a batch's targets by category, read where they lie.

    Args:
        batch: on the CPU.
    """

    def __init__(self, batch: Batch) -> None:
        history = batch.features["history_category"]
        length_R = history.lengths().long()
        count_R = batch.features["target_category"].lengths()
        self._category_N = history.values()
        self._length_T = length_R.repeat_interleave(count_R)
        self._start_T = (length_R.cumsum(0) - length_R).repeat_interleave(count_R)

    def categories(self, some_S: Tensor, column_SC: Tensor) -> tuple[Tensor, Tensor]:
        """Categories of some targets' behaviours.

        Args:
            some_S: which targets.
            column_SC: which behaviours of each; 0 is the newest.

        Returns:
            category_SC, 0 where there is no behaviour; and where there is one.
        """
        valid_SC = column_SC < self._length_T[some_S, None]
        if self._category_N.numel() == 0:
            return torch.zeros_like(column_SC), valid_SC
        row_SC = (self._start_T[some_S, None] + column_SC).where(valid_SC, 0)
        return self._category_N[row_SC].where(valid_SC, 0), valid_SC


class AttentionMap:
    """Sums attention weights over the batches of an evaluation, on the CPU.

    The categories shown are the most frequent target categories of the first batch of rank 0.

    Args:
        history_length: positions there can be.
        group: a gloo group of all ranks, None for one.
        planted: the data's true attention, where it is known.
    """

    def __init__(
        self, history_length: int, group: dist.ProcessGroup | None, planted: Planted | None
    ) -> None:
        self._group, self._planted = group, planted
        self._learned, self._true = _Sums(history_length), _Sums(history_length)
        self._targets = torch.zeros(1, dtype=torch.float64)
        self._categories = torch.zeros(0, dtype=torch.int64)
        self._target_C = torch.zeros(CATEGORIES_SHOWN, dtype=torch.float64)

    def update(self, batch: Batch, output: StepOutput) -> None:
        """Add a batch; padding targets are left out.

        Args:
            batch: on the CPU.
            output: the model's for it, on any device.
        """
        counts_T = batch.weight > 0
        target_T = batch.features["target_category"].values()
        if self._categories.numel() == 0:
            self._choose(target_T[counts_T])
        place_T = self._place(target_T).masked_fill(~counts_T, -1)
        self._targets += counts_T.sum()
        self._target_C += torch.bincount(place_T[place_T >= 0], minlength=CATEGORIES_SHOWN)
        histories = _Histories(batch)
        kept_TK = output.kept_TK.cpu()
        category_TK, valid_TK = histories.categories(torch.arange(target_T.numel()), kept_TK)
        weight_TK = output.attention_TK.cpu() * (counts_T.unsqueeze(1) & valid_TK)
        # A column of padding may lie beyond all positions; it weighs nothing anywhere.
        self._learned.add(kept_TK.where(valid_TK, 0), self._pairs(place_T, category_TK), weight_TK)
        if self._planted is not None:
            self._add_true(self._planted, batch, histories, place_T)

    def _add_true(
        self, planted: Planted, batch: Batch, histories: _Histories, place_T: Tensor
    ) -> None:
        """Add the planted attention, which goes over whole histories, some targets at a time."""
        target_T = batch.features["target_category"].values()
        column_L = torch.arange(batch.num_history)
        for some in torch.split(
            torch.arange(target_T.numel()), max(1, _CELLS // batch.num_history)
        ):
            column_TL = column_L.expand(some.numel(), -1)
            category_TL, valid_TL = histories.categories(some, column_TL)
            weight_TL = planted_attention(planted, target_T[some], category_TL, valid_TL)
            counts_T1 = (batch.weight[some] > 0).unsqueeze(1)
            self._true.add(
                column_TL, self._pairs(place_T[some], category_TL), weight_TL * counts_T1
            )

    def compute(self) -> AttentionSummary | None:
        """Means over all ranks; a collective.

        Returns:
            By position, the mean weight of the newest behaviour, the next, ...; by category, the
            mean weight that targets of one (rows) give to all behaviours of another (columns);
            the true ones beside them where they are known. None without targets.
        """
        sums = [self._learned.weight_L, self._learned.weight_CC]
        sums += [self._true.weight_L, self._true.weight_CC]
        for value in (*sums, self._targets, self._target_C):
            if self._group is not None:
                dist.all_reduce(value, group=self._group)
        shown = self._categories.numel()
        if shown == 0:
            return None
        targets, by_category_C1 = self._targets.clamp(min=1), self._target_C.clamp(min=1)[:, None]
        position_L, category_CC, true_L, true_CC = (
            value / (targets if value.dim() == 1 else by_category_C1) for value in sums
        )
        known = self._planted is not None
        return AttentionSummary(
            position_weight=position_L.tolist(),
            target_categories=self._categories.tolist(),
            history_categories=self._categories.tolist(),
            category_weight=category_CC[:shown, :shown].tolist(),
            planted_position_weight=true_L.tolist() if known else None,
            planted_category_weight=true_CC[:shown, :shown].tolist() if known else None,
        )

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

    def _pairs(self, place_T: Tensor, category_TL: Tensor) -> Tensor:
        place_TL, place_T1 = self._place(category_TL), place_T.unsqueeze(1)
        pair_TL = place_T1 * CATEGORIES_SHOWN + place_TL
        return pair_TL.masked_fill((place_TL < 0) | (place_T1 < 0), -1)


def planted_beside(data: DataConfig, schema: DatasetSchema) -> Planted | None:
    """The true attention of a dataset, where its author left it beside `schema.json`.

    It goes by category id: it is left out where ids are hashed, and where the table is longer,
    since data with more categories may have come later.

    Raises:
        ValueError: the file is damaged, or lacks categories that the data has.
    """
    if data.ids != "check":
        return None
    folder, _, _ = data.schema.rpartition("/")
    path = storage.join(folder or ".", "planted.npz")
    if not storage.exists(path):
        return None
    planted = load_planted(path)
    held, needed = len(planted.attention), schema.tables["category"].rows
    if held < needed:
        raise ValueError(
            f"{path} has categories up to {held - 1}, {data.schema} up to {needed - 1}; it is of "
            "another dataset: remove it, or put the right one there"
        )
    return planted if data.category_rows <= held else None


def planted_attention(
    planted: Planted, target_T: Tensor, category_TL: Tensor, valid_TL: Tensor
) -> Tensor:
    """Planted attention of each target's history, as shares of the behaviours that are seen.

    `Planted` takes its softmax over the whole life. Where less of it is seen, these are the same
    weights over their sum, so that they add up to 1 as a model's own do.

    Args:
        planted: the data's true attention.
        target_T: categories of the targets.
        category_TL: categories of their behaviours that are seen, newest first; any on padding.
        valid_TL: False on padding.

    Returns:
        weight_TL, float64; 0 on padding.
    """
    attention = torch.from_numpy(planted.attention)
    score_TC = planted.sharpness * attention[target_T] @ attention.T
    position_L = torch.arange(1, category_TL.size(1) + 1)
    recency_L = torch.from_numpy(planted.recency)[position_L.clamp(max=len(planted.recency) - 1)]
    return masked_softmax(score_TC.gather(1, category_TL) + recency_L, valid_TL)
