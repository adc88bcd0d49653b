"""Maps of attention: means by cell against loops, scores as shares, information beside them."""

import math

import numpy as np
import pytest
import torch

import trainer.analysis.attention
from tests.analysed import counts_of, log_of, samples_of, searched_of
from tests.split_files import draw_users
from trainer.analysis.attention import (
    AttentionOptions,
    CellMeans,
    attention,
    information_maps,
    softmax_of_cells,
)
from trainer.analysis.information import mutual_information
from trainer.analysis.options import Job


def test_means_of_cells_are_those_of_a_loop():
    random = np.random.default_rng(4)
    category_A, positions = np.array([5, 2, 4]), 3
    means = CellMeans(category_A, positions)
    found: dict[tuple[int, int, int], list[float]] = {}
    for _ in range(4):
        histories = [random.integers(1, 7, n).tolist() for n in random.integers(0, 6, 30)]
        histories[0] = [5] * 6
        targets = random.integers(1, 7, 30).tolist()
        batch = searched_of(targets, histories, [random.random(len(h)).tolist() for h in histories])
        means.add(batch, {"score": batch.score_TL, "twice": 2 * batch.score_TL})
        for row, (target, history) in enumerate(zip(targets, histories, strict=True)):
            for column, behaviour in enumerate(history[:positions]):
                if {target, behaviour} <= set(category_A.tolist()):
                    cell = (*(category_A.tolist().index(c) for c in (target, behaviour)), column)
                    found.setdefault(cell, []).append(float(batch.score_TL[row, column]))
    told = means.means(min_cell=2)
    assert means.count.sum() == sum(map(len, found.values())) > 20
    for cell in np.ndindex(3, 3, positions):
        values = found.get(cell, [])
        assert means.count[cell] == len(values)
        expected = np.mean(values) if len(values) >= 2 else math.nan
        assert told["score"][cell] == pytest.approx(expected, nan_ok=True)
        assert told["twice"][cell] == pytest.approx(2 * expected, nan_ok=True)


def test_attention_that_is_not_kept_counts_as_none():
    means = CellMeans(np.array([1]), 2)
    batch = searched_of([1, 1], [[1, 1], [1]])
    batch.weight_TL[:] = torch.tensor([[0.75, 0.0], [1.0, 0.0]])
    means.add(batch, {"attention": batch.weight_TL})
    assert means.means(1)["attention"].tolist() == [[[(0.75 + 1.0) / 2, 0.0]]]
    assert means.count.tolist() == [[[2, 1]]]


def test_scores_become_shares_of_each_map():
    score = np.log(np.array([[[1.0, 2.0], [5.0, np.nan]], [[8.0, 8.0], [8.0, 8.0]]]))
    share = softmax_of_cells(score + 500.0)  # Whose powers alone would overflow.
    assert share[0, 0] == pytest.approx([1 / 8, 2 / 8])
    assert share[0, 1, 0] == pytest.approx(5 / 8)
    assert np.isnan(share[0, 1, 1])
    assert share[1] == pytest.approx(np.full((2, 2), 0.25))


@pytest.mark.parametrize(
    ("preset", "score", "why"),
    [
        ("twin_hard", False, "a search by category only puts behaviours in order"),
        ("mirrn", False, "a search by hamming only puts behaviours in order"),
        ("sdim", False, "the model has no search"),
        ("twin", True, None),
    ],
)
def test_only_scores_that_mean_more_than_an_order_are_told(
    preset, score, why, open_fresh, monkeypatch
):
    opened = open_fresh(f"--model.preset={preset}")
    monkeypatch.setattr(trainer.analysis.attention, "open_run", lambda *_: opened)
    job = Job(opened.trainer.config, "", opened.trainer.context)
    content, _ = attention(job, AttentionOptions(categories=3, positions=4, pictured=1))
    assert ("search score" in content["maps"]) == score
    assert ("search score" in content["correlations"]["mutual information"]) == score
    assert content["left_out"].get("search score") == why


def test_information_is_told_of_the_most_frequent_target_categories(tmp_path):
    users = draw_users(120, seed=3)
    samples, counts = samples_of(users), counts_of(users)
    category_A, samples_A, bits = information_maps(
        log_of(tmp_path, users), categories=4, positions=3
    )
    targets = [category for category, *_ in samples]
    frequency = sorted((-targets.count(category), category) for category in set(targets))
    assert category_A.tolist() == [category for _, category in frequency[:4]]
    assert samples_A.tolist() == [-count for count, _ in frequency[:4]]
    assert bits.shape == (4, 4, 3)
    for a, b, column in np.ndindex(bits.shape):
        target, cell = category_A[a], (category_A[a], category_A[b], column + 1)
        labels = [label for category, _, label in samples if category == target]
        expected = mutual_information(
            np.array(counts[cell, True]),
            np.array(counts[cell, False]),
            np.array(sum(labels)),
            np.array(len(labels) - sum(labels)),
        )
        assert bits[a, b, column] == pytest.approx(float(expected))
    assert (bits > 0).any()


def test_there_can_be_fewer_categories_than_asked_for(tmp_path):
    users = draw_users(10)
    category_A, _, bits = information_maps(log_of(tmp_path, users), categories=49, positions=1)
    known = len({category for category, *_ in samples_of(users)})
    assert len(category_A) == known < 49
    assert bits.shape == (known, known, 1)
