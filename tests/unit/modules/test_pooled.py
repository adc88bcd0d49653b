"""Weighted bags on their shards: sums one can work out by hand, routes, and FBGEMM's own kernel."""

from __future__ import annotations

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    EmbeddingLocation,
    PoolingMode,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor

from modules.host_tables import HostTables
from modules.pooled import PooledEmbeddings, dense_groups, jagged_groups, pool_groups
from modules.routing import Part, PartMap, Slots, sort_by_part
from modules.sharded_pooled import look_up

CPU = torch.device("cpu")


def pooled(whole: bool = True) -> PooledEmbeddings:
    """One table of 6 rows; row i is (i, 10 i, 0, 0)."""
    table = EmbeddingBagConfig(
        name="r_item", embedding_dim=4, num_embeddings=6, feature_names=["item"]
    )
    module = PooledEmbeddings([table], sides=("history", "target"), whole=whole, device=CPU)
    with torch.no_grad():
        ids = torch.arange(6.0)
        module.embedding_bags["r_item"].weight.copy_(
            torch.stack([ids, 10 * ids, 0 * ids, 0 * ids], dim=1)
        )
    return module


def features() -> KeyedJaggedTensor:
    """Two requests: history 1 2 3 with target 4; history 5 with targets 0 and 2."""
    return KeyedJaggedTensor(
        keys=["history_item", "target_item"],
        values=torch.tensor([1, 2, 3, 5, 4, 0, 2]),
        lengths=torch.tensor([3, 1, 1, 2]),
    )


