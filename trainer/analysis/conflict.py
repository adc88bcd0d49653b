"""Statistics of two gradients that meet in the rows of a table: size, and whether they agree.

Letters: C rows of a table, D width, B bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.analysis.row_gradients import RoleGradients

COSINE_EDGES = np.linspace(-1.0, 1.0, 41)
SHARE_EDGES = np.linspace(0.0, 1.0, 11)


class RowTally:
    """Adds up a table's gradients over steps.

    Two sets of figures come of it. The paper's (released code of arXiv:2410.02604): norms are means
    over all rows of the table, rows without a gradient as zeros; a step's cosine is the mean over
    its rows, and the conflict the share of steps whose mean is negative; both, and the share of
    rows that are in conflict in more than half of their steps, over the first steps only where the
    paper does so. The corrected ones: a row's norms are means over the steps in which it has a
    gradient, and each row counts alike; a conflict is one of a row in a step, so that rows which
    agree do not outweigh others that do not.

    Args:
        rows: C.
        first_steps: over which the paper takes its norms and its share of rows.
    """

    def __init__(self, rows: int, first_steps: int) -> None:
        self._first, self._rows = first_steps, rows
        self._steps, self._both, self._opposed = (np.zeros(rows, np.int64) for _ in range(3))
        self._norms, self._cosine = np.zeros((2, rows)), np.zeros(rows)
        self._histogram = np.zeros(len(COSINE_EDGES) - 1, np.int64)
        self._early_both, self._early_opposed = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        self.by_step: dict[str, list[float]] = {
            name: []
            for name in (
                *("attention", "representation", "cosine", "conflict"),
                *("published_attention", "published_representation"),
            )
        }

    def add(self, gradients: RoleGradients) -> None:
        """Add a step."""
        attention_CD, representation_CD = (part.numpy() for part in gradients)
        norm_2C = np.stack([np.linalg.norm(part, axis=1) for part in gradients])
        dot_C = (attention_CD * representation_CD).sum(1)
        here_C, both_C = (norm_2C > 0).any(0), (norm_2C > 0).all(0)
        opposed_C = both_C & (dot_C < 0)
        product_C = np.where(both_C, norm_2C[0] * norm_2C[1], 1.0)
        # Rounding can leave a cosine a little beyond 1.
        cosine_C = np.clip(dot_C / product_C, -1.0, 1.0)
        self._steps += here_C
        self._both += both_C
        self._opposed += opposed_C
        self._norms += norm_2C
        self._cosine += np.where(both_C, cosine_C, 0.0)
        self._histogram += np.histogram(cosine_C[both_C], COSINE_EDGES)[0]
        if len(self.by_step["cosine"]) < self._first:
            self._early_both += dot_C != 0
            self._early_opposed += dot_C < 0
        attention, representation = _mean(norm_2C[0][here_C]), _mean(norm_2C[1][here_C])
        for name, value in (
            ("attention", attention),
            ("representation", representation),
            ("cosine", _mean(cosine_C[both_C])),
            ("conflict", _mean(opposed_C[both_C])),
            ("published_attention", float(norm_2C[0].mean())),
            ("published_representation", float(norm_2C[1].mean())),
        ):
            self.by_step[name].append(value)

    def corrected(self) -> dict[str, Any]:
        """Figures of rows over the steps in which they have a gradient.

        Returns:
            `attention` and `representation`, means over rows of their mean norms; `ratio` of the
            second to the first, and `median_ratio` of the rows' own; `conflict`, the share of pairs
            of a row and a step with a negative cosine, among those in which both gradients are; and
            the share of rows that are in conflict in more than half of their steps.
        """
        rows = self.by_row()
        attention, representation = _mean(rows["attention"]), _mean(rows["representation"])
        both = rows["attention"] > 0
        return {
            "attention": attention,
            "representation": representation,
            "ratio": _ratio(representation, attention),
            "median_ratio": _median(rows["representation"][both] / rows["attention"][both]),
            "conflict": _ratio(self._opposed.sum(), self._both.sum()),
            "rows_in_conflict": _share_above_half(self._opposed, self._both),
            "pairs": int(self._both.sum()),
            "rows": len(rows["row"]),
        }

    def published(self) -> dict[str, Any]:
        """The same as the paper takes them."""
        steps = {name: np.asarray(values) for name, values in self.by_step.items()}
        attention = _mean(steps["published_attention"][: self._first])
        representation = _mean(steps["published_representation"][: self._first])
        cosine = steps["cosine"][np.isfinite(steps["cosine"])]
        return {
            "attention": attention,
            "representation": representation,
            "ratio": _ratio(representation, attention),
            "conflict": _mean(cosine < 0),
            "rows_in_conflict": _share_above_half(self._early_opposed, self._early_both),
        }

    def by_row(self) -> dict[str, Any]:
        """Figures of each row that had a gradient; NaN where never both were there."""
        row = np.flatnonzero(self._steps)
        steps, both = self._steps[row], self._both[row]
        opposed, cosine = self._opposed[row].astype(float), self._cosine[row]
        nothing = np.full(len(row), np.nan)
        return {
            "row": row,
            "steps": steps,
            "attention": self._norms[0][row] / steps,
            "representation": self._norms[1][row] / steps,
            "conflict": np.divide(opposed, both, out=nothing.copy(), where=both > 0),
            "cosine": np.divide(cosine, both, out=nothing.copy(), where=both > 0),
        }

    def cosines(self) -> np.ndarray:
        """Pairs of a row and a step by their cosine, between `COSINE_EDGES`, [B]."""
        return self._histogram


def _share_above_half(opposed_C: np.ndarray, both_C: np.ndarray) -> float:
    known = both_C > 0
    return _mean(2 * opposed_C[known] > both_C[known])


def _ratio(above: Any, below: Any) -> float:
    return float(above / below) if below > 0 else float("nan")


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else float("nan")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
