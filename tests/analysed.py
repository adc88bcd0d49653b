"""Small logs and batches for the tests of analyses, and the same counted by plain loops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pipelines.schema import Layout, TableInfo
from tests.small_run import small_config, small_schema
from tests.split_files import ROWS, User, write_users
from trainer.analysis.information import SplitLog
from trainer.analysis.scoring import Searched

HISTORY = 5
Cell = tuple[int, int, int]
"""Category of the target, category of the behaviour, position from 1."""


def log_of(folder: Path, users: Iterable[User], *, layout: Layout = "user") -> SplitLog:
    """Users written to parquet, as a train split."""
    path = write_users(folder / "train" / "part.parquet", users, layout=layout)
    config = small_config(f"--data.train={path}", f"--data.layout={layout}")
    config = replace(config, data=replace(config.data, history_length=HISTORY))
    tables = {name: TableInfo(rows=rows, distinct=rows - 1) for name, rows in ROWS.items()}
    return SplitLog(config, "train", replace(small_schema(), tables=tables))


def samples_of(users: Iterable[User]) -> list[tuple[int, list[int], bool]]:
    """Each target's category, the categories of its newest behaviours, and its label."""
    return [
        (category, user.category[: request.history_end][::-1][:HISTORY], label > 0.5)
        for user in users
        for request in user.requests
        for category, label in zip(request.category, request.label, strict=True)
    ]


def counts_of(users: Iterable[User], positions: int = HISTORY) -> Counter[tuple[Cell, bool]]:
    """Targets of each cell and label."""
    return Counter(
        ((target, behaviour, position), label)
        for target, history, label in samples_of(users)
        for position, behaviour in enumerate(history[:positions], start=1)
    )


def searched_of(
    targets: Sequence[int],
    histories: Sequence[Sequence[int]],
    scores: Sequence[Sequence[float]] | None = None,
) -> Searched:
    """A scored batch; histories newest first, padded where they are shorter than the longest."""
    longest = max(map(len, histories))

    def padded(rows: Sequence[Sequence[float]], filler: float) -> list[list[float]]:
        return [[*row, *[filler] * (longest - len(row))] for row in rows]

    valid_TL = torch.tensor(padded([[1.0] * len(history) for history in histories], 0.0)) > 0
    score_TL = torch.zeros(valid_TL.shape) if scores is None else torch.tensor(padded(scores, 9e9))
    return Searched(
        target_T=torch.tensor(targets),
        category_TL=torch.tensor(padded(histories, 0)).long(),
        valid_TL=valid_TL,
        score_TL=score_TL,
        findable_TL=valid_TL,
        weight_TL=torch.zeros(valid_TL.shape),
    )
