"""The search that is served keeps what a plain top-K of all scores keeps."""

import pytest
import torch

from modules.search_kernel import Keys, find_best, largest, make_keys


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _fold_small_ones_too(monkeypatch):
    monkeypatch.setattr("modules.search_kernel._SMALL", 0)


@pytest.mark.parametrize("columns", [1, 5, 80, 81, 1000, 1283, 20_003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_folding_loses_none_of_the_largest(columns, dtype):
    # Whole numbers that are all different, so that there is one answer.
    order = torch.stack(
        [torch.randperm(columns, generator=torch.Generator().manual_seed(s)) for s in range(7)]
    )
    kept = min(5, columns)
    found = largest(order.to(dtype), kept)
    assert found.shape == (7, kept)
    best = order.gather(1, found).sort(1).values
    assert best.equal(torch.arange(columns - kept, columns).expand(7, -1))


def test_of_equal_scores_at_the_edge_as_many_as_are_wanted_are_kept():
    score = torch.zeros(3, 2000)
    score[0, 5], score[1, 1999], score[2, :3] = 1.0, 1.0, 1.0
    found = largest(score, 3)
    assert [len(set(row)) for row in found.tolist()] == [3, 3, 3]
    assert score.gather(1, found).sum(1).tolist() == [1, 1, 3]


def test_the_largest_at_the_end_that_no_fold_holds_is_found():
    score = torch.zeros(1, 8 * 100 + 3)
    score[0, -1], score[0, 13] = 2.0, 1.0
    assert sorted(largest(score, 2)[0].tolist()) == [13, 802]


@pytest.mark.parametrize("behaviours", [3, 400, 5000])
def test_in_float32_the_best_are_those_of_the_product(behaviours):
    query, key = drawn(9, 12), drawn(behaviours, 12, seed=2)
    found = find_best(make_keys(key, "fp32"), query, 4)
    truth = (query @ key.T).topk(min(4, behaviours), dim=1).indices
    assert found.sort(1).values.equal(truth.sort(1).values)


def test_many_targets_are_scored_in_parts(monkeypatch):
    monkeypatch.setattr("modules.search_kernel._HELD_SCORES", 1200)
    query, key = drawn(9, 12), drawn(400, 12, seed=2)
    truth = (query @ key.T).topk(4, dim=1).indices
    assert find_best(make_keys(key, "fp32"), query, 4).sort(1).values.equal(truth.sort(1).values)


def test_8_bits_rank_by_products_of_whole_numbers_one_can_count():
    # Steps of the columns: 1 and 10, so keys (127, 127), (-127, 0), (0, -127).
    keys = make_keys(torch.tensor([[127.0, 1270.0], [-127.0, 0.0], [0.0, -1270.0]]), "int8")
    assert keys.scale_A.tolist() == [1.0, 10.0]
    assert keys.value_NA.tolist() == [[127, 127], [-127, 0], [0, -127]]
    query = torch.tensor([[1.0, 0.0], [-1.0, -1.0], [1.0, -0.1]])
    assert find_best(keys, query, 1).flatten().tolist() == [0, 2, 2]


@pytest.mark.parametrize(("precision", "step"), [("bf16", 3 / 256), ("int8", None)])
def test_what_fewer_bytes_keep_is_as_good_up_to_their_rounding(precision, step):
    query, key = drawn(20, 16), drawn(3000, 16, seed=2)
    score = query @ key.T
    found = find_best(make_keys(key, precision), query, 10)
    if step is None:
        # Half a step of each key's column, and of the query's largest folded number.
        scale = key.abs().amax(0) / 127
        halves = (query.abs() * scale).sum(1) / 2
        folded = (query * scale).abs().amax(1) / 127
        bound = halves + (folded.unsqueeze(1) * (key.abs() / scale).amax(0)).sum(1) / 2
    else:
        bound = step * (query.abs() @ key.abs().T).amax(1)
    edge = score.topk(10, dim=1).values[:, -1]
    assert (score.gather(1, found).amin(1) >= edge - 2 * bound).all()
    truth = score.topk(10, dim=1).indices
    same = sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True))
    assert same / 200 > 0.9


def test_keys_of_zeros_are_zeros():
    keys = make_keys(torch.zeros(4, 3), "int8")
    assert isinstance(keys, Keys)
    assert not keys.value_NA.any()
    assert find_best(keys, torch.zeros(2, 3), 2).shape == (2, 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_of_no_behaviours_none_is_kept(precision):
    assert find_best(make_keys(torch.zeros(0, 3), precision), drawn(2, 3), 5).shape == (2, 0)
