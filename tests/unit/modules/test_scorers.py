"""Every scorer by hand, on one request: what attention weighs by, and what a search ranks by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from modules.attention import Scale
from modules.embedding import USES, EmbeddingsConfig
from modules.feature_rows import FeatureRows
from modules.history import RequestGrid
from modules.interaction import initialise
from modules.model_config import InitConfig
from modules.projection import ProjectionConfig, make_uses
from modules.representation import UnpooledDots
from modules.scorers import (
    BucketScorer,
    DotScorer,
    JoinedDotScorer,
    MlpScorer,
    MultiHeadScorer,
)
from modules.search_scorers import (
    CategoryScorer,
    HammingScorer,
    OwnScorer,
    newest_of_equals,
)
from modules.views import Seen
from modules.widths import WidthsConfig
from tests.small import SHARED


def seen(
    targets: Sequence[Sequence[float]],
    history: Sequence[Sequence[float]],
    positions: Sequence[Sequence[float]] = (),
    categories: tuple[list[int], list[int]] | None = None,
) -> Seen:
    """One request with these rows, and position rows of target, newest, next ..."""
    target_category, history_category = categories or ([1] * len(targets), [1] * len(history))
    count, length = len(targets), len(history)
    features = KeyedJaggedTensor(
        keys=["history_category", "target_category"],
        values=torch.tensor([*history_category, *target_category]),
        lengths=torch.tensor([length, count]),
    )
    table_LP = torch.tensor(positions) if positions else torch.zeros(length + 1, 0)
    sides = {
        "target": FeatureRows(torch.tensor(targets)),
        "history": FeatureRows(torch.tensor(history)),
    }
    grid = RequestGrid(
        history_offset_R1=torch.tensor([0, length]),
        target_offset_R1=torch.tensor([0, count]),
        num_history=length,
        num_targets=count,
        total_targets=count,
    )
    return Seen(
        lookups={},
        features=features,
        grid=grid,
        rows={use: sides[use.rpartition("_")[2]] for use in USES},
        positions=dict.fromkeys(USES, table_LP),
    )


def set_weights(module: nn.Module, **values: list) -> None:
    for name, value in values.items():
        module.get_parameter(name.replace("__", ".")).data = torch.tensor(value)


def scores(scorer: nn.Module, batch: Seen) -> list:
    result: Tensor = scorer(batch)
    return result[0].tolist()


def test_the_network_sees_target_behaviour_difference_and_product() -> None:
    scorer = MlpScorer(2, 1)
    # Input [q0 q1 k0 k1 q0-k0 q1-k1 q0k0 q1k1], one hidden unit.
    set_weights(
        scorer,
        first__weight=[[1.0, 0, 10.0, 0, 100.0, 0, 1000.0, 0]],
        first__bias=[0.5],
        activation__weight=[0.1],
        second__weight=[[2.0]],
        second__bias=[1.0],
    )
    # q 3, k 2: 3 + 20 + 100 + 6000 + .5 = 6123.5; k -4: 3 - 40 + 700 - 12000 + .5 = -11336.5.
    expected = [[(2 * 6123.5 + 1) / 2, (2 * 0.1 * -11336.5 + 1) / 2]]
    found = scores(scorer, seen([[3.0, 9.0]], [[2.0, 7.0], [-4.0, 7.0]]))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))


def test_each_head_has_its_part_of_the_projected_width_and_all_the_same_bias() -> None:
    scorer = MultiHeadScorer(4, 1, 2)
    scorer.query.weight.data = 2 * torch.eye(4)
    scorer.key.weight.data = torch.eye(4)
    assert scorer.position is not None
    scorer.position.weight.data = torch.tensor([[10.0]])
    batch = seen([[1.0, 1, 0, 0], [0.0, 0, 1, 1]], [[1.0, 2, 3, 4]], positions=[[5.0], [0.3]])
    root = math.sqrt(2)
    # Head 1 of both targets, then head 2; bias 10 * 0.3 of the newest position.
    expected = [[2 * 3 / root + 3], [3.0], [3.0], [2 * 7 / root + 3]]
    torch.testing.assert_close(torch.tensor(scores(scorer, batch)), torch.tensor(expected))


def test_a_bucket_holds_what_shares_all_bits_of_a_group() -> None:
    scorer = BucketScorer(2, groups=2, bits=2)
    # Group 1 looks at the signs of x and y, group 2 at that of x twice.
    scorer.hash.directions_DB = torch.tensor([[1.0, 0, 1, 1], [0.0, 1, 0, 0]])
    batch = seen([[1.0, 1.0]], [[2.0, 3.0], [2.0, -3.0], [-2.0, 3.0]])
    assert scores(scorer, batch) == [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]


@pytest.mark.parametrize("scale", ["two_term", "joint", "position_twice"])
def test_kept_behaviours_score_as_among_all(scale: Scale) -> None:
    scorer = DotScorer(UnpooledDots(), scale, 2)
    batch = seen(
        [[1.0, 2.0], [0.0, -3.0]],
        [[1.0, 1.0], [2.0, -1.0], [0.5, 4.0]],
        positions=[[3.0], [1.0], [0.0], [-2.0]],
    )
    if scale == "two_term":  # 8.5 / root 2 and 3 * -2 for the first target's oldest, for example.
        assert scores(scorer, batch)[0][2] == pytest.approx(8.5 / math.sqrt(2) - 6, abs=1e-5)
    index_RMK = torch.tensor([[[2, 0], [1, 1]]])
    torch.testing.assert_close(scorer.kept(batch, index_RMK), scorer(batch).gather(2, index_RMK))


def test_uses_that_share_rows_pick_the_kept_ones_once() -> None:
    batch, index_RMK = seen([[1.0]], [[4.0], [5.0]]), torch.tensor([[[1]]])
    picked = batch.kept_rows("attention_history", index_RMK)
    assert picked.tolist() == [[[[5.0]]]]
    assert batch.kept_rows("representation_history", index_RMK) is picked
    others = batch.kept_rows("representation_history", torch.tensor([[[0]]]))
    assert others.tolist() == [[[[4.0]]]]


def test_hamming_search_prefers_shared_bits_then_the_newer() -> None:
    scorer = HammingScorer(2, bits=2)
    scorer.hash.directions_DB = torch.eye(2)
    batch = seen([[1.0, 1.0]], [[1.0, -1.0], [-1.0, -1.0], [2.0, 2.0], [-1.0, 1.0]])
    assert torch.tensor(scores(scorer, batch)[0]).argsort(descending=True).tolist() == [2, 0, 3, 1]


def test_category_search_takes_the_newest_of_the_category_then_the_newest_others() -> None:
    rows = [[0.0]] * 4
    batch = seen([[0.0]] * 2, rows, categories=([7, 3], [3, 7, 3, 7]))
    order = torch.tensor(scores(CategoryScorer(), batch)).argsort(dim=1, descending=True)
    assert order.tolist() == [[1, 3, 0, 2], [0, 2, 1, 3]]


def test_equal_scores_are_told_apart_by_age_and_no_others_are() -> None:
    ranked = newest_of_equals(torch.tensor([[[2.0, 1.0, 2.0, 2.0]]]))[0, 0]
    assert ranked.argsort(descending=True).tolist() == [0, 2, 3, 1]


def test_bfloat16_scores_of_a_long_history_are_told_apart_too() -> None:
    ranked = newest_of_equals(torch.full((1, 1, 20_000), 31.0, dtype=torch.bfloat16))[0, 0]
    assert ranked.diff().eq(-1).all()


def test_the_own_search_multiplies_projected_targets_and_behaviours_with_positions() -> None:
    scorer = OwnScorer(3, 1)
    scorer.target.weight.data = torch.tensor([[1.0, 2.0, 3.0]])
    scorer.history.weight.data = torch.tensor([[1.0, 10.0, 100.0]])
    batch = seen([[1.0, 1.0]], [[1.0, 2.0]], positions=[[5.0], [7.0]])
    assert scores(scorer, batch) == [[(1 + 2 + 15) * (1 + 20 + 700.0)]]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_own_search_starts_by_finding_what_is_like_the_target(seed: int) -> None:
    torch.manual_seed(seed)
    scorer = OwnScorer(2, 16)
    initialise(nn.ModuleList([scorer]), InitConfig())
    batch = seen([[1.0, -2.0]], [[1.0, -2.0], [0.0, 0.0], [-1.0, 2.0]])
    alike, nothing, opposite = scores(scorer, batch)[0]
    assert alike > nothing == 0 > opposite
    assert scorer.history.weight is not scorer.target.weight


def test_a_joined_projection_has_its_bias_once_and_its_terms_cut_where_features_lie() -> None:
    config = EmbeddingsConfig(
        uses=SHARED,
        attention=WidthsConfig(item=4, category=4, position=1),
        representation=WidthsConfig(item=4, category=4, position=1),
    )
    uses = make_uses(ProjectionConfig(kind="linear", place="joined"), config)
    for use in ("attention_target", "attention_history"):
        # Identity, and the position also lands in the first number; bias 1 everywhere.
        weight = torch.eye(9)
        weight[0, 8] = 1.0
        uses[use].joined.weight.data, uses[use].joined.bias.data = weight, torch.ones(9)
    scorer = JoinedDotScorer(uses, "two_term", 8)
    batch = seen([[2.0] * 8], [[3.0] * 8], positions=[[5.0], [7.0]])
    # q = [2 + 5 + 1, 3 x 7 | 6], k = [3 + 7 + 1, 4 x 7 | 8].
    expected = (8 * 11 + 7 * 3 * 4) / math.sqrt(8) + 6 * 8
    torch.testing.assert_close(torch.tensor(scores(scorer, batch)), torch.tensor([[expected]]))