def test_whole_histories_are_summed_with_their_weights() -> None:
    weight_RCL = torch.tensor(
        [[[0.5, 0.25, 0.0], [1.0, 1.0, 1.0]], [[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]
    )
    rows = pooled()(features())
    (sum_GCD,) = rows.sums(weight_RCL)
    # 0.5 * 1 + 0.25 * 2 = 1; 1 + 2 + 3 = 6; 2 * 5 = 10; nothing.
    assert sum_GCD[:, :, 0].tolist() == [[1, 6], [10, 0]]
    assert sum_GCD[:, :, 1].tolist() == [[10, 60], [100, 0]]
    (target_TD,) = rows.targets()
    assert target_TD[:, 0].tolist() == [4, 0, 2]


def test_every_behaviour_is_multiplied_with_the_queries_of_its_request() -> None:
    query_RMD = torch.tensor([[[2.0, 0, 0, 0], [0, 1, 0, 0]], [[1.0, 0, 0, 0], [0, 0, 9, 0]]])
    dot_RML = pooled()(features()).dots([query_RMD], 3)
    assert dot_RML.tolist() == [[[2, 4, 6], [10, 20, 30]], [[5, 0, 0], [0, 0, 0]]]


def test_only_kept_behaviours_are_summed_and_get_a_gradient() -> None:
    module = pooled(whole=False)
    behaviour_TK = torch.tensor([[2, 0], [3, 0], [0, 3]])
    valid_TK = torch.tensor([[True, True], [True, False], [False, True]])
    weight_TK = torch.tensor([[0.5, 2.0], [3.0, 9.0], [9.0, 4.0]], requires_grad=True)
    rows = module(features()).kept(behaviour_TK, valid_TK)
    weight_T1K = dense_groups(weight_TK[valid_TK].unsqueeze(1), valid_TK.sum(1), 2).transpose(1, 2)
    (sum_TCD,) = rows.sums(weight_T1K)
    # Behaviours 0..3 are rows 1 2 3 5: 0.5 * 3 + 2 * 1; 3 * 5; 4 * 5.
    assert sum_TCD[:, 0, 0].tolist() == [3.5, 15, 20]
    sum_TCD[:, 0, 0].sum().backward()
    assert weight_TK.grad.tolist() == [[3, 1], [5, 0], [0, 5]]
    moved = module.embedding_bags["r_item"].weight.grad[:, 0]
    assert moved.tolist() == [0, 2, 0, 0.5, 0, 7]


def test_a_request_without_history_sums_to_zero() -> None:
    empty = KeyedJaggedTensor(
        keys=["history_item", "target_item"],
        values=torch.tensor([3]),
        lengths=torch.tensor([0, 1]),
    )
    rows = pooled()(empty)
    assert rows.sums(torch.ones(1, 2, 1))[0].eq(0).all()
    assert rows.dots([torch.ones(1, 1, 4)], 1).eq(0).all()
    assert rows.targets()[0][:, 0].tolist() == [3]


def test_groups_of_any_lengths_pool_to_the_sums_of_a_loop() -> None:
    torch.manual_seed(1)
    length_G = torch.tensor([2, 0, 5, 1])
    row_ND, weight_NC = torch.randn(8, 4), torch.randn(8, 3)
    found = pool_groups(row_ND, weight_NC, length_G, 5)
    rows, weights = row_ND.split(length_G.tolist()), weight_NC.split(length_G.tolist())
    wanted = [weight.T @ row for row, weight in zip(rows, weights, strict=True)]
    torch.testing.assert_close(found, torch.stack(wanted))
    grid = dense_groups(row_ND, length_G, 5)
    assert torch.equal(jagged_groups(grid, length_G, 8), row_ND)


GRID = PartMap(
    # 10 rows x 8 columns over 4 ranks: two column halves, each cut into rows 0-5 and 6-9.
    tuple(
        sorted(
            Part(
                rank=2 * half + block,
                table=0,
                first_column=4 * half,
                first_row=6 * block,
                rows=6 - 2 * block,
                columns=4,
            )
            for half in (0, 1)
            for block in (0, 1)
        )
    ),
    rank=0,
    world=4,
)


def test_an_id_goes_to_every_part_that_holds_its_row() -> None:
    slots = Slots([torch.tensor([7, 1, 5, 6])], [torch.tensor([9, 0])], torch.tensor([1, 3]))
    sent = sort_by_part(GRID, slots)
    # Rows 0-5 have behaviours 1 and 2 and target 1; rows 6-9 behaviours 0 and 3 and target 0.
    assert sent.counts == [(2, 1), (2, 1)] * 2
    assert sent.behaviour_E.tolist() == [1, 2, 0, 3] * 2
    assert sent.target_E.tolist() == [1, 0] * 2
    assert sent.row_E.tolist() == [1, 5, 0, 1, 0, 3] * 2
    assert sent.length_PG.tolist() == [[0, 2], [1, 1]] * 2
    assert sent.longest == [2, 1] * 2


def test_ids_of_whole_tables_need_no_sorting() -> None:
    parts = (Part(0, 1, 0, 0, 9, 4), Part(1, 0, 0, 0, 9, 8))
    slots = Slots(
        [torch.tensor([3, 1]), torch.tensor([8, 8])],
        [torch.tensor([2]), torch.tensor([5])],
        torch.tensor([2, 0]),
    )
    sent = sort_by_part(PartMap(parts, rank=0, world=2), slots)
    # Table 1 is on rank 0, so it is sent first.
    assert sent.row_E.tolist() == [8, 8, 5, 3, 1, 2]
    assert sent.behaviour_E is None
    assert sent.counts == [(2, 1), (2, 1)]
    assert sent.length_PG.tolist() == [[2, 0], [2, 0]]


@pytest.mark.parametrize("counts", [(5, 2), (0, 3), (4, 4), (0, 0)])
def test_fbgemms_bags_of_one_id_are_our_rows(counts: tuple[int, int]) -> None:
    """The way CUDA tables are read, on FBGEMM's CPU kernel, forward and after a step."""
    options = {
        "embedding_specs": [
            (6, width, EmbeddingLocation.HOST, ComputeDevice.CPU) for width in (8, 4)
        ],
        "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        "learning_rate": 0.1,
        "pooling_mode": PoolingMode.SUM,
    }
    ours, theirs = HostTables(**options), SplitTableBatchedEmbeddingBagsCodegen(**options)
    torch.manual_seed(2)
    ours.weights_host.data.normal_()
    theirs.weights_host.data.copy_(ours.weights_host.data)
    ids = [torch.randint(0, 6, (count,)) for count in counts]
    mine, fbgemms = look_up(ours, ids), look_up(theirs, ids)
    for one, other in zip(mine, fbgemms, strict=True):
        assert torch.equal(one, other)
    for rows in (mine, fbgemms):
        sum(
            (row * torch.arange(1.0, row.numel() + 1).view_as(row)).sum() for row in rows
        ).backward()
    torch.testing.assert_close(ours.weights_host.data, theirs.weights_host.data)
