"""A few targets shown one by one: what matters in the newest behaviours, and what the model sees.

They are drawn by a seed among all that count; the paper's were picked where its model had won.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from trainer.analysis.scoring import Searched

NEWEST = 10
"""Behaviours of a case, as in the paper."""


class Cases:
    """Draws some of a stream of targets, each as likely as any other.

    Args:
        count: how many to draw.
        seed: of the draw.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._rng = count, np.random.default_rng(seed)
        self._drawn: list[tuple[float, dict[str, Any]]] = []
        self._seen = 0

    def add(self, searched: Searched, rows: Mapping[str, Tensor], counts_T: Tensor) -> None:
        """Let the targets of a batch take part.

        Args:
            searched: the batch.
            rows: what is told of each behaviour, by name, each [T, L].
            counts_T: False on targets that take no part.
        """
        lot_T = np.where(counts_T.numpy(), self._rng.random(counts_T.numel()), np.inf)
        for at in np.argsort(lot_T)[: self._count]:
            if np.isfinite(lot_T[at]):
                case = _case(searched, rows, int(at), self._seen + int(at))
                self._drawn.append((float(lot_T[at]), case))
        self._drawn = sorted(self._drawn, key=lambda drawn: drawn[0])[: self._count]
        self._seen += counts_T.numel()

    def chosen(self) -> list[dict[str, Any]]:
        """The targets drawn, with what is told of their behaviours from the newest on."""
        return [case for _, case in self._drawn]


def _case(searched: Searched, rows: Mapping[str, Tensor], at: int, number: int) -> dict[str, Any]:
    valid_L = searched.valid_TL[at, :NEWEST]
    return {
        "target": number,
        "target_category": int(searched.target_T[at]),
        "categories": searched.category_TL[at, :NEWEST][valid_L].tolist(),
        **{name: value_TL[at, :NEWEST][valid_L].tolist() for name, value_TL in rows.items()},
    }
