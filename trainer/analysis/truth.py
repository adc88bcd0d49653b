"""What matters in a history, counted over train: the information of each behaviour's cell.

Letters: T targets, L behaviours, E cells, C categories.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.analysis.information import (
    CellSpace,
    SplitLog,
    count_cells,
    count_targets,
    find_cells,
    look_up,
    mutual_information,
)
from trainer.analysis.scoring import Searched

logger = logging.getLogger(__name__)


_CELLS = 1 << 22
"""Cells whose information is taken at a time."""


@dataclass(frozen=True)
class GroundTruth:
    """What train tells of each cell that the judged split has."""

    space: CellSpace
    key_E: np.ndarray
    """Cells, increasing."""
    bits_E: np.ndarray
    """What each tells about the click."""
    rarer_E: np.ndarray
    """The fewer of its clicked targets and its others."""
    samples_C: np.ndarray
    """Targets of each category."""

    def information(self, searched: Searched) -> tuple[Tensor, Tensor]:
        """What each behaviour's cell tells about the click; 0 where train says nothing of it.

        Returns:
            bits_TL, float64, and rarer_TL: the fewer of the cell's clicked targets and its others.
        """
        target_T1 = searched.target_T.numpy()[:, None]
        column_L = np.arange(searched.category_TL.size(1))
        key_TL = self.space.keys(target_T1, searched.category_TL.numpy(), column_L)
        place_TL, known_TL = look_up(self.key_E, key_TL)
        bits_TL, rarer_TL = np.zeros(key_TL.shape), np.zeros(key_TL.shape, np.int64)
        bits_TL[known_TL] = self.bits_E[place_TL[known_TL]]
        rarer_TL[known_TL] = self.rarer_E[place_TL[known_TL]]
        return torch.from_numpy(bits_TL), torch.from_numpy(rarer_TL)

    def samples(self, searched: Searched) -> Tensor:
        """Train targets of each target's category, samples_T."""
        return torch.from_numpy(self.samples_C)[searched.target_T]


def count_truth(train: SplitLog, judged: SplitLog, positions: int, min_samples: int) -> GroundTruth:
    """Count over train the cells that occur in a split.

    Args:
        train: the split to count in.
        judged: the split whose cells are asked for.
        positions: behaviours a history has at most.
        min_samples: train targets of a category, below which its cells are left out.
    """
    space = CellSpace(train.categories, positions)
    target_C2 = count_targets(train)
    samples_C = target_C2.sum(1)
    wanted_C = samples_C >= max(1, min_samples)
    logger.info(
        "%s of %s target categories have %s train targets or more",
        f"{int(wanted_C.sum()):,}",
        f"{int((samples_C > 0).sum()):,}",
        f"{min_samples:,}",
    )
    key_E = find_cells(judged, space, wanted_C)
    logger.info("counting %s cells over train", f"{len(key_E):,}")
    count_E2 = count_cells(train, space, wanted_C, key_E)
    bits_E = cell_information(space, key_E, count_E2, target_C2)
    return GroundTruth(space, key_E, bits_E, count_E2.min(1), samples_C)


def cell_information(
    space: CellSpace, key_E: np.ndarray, count_E2: np.ndarray, target_C2: np.ndarray
) -> np.ndarray:
    """Mutual information of each cell with the label, bits_E.

    Args:
        space: of the cells.
        key_E: which.
        count_E2: targets of each cell, not clicked and clicked.
        target_C2: targets of each category, not clicked and clicked.
    """
    bits_E = np.zeros(len(key_E))
    for start in range(0, len(key_E), _CELLS):
        some = slice(start, start + _CELLS)
        total = target_C2[space.target(key_E[some])]
        count = count_E2[some]
        bits_E[some] = mutual_information(count[:, 1], count[:, 0], total[:, 1], total[:, 0])
    return bits_E
