"""Attention's gradient scaled to the representation's, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torchrec import KeyedJaggedTensor

from modules.balance import balanced
from modules.embedding import USES, Embeddings, EmbeddingsConfig, UsesConfig
from modules.feature_rows import FeatureRows
from modules.widths import WidthsConfig
from tests.small import CPU, ROWS, SHARED

WIDTHS = WidthsConfig(item=4, category=4, position=1)
CONFIG = EmbeddingsConfig(
    uses=SHARED, attention=WIDTHS, representation=WIDTHS, gradients="balanced"
)
FEATURES = KeyedJaggedTensor(
    keys=["history_item", "history_category", "target_item", "target_category"],
    values=torch.tensor([5, 5, 1, 2, 6, 1]),
    lengths=torch.tensor([2, 2, 1, 1]),
)
"""Two behaviours of item 5, categories 1 and 2; a target of item 6, category 1."""


def gradients(attention: float, representation: float) -> tuple[torch.Tensor, ...]:
    """Of behaviours, target and positions, where both readers sum all with such factors."""
    embeddings = Embeddings(CONFIG, ROWS, CPU, whole_histories=True, table_types={})
    history, target = (torch.zeros(n, 8, requires_grad=True) for n in (2, 1))
    table = torch.zeros(3, 1, requires_grad=True)
    sides = {"history": history, "target": target}
    rows = {use: FeatureRows(sides[use.rpartition("_")[2]]) for use in USES}
    rows, positions = balanced(rows, dict.fromkeys(USES, table), FEATURES, embeddings)
    total = torch.zeros(())
    for use in USES:
        factor = attention if use.startswith("attention") else representation
        total = total + factor * (rows[use].joined.sum() + positions[use][0, 0])
    total.backward()
    assert history.grad is not None
    assert target.grad is not None
    assert table.grad is not None
    return history.grad, target.grad, table.grad


def test_both_uses_count_alike_table_by_table() -> None:
    history, target, position = gradients(attention=10.0, representation=2.0)
    assert history.eq(4.0).all()
    assert target.eq(4.0).all()
    # Target's and history's reading of position 0, each 2, each brought to the same size.
    assert position.tolist() == [[8.0], [0.0], [0.0]]


def test_rows_of_equal_ids_are_one_row_of_the_table() -> None:
    """Attention gives 1 to both behaviours of item 5, representation 1 to the target's item."""
    embeddings = Embeddings(CONFIG, ROWS, CPU, whole_histories=True, table_types={})
    history, target = (torch.zeros(n, 8, requires_grad=True) for n in (2, 1))
    table = torch.zeros(3, 1, requires_grad=True)
    sides = {"history": history, "target": target}
    rows, _ = balanced(
        {use: FeatureRows(sides[use.rpartition("_")[2]]) for use in USES},
        dict.fromkeys(USES, table),
        FEATURES,
        embeddings,
    )
    (rows["attention_history"].joined.sum() + rows["representation_target"].joined.sum()).backward()
    assert history.grad is not None
    # Item 5 has 2 in four numbers, norm 4; the target's item 1 in four, norm 2: half of 1.
    assert history.grad[:, :4].eq(0.5).all()
    # Categories 1 and 2 have 1 each, norm sqrt(8), against 2.
    torch.testing.assert_close(history.grad[:, 4:], torch.full((2, 4), 2 / math.sqrt(8)))


def test_without_a_gradient_of_attention_nothing_is_scaled() -> None:
    history, target, position = gradients(attention=0.0, representation=2.0)
    assert history.eq(2.0).all()
    assert target.eq(2.0).all()
    assert position[0].item() == 4.0


def test_only_a_shared_space_can_be_balanced() -> None:
    with pytest.raises(ValueError, match=r"gradients is balanced, but the uses read 2 spaces"):
        EmbeddingsConfig(uses=UsesConfig(), gradients="balanced")
