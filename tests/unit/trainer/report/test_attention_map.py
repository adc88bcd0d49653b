"""Sums of attention against a loop over targets and behaviours."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import trainer.report.attention_map
from pipelines.batch import Batch, collate
from pipelines.loader import DataConfig
from pipelines.planted import Planted
from pipelines.requests import Requests
from pipelines.schema import DatasetSchema, TableInfo
from trainer.report.attention_map import AttentionMap, planted_beside
from trainer.task import StepOutput

CATEGORIES, HISTORY, KEPT = 4, 5, 3


def batch_of(length: list[int], count: list[int], seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    end, targets = np.cumsum(length), sum(count)
    requests = Requests(
        history={
            "item": np.ones(end[-1], np.int64),
            "category": rng.integers(1, CATEGORIES + 1, end[-1]),
        },
        start=end - length,
        end=end,
        user=np.arange(len(length)),
        target_offset=np.concatenate([[0], np.cumsum(count)]),
        target={
            "item": np.ones(targets, np.int64),
            "category": rng.integers(1, CATEGORIES + 1, targets),
        },
        label=np.zeros(targets, np.float32),
    )
    return collate([(requests, np.arange(len(length)))])


def output_of(kept_TK: Tensor, attention_TK: Tensor) -> StepOutput:
    zero = torch.zeros(())
    return StepOutput(zero, zero, zero, zero, zero, zero, kept_TK, attention_TK, 0)


def planted() -> Planted:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(CATEGORIES + 1, 3))
    return Planted(
        attention=vectors, meaning=vectors, recency=-np.arange(HISTORY + 1.0), sharpness=2.0
    )


def means_by_hand(batch: Batch, weigh) -> tuple[list[float], list[list[float]]]:
    """Mean weight by position and by pair of categories; `weigh(target, history)` gives them."""
    counts = batch.features["target_category"].lengths().tolist()
    histories = batch.features["history_category"].to_dense()
    history_of = [
        history.tolist() for history, n in zip(histories, counts, strict=True) for _ in range(n)
    ]
    targets = batch.features["target_category"].values().tolist()
    position, pair, times = [0.0] * HISTORY, torch.zeros(CATEGORIES, CATEGORIES), [0] * CATEGORIES
    for number, (target, history) in enumerate(zip(targets, history_of, strict=True)):
        times[target - 1] += 1
        for column, weight in weigh(number, target, history):
            position[column] += weight / len(targets)
            pair[target - 1, history[column] - 1] += weight
    return position, (pair / torch.tensor(times).clamp(min=1)[:, None]).tolist()


@pytest.mark.parametrize("cells", [1, 8, 1 << 22])
def test_weights_are_added_up_by_position_and_by_category(monkeypatch, cells) -> None:
    monkeypatch.setattr(trainer.report.attention_map, "_CELLS", cells)
    batch = batch_of([5, 0, 2, 1], [3, 2, 4, 3])
    lengths = torch.tensor([5, 0, 2, 1]).repeat_interleave(torch.tensor([3, 2, 4, 3]))
    kept_TK = torch.stack(
        [torch.randperm(5, generator=torch.Generator().manual_seed(t))[:KEPT] for t in range(12)]
    )
    attention_TK = torch.rand(12, KEPT) * (kept_TK < lengths[:, None])
    truth = planted()

    def learned(number, _target, _history):
        return [
            (column, weight)
            for column, weight in zip(
                kept_TK[number].tolist(), attention_TK[number].tolist(), strict=True
            )
            if weight > 0
        ]

    def true(_number, target, history):
        scores = [
            math.exp(2 * truth.attention[target] @ truth.attention[category] + truth.recency[n + 1])
            for n, category in enumerate(history)
        ]
        return [(n, score / sum(scores)) for n, score in enumerate(scores)]

    shown = AttentionMap(HISTORY, None, truth)
    shown.update(batch, output_of(kept_TK, attention_TK))
    summary = shown.compute()
    assert summary is not None
    places = [category - 1 for category in summary.target_categories]
    for weigh, by_position, by_category in (
        (learned, summary.position_weight, summary.category_weight),
        (true, summary.planted_position_weight, summary.planted_category_weight),
    ):
        position, pair = means_by_hand(batch, weigh)
        assert by_position == pytest.approx(position, abs=1e-6)
        expected = [[pair[row][column] for column in places] for row in places]
        torch.testing.assert_close(torch.tensor(by_category), torch.tensor(expected))


class _Largest(TorchDispatchMode):
    """Numbers of the largest tensor that anything returns."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_targets_without_any_history_weigh_nothing() -> None:
    shown = AttentionMap(HISTORY, None, planted())
    shown.update(batch_of([0, 0], [1, 2]), output_of(torch.tensor([[0]] * 3), torch.zeros(3, 1)))
    summary = shown.compute()
    assert summary is not None
    assert summary.position_weight == summary.planted_position_weight == [0.0] * HISTORY


def test_no_history_is_spread_out_over_its_targets() -> None:
    batch = batch_of([2000] * 4, [100] * 4)
    shown = AttentionMap(2000, None, None)
    with _Largest() as largest:
        shown.update(batch, output_of(torch.arange(20).expand(400, -1), torch.rand(400, 20)))
    # 400 targets of 20 kept, and the histories themselves; spread out they would be 800,000.
    assert largest.numbers <= 4 * 2000 * 2


@pytest.mark.parametrize(
    ("options", "known"),
    [
        ({}, True),
        ({"category_rows": CATEGORIES + 1}, True),
        ({"category_rows": CATEGORIES + 2}, False),
        ({"ids": "hash"}, False),
    ],
)
def test_planted_attention_is_known_where_the_table_holds_its_categories_alone(
    tmp_path: Path, options: dict[str, Any], known: bool
) -> None:
    planted().save(str(tmp_path / "planted.npz"))
    data = DataConfig(schema=f"{tmp_path}/schema.json", **options)
    assert (planted_beside(data, schema_of(CATEGORIES + 1)) is not None) == known


def test_planted_attention_of_fewer_categories_is_refused(tmp_path: Path) -> None:
    planted().save(str(tmp_path / "planted.npz"))
    data = DataConfig(schema=f"{tmp_path}/schema.json")
    told = rf"^{tmp_path}/planted\.npz has categories up to 4, {tmp_path}/schema\.json up to 5; it "
    with pytest.raises(ValueError, match=told):
        planted_beside(data, schema_of(CATEGORIES + 2))


def schema_of(categories: int) -> DatasetSchema:
    tables = {"category": TableInfo(rows=categories, distinct=categories - 1)}
    return DatasetSchema(
        source="test", layout="user", seed=1, protocol={}, tables=tables, splits={}
    )
