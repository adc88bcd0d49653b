"""Exact metrics of a whole split over all ranks: AUC, GAUC, normalized entropy, calibration.

T targets of a batch, N targets of the split, U users.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

METRICS = (
    "auc",
    "gauc",
    "gauc_unweighted",
    "gauc_users",
    "ne",
    "logloss",
    "accuracy",
    "calibration",
    "samples",
    "positives",
    "base_rate",
)
"""Keys of `SplitMetrics.compute`, in order."""

_DTYPES = (torch.float32, torch.float32, torch.float32, torch.int64)

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Rows:
    """All counted targets: logit, label and weight as float32, user as int64; each [N]."""

    columns: tuple[Tensor, Tensor, Tensor, Tensor]

    def arrays(self) -> tuple[npt.NDArray[np.float32], Array, Array, npt.NDArray[np.int64]]:
        logit, label, weight, user = (column.numpy() for column in self.columns)
        return logit, label.astype(np.float64), weight.astype(np.float64), user


class SplitMetrics:
    """Keeps every target of a split and computes metrics from all of them at once.

    20 bytes a target are kept on each rank and gathered to the group's first rank by `compute`.
    Use a new object for each pass over a split.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, ...]] = []
        self._gathered: _Rows | None = None

    def update(self, logit_T: Tensor, label_T: Tensor, weight_T: Tensor, user_T: Tensor) -> None:
        """Add the targets of one batch; waits for the device.

        Args:
            logit_T: scores before the sigmoid, any float type.
            label_T: 0 or 1; above 0.5 counts as positive where a class is needed.
            weight_T: weight of each target; rows of weight 0 are padding and are never counted.
            user_T: user of each target, the group of GAUC.

        Raises:
            RuntimeError: the four do not have the same shape.
        """
        shapes = {tuple(column.shape) for column in (logit_T, label_T, weight_T, user_T)}
        if len(shapes) > 1:
            raise RuntimeError(f"logit, label, weight and user have shapes {sorted(shapes)}")
        columns = (logit_T, label_T, weight_T, user_T)
        # Always a copy: a loader may reuse its buffers. Padding is dropped once, in compute.
        self._batches.append(
            tuple(
                column.detach().to("cpu", dtype, copy=True)
                for column, dtype in zip(columns, _DTYPES, strict=True)
            )
        )

    def compute(self, group: dist.ProcessGroup | None = None) -> dict[str, float]:
        """Metrics over the targets of all ranks of the group; of this process without one.

        AUC and per-user AUC weigh targets and count ties as one half, as scikit-learn does.
        `gauc` averages the AUC of users with both classes, weighted with their number of targets
        (arXiv:1706.06978); `ne` is the log loss over the entropy of the base rate (He et al.,
        ADKDD 2014); `accuracy` is the share of targets on the right side of one half;
        `calibration` is the sum of predictions over the sum of labels.

        Args:
            group: a gloo group whose ranks all call this; ranks may hold unequal shares or none.

        Returns:
            The same dict with the keys `METRICS` on every rank. `samples`, `positives` and
            `gauc_users` count rows. What is undefined (no rows, one class, a logit that is not
            finite) is NaN.
        """
        rows = self._own_rows()
        if group is None:
            self._gathered = rows
            return _metrics(rows)
        self._gathered = _gather(rows, group)
        values = torch.zeros(len(METRICS), dtype=torch.float64)
        if self._gathered is not None:
            result = _metrics(self._gathered)
            values = torch.tensor([result[name] for name in METRICS], dtype=torch.float64)
        dist.broadcast(values, group_src=0, group=group)
        return dict(zip(METRICS, values.tolist(), strict=True))

    def calibration_curve(self, bins: int = 20) -> dict[str, list[float]]:
        """Mean prediction and mean label in bins of equally many targets, lowest prediction first.

        Args:
            bins: bins at most; fewer where there are fewer targets.

        Returns:
            `predicted`, `observed` (weighted means) and `count` (targets), each a value a bin.

        Raises:
            RuntimeError: `compute` was not called, or this is not the group's first rank.
        """
        if self._gathered is None:
            raise RuntimeError("calibration_curve needs compute() first, and only works on rank 0")
        logit, label, weight, _ = self._gathered.arrays()
        order = np.argsort(logit, kind="stable")
        predicted, label, weight = _sigmoid(logit)[order], label[order], weight[order]
        bins = min(bins, order.size)
        edge = np.linspace(0, order.size, bins + 1).astype(np.int64)
        if bins == 0:
            return {"predicted": [], "observed": [], "count": []}
        total = np.add.reduceat(weight, edge[:-1])
        return {
            "predicted": (np.add.reduceat(weight * predicted, edge[:-1]) / total).tolist(),
            "observed": (np.add.reduceat(weight * label, edge[:-1]) / total).tolist(),
            "count": np.diff(edge).astype(np.float64).tolist(),
        }

    def _own_rows(self) -> _Rows:
        empty = tuple(torch.zeros(0, dtype=dtype) for dtype in _DTYPES)
        logit, label, weight, user = (
            torch.cat([column.flatten() for column in columns])
            for columns in zip(empty, *self._batches, strict=True)
        )
        counted = weight > 0
        return _Rows((logit[counted], label[counted], weight[counted], user[counted]))


