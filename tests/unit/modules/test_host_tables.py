"""The CPU lookup and its fused optimizers against plain loops and against FBGEMM's own kernel."""

from __future__ import annotations

import math

import pytest
import torch
import torchrec.distributed.embedding_lookup as torchrec_lookup
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    EmbeddingLocation,
    PoolingMode,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbedding

from modules import host_tables
from modules.host_kernels import HostBagKernel, HostKernel, host_kernels
from modules.host_tables import HostTables, MovedRows

RATE, EPS, BETA1, BETA2 = 0.1, 1e-3, 0.9, 0.99
WIDTH = 4
ROWS = (6, 5)
STEPS = [([0, 2, 2, 5], [1, 1]), ([2, 2, 2], [4]), ([], [1, 0]), ([0], [])]
"""Ids of the first and of the second table in each step; rows 1, 3, 4 and 2, 3 never occur."""


def make_tables(optimizer: EmbOptimType, moved_rows: MovedRows = "present") -> HostTables:
    tables = HostTables(
        optimizer=optimizer,
        moved_rows=moved_rows,
        learning_rate=RATE,
        eps=EPS,
        beta1=BETA1,
        beta2=BETA2,
        embedding_specs=[(rows, WIDTH, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows in ROWS],
        pooling_mode=PoolingMode.NONE,
    )
    torch.manual_seed(3)
    tables.weights_host.data.normal_()
    return tables


def matrix(tables: HostTables) -> Tensor:
    """Both tables under each other, a copy."""
    return torch.cat([tables.table(0), tables.table(1)])


def states(tables: HostTables) -> dict[str, Tensor]:
    """The optimizer's state of both tables under each other."""
    return {name: torch.cat([s[name] for s in tables.states]) for name in tables.states[0]}


def run(tables: torch.nn.Module) -> None:
    """Take the steps; the loss weighs each looked-up number differently."""
    for number, ids in enumerate(STEPS):
        indices = torch.tensor([*ids[0], *ids[1]], dtype=torch.long)
        # One id a bag, so that pooling changes nothing: both tables get as many bags.
        offsets = torch.tensor([0, len(ids[0]), len(indices)])
        looked_up = tables(indices, offsets)
        (looked_up * gradient(number, len(indices))).sum().backward()


def gradient(number: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(count, WIDTH, generator=generator)


def expected(optimizer: EmbOptimType, before: Tensor) -> Tensor:
    """The same steps row by row, number by number, in plain Python."""
    weight = before.double().clone()
    first = torch.zeros_like(weight)
    second = torch.zeros_like(weight)
    for number, ids in enumerate(STEPS):
        rows = [*ids[0], *(ROWS[0] + i for i in ids[1])]
        grads = gradient(number, len(rows)).double()
        for row in set(rows):
            total = sum(grads[n] for n, other in enumerate(rows) if other == row)
            mean_square = total.square().mean().item()
            for d in range(WIDTH):
                g = total[d].item()
                if optimizer == EmbOptimType.EXACT_SGD:
                    weight[row, d] -= RATE * g
                elif optimizer == EmbOptimType.EXACT_ROWWISE_ADAGRAD:
                    second[row, d] += mean_square
                    weight[row, d] -= RATE * g / (math.sqrt(second[row, d]) + EPS)
                else:
                    square = g * g if optimizer == EmbOptimType.ADAM else mean_square
                    first[row, d] = BETA1 * first[row, d] + (1 - BETA1) * g
                    second[row, d] = BETA2 * second[row, d] + (1 - BETA2) * square
                    m = first[row, d].item() / (1 - BETA1 ** (number + 1))
                    v = second[row, d].item() / (1 - BETA2 ** (number + 1))
                    weight[row, d] -= RATE * m / (math.sqrt(v) + EPS)
    return weight


OPTIMIZERS = [
    EmbOptimType.EXACT_SGD,
    EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    EmbOptimType.ADAM,
    EmbOptimType.PARTIAL_ROWWISE_ADAM,
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_optimizer_takes_the_steps_of_its_formula(optimizer: EmbOptimType) -> None:
    tables = make_tables(optimizer)
    before = matrix(tables)
    run(tables)
    torch.testing.assert_close(
        matrix(tables).double(), expected(optimizer, before), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rows_that_do_not_occur_keep_weight_and_state(optimizer: EmbOptimType) -> None:
    tables = make_tables(optimizer)
    before = matrix(tables)
    run(tables)
    absent = [1, 3, 4, 6 + 2, 6 + 3]
    assert torch.equal(matrix(tables)[absent], before[absent])
    for state in states(tables).values():
        assert state[absent].eq(0).all()
        present = [row for row in range(sum(ROWS)) if row not in absent]
        assert state[present].flatten(1 if state.dim() > 1 else 0).ne(0).all()


@pytest.mark.parametrize("block_numbers", [1 << 22, 3 * WIDTH, 1])
def test_dense_adam_is_torchs_adam_of_a_dense_parameter_for_twenty_steps(
    monkeypatch: pytest.MonkeyPatch, block_numbers: int
) -> None:
    """Whatever it steps at once: a whole table, three rows, one."""
    monkeypatch.setattr(host_tables, "_DENSE_STEP", block_numbers)
    tables = make_tables(EmbOptimType.ADAM, "every")
    dense = [torch.nn.Parameter(tables.table(t).clone()) for t in range(2)]
    adam = torch.optim.Adam(dense, RATE, (BETA1, BETA2), EPS, foreach=False)
    generator = torch.Generator().manual_seed(5)
    for number in range(20):
        # Row 1 of the first table occurs in the first step only, row 4 of the second never.
        counts = [(0, 3, 8)[number % 3], (4, 0)[number % 2]]
        ids = [
            torch.randint(2, ROWS[0], (counts[0],), generator=generator),
            torch.randint(0, ROWS[1] - 1, (counts[1],), generator=generator),
        ]
        ids[0] = torch.tensor([1, 1]) if number == 0 else ids[0]
        weight = [gradient(2 * number + t, len(ids[t])) for t in range(2)]
        sum((r * w).sum() for r, w in zip(tables.rows(ids), weight, strict=True)).backward()
        adam.zero_grad(set_to_none=False)
        sum((p[i] * w).sum() for p, i, w in zip(dense, ids, weight, strict=True)).backward()
        adam.step()
        for t in range(2):
            torch.testing.assert_close(tables.table(t), dense[t].detach(), rtol=0, atol=1e-6)
            for name, state in tables.states[t].items():
                torch.testing.assert_close(state, adam.state[dense[t]][name], rtol=1e-6, atol=1e-7)
    assert int(tables.iter) == 20


def test_dense_adam_moves_absent_rows_by_momentum_also_where_no_row_is_present() -> None:
    tables = make_tables(EmbOptimType.ADAM, "every")
    start = matrix(tables)
    for ids in ([1], []):
        indices = torch.tensor(ids, dtype=torch.long)
        tables(indices, torch.tensor([0, len(ids), len(ids)])).sum().backward()
    # The gradient was 1, then 0: m = 0.1 and 0.09, v = 0.01 and 0.0099, each over its 1 - beta^n.
    first = RATE * 1.0 / (1.0 + EPS)
    second = RATE * (0.09 / (1 - 0.9**2)) / ((0.0099 / (1 - 0.99**2)) ** 0.5 + EPS)
    moved = start - matrix(tables)
    torch.testing.assert_close(moved[1], torch.full((WIDTH,), first + second))
    assert moved[[0, 2, *range(3, sum(ROWS))]].eq(0).all()


def test_dense_adam_moves_a_table_that_the_loss_does_not_use() -> None:
    tables = make_tables(EmbOptimType.ADAM, "every")
    both = [torch.tensor([1]), torch.tensor([2])]
    sum(rows.sum() for rows in tables.rows(both)).backward()
    before = tables.table(1)[2].clone()
    tables.rows(both)[0].sum().backward()
    assert tables.table(1)[2].lt(before).all()


def test_lookup_is_an_index_select_in_the_order_of_the_ids() -> None:
    tables = make_tables(EmbOptimType.EXACT_SGD)
    indices = torch.tensor([5, 0, 5, 4, 0, 1])
    found = tables(indices, torch.tensor([0, 1, 3, 4, 6]))
    rows = torch.tensor([5, 0, 5, 6 + 4, 6 + 0, 6 + 1])
    assert torch.equal(found, matrix(tables).index_select(0, rows))


def test_features_of_one_table_share_its_rows() -> None:
    tables = HostTables(
        embedding_specs=[(3, WIDTH, EmbeddingLocation.HOST, ComputeDevice.CPU)] * 2,
        feature_table_map=[0, 0, 1],
        pooling_mode=PoolingMode.NONE,
    )
    tables.weights_host.data.copy_(torch.arange(6.0).repeat_interleave(WIDTH))
    # Two bags a feature: history [2, 0] and [], target [1] and [2], other table [] and [0].
    found = tables(torch.tensor([2, 0, 1, 2, 0]), torch.tensor([0, 2, 2, 3, 4, 4, 5]))
    assert found[:, 0].tolist() == [2, 0, 1, 2, 3]


def test_an_id_outside_all_tables_is_an_error() -> None:
    tables = make_tables(EmbOptimType.EXACT_SGD)
    with pytest.raises(IndexError):
        tables(torch.tensor([0, 5]), torch.tensor([0, 1, 2]))


def test_an_unknown_optimizer_is_an_error_that_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"lamb is not known on CPU.*adam"):
        make_tables(EmbOptimType.LAMB)
    with pytest.raises(ValueError, match=r"sgd is not known on CPU with moved rows every"):
        make_tables(EmbOptimType.EXACT_SGD, "every")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_without_ids_counts_and_moves_nothing(optimizer: EmbOptimType) -> None:
    tables = make_tables(optimizer)
    before = matrix(tables)
    tables(torch.tensor([], dtype=torch.long), torch.tensor([0, 0, 0])).sum().backward()
    assert int(tables.iter) == 1
    assert torch.equal(matrix(tables), before)


@pytest.mark.parametrize("optimizer", [EmbOptimType.EXACT_SGD, EmbOptimType.EXACT_ROWWISE_ADAGRAD])
def test_steps_equal_those_of_fbgemms_own_cpu_kernel(optimizer: EmbOptimType) -> None:
    ours = make_tables(optimizer)
    theirs = SplitTableBatchedEmbeddingBagsCodegen(
        optimizer=optimizer,
        learning_rate=RATE,
        eps=EPS,
        embedding_specs=[(rows, WIDTH, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows in ROWS],
        pooling_mode=PoolingMode.SUM,
    )
    theirs.weights_host.data.copy_(ours.weights_host.data)
    for number, ids in enumerate([([0, 2, 2, 5], [1, 1, 0, 1]), ([2, 3, 2], [4, 4, 4])]):
        indices = torch.tensor([*ids[0], *ids[1]])
        offsets = torch.arange(len(indices) + 1)
        weight = gradient(number, len(indices))
        mine = ours(indices, offsets)
        # FBGEMM lays a bag's tables side by side: [bags, tables * D].
        pooled = theirs(indices, offsets).view(-1, 2, WIDTH).transpose(0, 1).flatten(0, 1)
        torch.testing.assert_close(mine, pooled, rtol=1e-5, atol=1e-6)
        (mine * weight).sum().backward()
        (pooled * weight).sum().backward()
        torch.testing.assert_close(
            matrix(ours), theirs.weights_host.detach().view(-1, WIDTH), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizer_state_is_split_by_table_under_fbgemms_names(optimizer: EmbOptimType) -> None:
    tables = make_tables(optimizer)
    run(tables)
    by_table = tables.get_optimizer_state()
    for rows, state in zip(ROWS, by_table, strict=True):
        assert [len(value) for value in state.values()] == [rows] * len(state)
        assert all(value.ne(0).any() for value in state.values())
    names = {
        EmbOptimType.EXACT_SGD: set(),
        EmbOptimType.EXACT_ROWWISE_ADAGRAD: {"sum"},
        EmbOptimType.ADAM: {"exp_avg", "exp_avg_sq"},
        EmbOptimType.PARTIAL_ROWWISE_ADAM: {"exp_avg", "exp_avg_sq"},
    }
    assert set(by_table[0]) == names[optimizer]


def test_tables_of_several_widths_are_looked_up_and_stepped_apart() -> None:
    widths = (8, 4)
    tables = HostTables(
        learning_rate=1.0,
        embedding_specs=[(3, width, EmbeddingLocation.HOST, ComputeDevice.CPU) for width in widths],
        pooling_mode=PoolingMode.SUM,
    )
    tables.weights_host.data.copy_(torch.arange(36.0))
    first, second = tables.rows([torch.tensor([2, 2]), torch.tensor([1])])
    assert first.tolist() == [list(range(16, 24))] * 2
    assert second.tolist() == [[28, 29, 30, 31]]
    (first.sum() + 5 * second.sum()).backward()
    assert tables.table(0).tolist() == [*torch.arange(16).view(2, 8).tolist(), list(range(14, 22))]
    assert tables.table(1)[1].tolist() == [23, 24, 25, 26]


def raise_while_swapped() -> None:
    with host_kernels(torch.device("cpu")):
        assert torchrec_lookup.BatchedFusedEmbedding is HostKernel
        assert torchrec_lookup.BatchedFusedEmbeddingBag is HostBagKernel
        raise RuntimeError("stop")


def test_the_kernel_is_swapped_while_sharding_on_cpu_and_restored() -> None:
    """Fails when TorchRec renames or drops the class, or offers another place to choose it."""
    assert torchrec_lookup.BatchedFusedEmbedding is BatchedFusedEmbedding
    with pytest.raises(RuntimeError, match="stop"):
        raise_while_swapped()
    assert torchrec_lookup.BatchedFusedEmbedding is BatchedFusedEmbedding
    with host_kernels(torch.device("cuda")):
        assert torchrec_lookup.BatchedFusedEmbedding is BatchedFusedEmbedding


def step_fbgemms_adam() -> None:
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        optimizer=EmbOptimType.ADAM,
        embedding_specs=[(4, WIDTH, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        pooling_mode=PoolingMode.NONE,
    )
    tables(torch.tensor([1]), torch.tensor([0, 1])).sum().backward()


def test_fbgemms_cpu_kernel_still_lacks_adam() -> None:
    """When this fails, FBGEMM can do on CPU what `HostTables` was written for: compare again."""
    with pytest.raises(AssertionError, match=r"(?i)cpu"):
        step_fbgemms_adam()
