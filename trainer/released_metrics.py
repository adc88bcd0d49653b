"""Metrics as the paper's released code computes them, for figures that stand beside its own.

Written from what its functions return, not from their text. T targets of a batch, N of the split.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.task import StepOutput

RELEASED_METRICS = ("auc_released", "category_auc_released", "logloss_released")
"""Keys of `ReleasedMetrics.compute`, in order."""


def released_auc(score: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_]) -> float:
    """AUC of the rows in their order, which decides where scores are equal.

    Rows are sorted by falling score, equal ones as they came. The k-th negative then stands behind
    the share y_k of the positives, and the area is the sum of (y_k + y_(k-1)) / 2 over the
    negatives, y_0 = 0, divided by their number. The true area without ties is the mean of y_k, so
    this lies half a negative below it, and positives that come first among equals win.

    Source: arXiv:2410.02604, released code.

    Args:
        score: of each row, [N].
        positive: class of each row, [N].

    Returns:
        The area; NaN where there is one class only.
    """
    ordered = positive[np.argsort(-score, kind="stable")]
    positives, negatives = int(ordered.sum()), int((~ordered).sum())
    if positives == 0 or negatives == 0:
        return math.nan
    share = np.cumsum(ordered)[~ordered] / positives
    return float((share.sum() - share[-1] / 2) / negatives)


class ReleasedMetrics:
    """Keeps the targets of a split in their order; for one process, since ranks have no order.

    Use a new object for each pass over a split.
    """

    def __init__(self) -> None:
        self._scores: list[Tensor] = []
        self._positive: list[Tensor] = []
        self._category: list[Tensor] = []
        self._loss, self._weight = 0.0, 0.0

    def update(self, output: StepOutput, category_T: Tensor) -> None:
        """Add the targets of one batch; waits for the device.

        Args:
            output: of the batch; targets of weight 0 are padding and are not counted.
            category_T: category of each target.
        """
        counted = (output.weight_T > 0).cpu()
        # Rounded as the released code's float32 probabilities are, whose ties are meant.
        score_T = torch.sigmoid(output.logit_T.float()) + 1e-8
        self._scores.append(score_T.cpu()[counted])
        self._positive.append(output.label_T.cpu()[counted] > 0.5)
        self._category.append(category_T.cpu()[counted])
        self._loss += float(output.loss + output.auxiliary_loss)
        self._weight += float(output.weight_T.sum())

    def compute(self) -> dict[str, float]:
        """The metrics of `RELEASED_METRICS`.

        `category_auc_released` is the mean of `released_auc` over the categories of the targets,
        weighed by their targets; those with one class are left out. `logloss_released` is the main
        and the auxiliary loss together, a target. What is undefined (no rows, one class) is NaN.
        """
        if not self._weight:
            return dict.fromkeys(RELEASED_METRICS, math.nan)
        score, positive, category = (
            torch.cat(columns).numpy() for columns in (self._scores, self._positive, self._category)
        )
        order = np.argsort(category, kind="stable")
        edges = np.flatnonzero(np.diff(category[order])) + 1
        groups = np.split(order, edges)
        aucs = np.array([released_auc(score[group], positive[group]) for group in groups])
        sizes = np.array([len(group) for group in groups])
        both = ~np.isnan(aucs)
        mean = float(np.average(aucs[both], weights=sizes[both])) if both.any() else math.nan
        values = (released_auc(score, positive), mean, self._loss / self._weight)
        return dict(zip(RELEASED_METRICS, values, strict=True))