def _gather(rows: _Rows, group: dist.ProcessGroup) -> _Rows | None:
    """All ranks' rows in rank order on the group's first rank, None on the others."""
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(world)]
    dist.all_gather(counts, torch.tensor([rows.columns[0].numel()]), group=group)
    # Point to point rather than gather, which would pad every rank's share to the largest.
    if rank > 0:
        for column in rows.columns if rows.columns[0].numel() else ():
            dist.send(column, group=group, group_dst=0)
        return None
    shares = [rows.columns]
    for source, count in enumerate(counts):
        if source > 0 and count.item() > 0:
            received = [torch.empty(int(count.item()), dtype=dtype) for dtype in _DTYPES]
            for column in received:
                dist.recv(column, group=group, group_src=source)
            logit, label, weight, user = received
            shares.append((logit, label, weight, user))
    logit, label, weight, user = (torch.cat(column) for column in zip(*shares, strict=True))
    return _Rows((logit, label, weight, user))


def _metrics(rows: _Rows) -> dict[str, float]:
    result = dict.fromkeys(METRICS, math.nan)
    logit, label, weight, user = rows.arrays()
    positive = label > 0.5
    result["samples"] = float(logit.size)
    result["positives"] = float(positive.sum())
    result["gauc_users"] = 0.0
    if logit.size == 0:
        return result
    result["base_rate"] = float((weight * label).sum() / weight.sum())
    if not np.isfinite(logit).all():
        return result
    order = torch.from_numpy(logit).argsort().numpy()
    overall, _ = _segment_auc(np.zeros_like(user), logit[order], positive[order], weight[order])
    result["auc"] = float(overall[0])
    # Stable, so that logits stay sorted within each user; a radix sort in torch, not in NumPy.
    order = order[torch.from_numpy(user[order]).argsort(stable=True).numpy()]
    auc_U, count_U = _segment_auc(user[order], logit[order], positive[order], weight[order])
    defined = ~np.isnan(auc_U)
    result["gauc_users"] = float(defined.sum())
    if defined.any():
        result["gauc"] = float(np.average(auc_U[defined], weights=count_U[defined]))
        result["gauc_unweighted"] = float(auc_U[defined].mean())
    # At one half a click is foretold: the first of two equal outputs wins, as in the paper's code.
    result["accuracy"] = float(np.average((logit >= 0) == positive, weights=weight))
    return result | _likelihood(logit.astype(np.float64), label, weight)


def _likelihood(logit: Array, label: Array, weight: Array) -> dict[str, float]:
    losses = np.maximum(logit, 0) - label * logit + np.log1p(np.exp(-np.abs(logit)))
    logloss = float((weight * losses).sum() / weight.sum())
    rate = float((weight * label).sum() / weight.sum())
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate)) if 0 < rate < 1 else 0.0
    observed = float((weight * label).sum())
    return {
        "logloss": logloss,
        "ne": logloss / entropy if entropy > 0 else math.nan,
        "calibration": float((weight * _sigmoid(logit)).sum()) / observed if observed else math.nan,
    }


def _segment_auc(
    segment: npt.NDArray[np.int64],
    logit: npt.NDArray[np.float32],
    positive: npt.NDArray[np.bool_],
    weight: Array,
) -> tuple[Array, Array]:
    """AUC of each segment, NaN where it has one class, and its number of rows.

    Args:
        segment: group of each row, equal ones next to each other, [N].
        logit: ascending within each segment, [N].
        positive: class of each row, [N].
        weight: weight of each row, [N].
    """
    new_segment = np.concatenate([[True], segment[1:] != segment[:-1]])
    new_tie = new_segment | np.concatenate([[True], logit[1:] != logit[:-1]])
    tie_start = np.flatnonzero(new_tie)
    first_tie = np.flatnonzero(new_segment[tie_start])
    positive_weight = np.add.reduceat(np.where(positive, weight, 0.0), tie_start)
    negative_weight = np.add.reduceat(np.where(positive, 0.0, weight), tie_start)
    below = np.cumsum(negative_weight) - negative_weight
    ties = np.diff(np.append(first_tie, tie_start.size))
    below -= np.repeat(below[first_tie], ties)
    won = np.add.reduceat(positive_weight * (below + negative_weight / 2), first_tie)
    pairs = np.add.reduceat(positive_weight, first_tie) * np.add.reduceat(
        negative_weight, first_tie
    )
    auc = np.divide(won, pairs, out=np.full(won.shape, np.nan), where=pairs > 0)
    rows = np.diff(np.append(np.flatnonzero(new_segment), segment.size))
    return auc, rows.astype(np.float64)


def _sigmoid(logit: npt.NDArray[np.float32] | Array) -> Array:
    # By halves of tanh, which neither overflows nor warns at large logits.
    return 0.5 * (1.0 + np.tanh(0.5 * logit.astype(np.float64)))
