"""Retrieval on logs whose mutual information is known, by scores whose result is known."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pipelines.planted import Planted
from tests.analysed import HISTORY, counts_of, log_of, samples_of, searched_of
from tests.split_files import Request, User
from trainer.analysis.cases import Cases
from trainer.analysis.information import CellSpace, mutual_information
from trainer.analysis.retrieval import (
    ANY,
    INFORMATION,
    NEWEST,
    PLANTED,
    SEARCH,
    TABLES,
    RetrievalOptions,
    judge,
)
from trainer.analysis.tables import TableScores
from trainer.analysis.truth import GroundTruth, count_truth

LENIENT = {"min_samples": 0, "rare_below": 0, "max_rare": 0, "depth": 3}


def clicked_users() -> list[User]:
    """Two target categories, 1 and 2, clicked more often after behaviours of their own category."""
    random = np.random.default_rng(7)
    users = []
    for number in range(150):
        life = random.integers(1, 5, 5).tolist()
        targets = random.integers(1, 3, 3).tolist()
        clicks = [float(random.random() < (0.7 if t in life[-2:] else 0.2)) for t in targets]
        users.append(User(number, [1] * 5, life, [Request(5, [9] * 3, targets, clicks)]))
    return users


@pytest.fixture(scope="module")
def users():
    return clicked_users()


@pytest.fixture(scope="module")
def log(users, tmp_path_factory):
    return log_of(tmp_path_factory.mktemp("log"), users)


def bits_of(users: Sequence[User], target: int, history: Sequence[int]) -> list[float]:
    """What each behaviour tells, newest first, from plain loops."""
    counts, labels = counts_of(users), [s[2] for s in samples_of(users) if s[0] == target]
    return [
        float(
            mutual_information(
                *(
                    np.array(counts[(target, behaviour, position), label])
                    for label in (True, False)
                ),
                np.array(sum(labels)),
                np.array(len(labels) - sum(labels)),
            )
        )
        for position, behaviour in enumerate(history, start=1)
    ]


HISTORIES = [[1, 2, 3, 4, 1], [4, 3, 2, 1, 2], [2, 2, 1]]
TARGETS = [1, 2, 1]


def judged(log, scores, *, planted=None, tables=None, targets=TARGETS, **options):
    truth = count_truth(log, log, HISTORY, 0)
    batch = searched_of(targets, HISTORIES, scores)
    chosen = RetrievalOptions(**{**LENIENT, **options})
    return judge([batch], truth, chosen, planted=planted, tables=tables)


def test_a_search_by_the_information_itself_is_exactly_right_at_every_k(log, users):
    scores = [bits_of(users, t, h) for t, h in zip(TARGETS, HISTORIES, strict=True)]
    curve = judged(log, scores)["curves"][INFORMATION][SEARCH]
    assert curve["ndcg"].tolist() == [1.0, 1.0, 1.0]
    assert curve["hit_rate"].tolist() == [1.0, 1.0, 1.0]
    assert curve["ndcg_error"].tolist() == [0.0, 0.0, 0.0]
    assert curve["published"][-1] == 1.0
    assert (curve["published"][:-1] < 0.999).all()


def test_a_search_by_its_opposite_gives_what_one_works_out_by_hand():
    space = CellSpace(50, HISTORY)
    key_E = space.keys(np.full(3, 1), np.array([7, 8, 9]), np.array([0, 1, 2]))
    truth = GroundTruth(space, key_E, np.array([0.3, 0.2, 0.1]), np.full(3, 60), np.full(50, 1000))
    batch = searched_of([1], [[7, 8, 9]], [[-0.3, -0.2, -0.1]])
    found = judge([batch], truth, RetrievalOptions(depth=3), planted=None, tables=None)
    curves = found["curves"][INFORMATION]
    # Found are 1, 2, 3 tenths, best are 3, 2, 1; the second counts 1 / log2(3), the third 1 / 2.
    second = 1 / math.log2(3)
    gained, best = [1, 1 + 2 * second, 2.5 + 2 * second], [3, 3 + 2 * second, 3.5 + 2 * second]
    assert curves[SEARCH]["ndcg"].tolist() == pytest.approx(
        [g / b for g, b in zip(gained, best, strict=True)]
    )
    assert curves[SEARCH]["ndcg"].tolist() == pytest.approx([0.3333, 0.5307, 0.7900], abs=1e-4)
    assert curves[SEARCH]["published"].tolist() == pytest.approx([g / best[2] for g in gained])
    assert curves[SEARCH]["published"].tolist() == pytest.approx([0.21, 0.475, 0.79], abs=1e-4)
    assert curves[SEARCH]["hit_rate"].tolist() == [0.0, 0.5, 1.0]
    # The newest is the best here; any order has 2 tenths at each rank.
    assert curves[NEWEST]["ndcg"].tolist() == [1.0, 1.0, 1.0]
    assert curves[ANY]["ndcg"][0] == pytest.approx(2 / 3)
    assert (found["targets"]["judged"], curves[SEARCH]["targets"]) == (1, 1)


def test_where_attention_is_planted_a_search_by_it_is_right_about_it(log):
    random = np.random.default_rng(1)
    vectors = random.normal(size=(50, 4))
    planted = Planted(
        attention=vectors, meaning=vectors, recency=-np.arange(HISTORY + 1.0), sharpness=2.0
    )
    scores = [
        [2.0 * vectors[t] @ vectors[c] - p for p, c in enumerate(history, start=1)]
        for t, history in zip(TARGETS, HISTORIES, strict=True)
    ]
    curves = judged(log, scores, planted=planted)["curves"]
    assert curves[PLANTED][SEARCH]["ndcg"].tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert curves[INFORMATION][SEARCH]["ndcg"][0] < 0.99


def test_tables_are_judged_by_their_own_score(log):
    rows = torch.zeros(50, 4)
    rows[:5] = torch.eye(4)[[0, 0, 1, 2, 3]]
    tables = TableScores(rows, rows, torch.arange(5) * -0.01)
    scores = [
        [0.5 * (t == c) - 0.01 * n for n, c in enumerate(history)]
        for t, history in zip(TARGETS, HISTORIES, strict=True)
    ]
    curves = judged(log, scores, tables=tables)["curves"][INFORMATION]
    assert curves[TABLES]["ndcg"].tolist() == curves[SEARCH]["ndcg"].tolist()


def test_targets_are_left_out_by_the_papers_rules_and_counted(log, users):
    samples = [category for category, *_ in samples_of(users)]
    counts = counts_of(users)
    rarest = [
        sum(
            min(counts[(t, c, p), False], counts[(t, c, p), True]) < 15
            for p, c in enumerate(history, start=1)
        )
        for t, history in zip(TARGETS, HISTORIES, strict=True)
    ]
    assert sorted(set(rarest)) != [rarest[0]], "all are equally rare, so this test shows nothing"
    found = judged(log, None, rare_below=15, max_rare=min(rarest))
    kept = rarest.count(min(rarest))
    assert (found["targets"]["judged"], found["targets"]["rare cells"]) == (kept, 3 - kept)

    few, many = sorted(samples.count(category) for category in (1, 2))
    found = judged(log, None, min_samples=few + 1)
    frequent = 1 if samples.count(1) == many else 2
    assert found["targets"]["judged"] == TARGETS.count(frequent)
    assert found["targets"]["an infrequent category"] == 3 - TARGETS.count(frequent)

    # Category 40 is never a target, so that nothing tells about it.
    found = judged(log, None, targets=[1, 40, 1])
    assert found["targets"]["no informative behaviour"] == 1


def test_where_no_target_is_left_it_says_why(log):
    with pytest.raises(ValueError, match=r"3 have an infrequent category.*lower --min_samples"):
        judged(log, None, min_samples=10_000)


def test_cases_are_drawn_by_the_seed_alone_among_those_that_count():
    batch = searched_of([1] * 40, [[n, n + 1] for n in range(40)])
    counts_T = torch.arange(40) % 2 == 0

    def drawn(seed: int, pieces: int) -> list[int]:
        cases = Cases(5, seed)
        for some in torch.arange(40).chunk(pieces):
            part = searched_of([1] * len(some), [[int(n), int(n) + 1] for n in some])
            cases.add(part, {"score": batch.score_TL[some]}, counts_T[some])
        return [case["target"] for case in cases.chosen()]

    assert drawn(1, 1) == drawn(1, 4)
    assert all(target % 2 == 0 for target in drawn(1, 1))
    assert len(set(drawn(1, 1))) == 5
    assert drawn(1, 1) != drawn(2, 1)
    often = [target for seed in range(200) for target in drawn(seed, 2)]
    assert min(often.count(target) for target in range(0, 40, 2)) > 25  # 50 on average.


def test_a_case_tells_of_the_newest_behaviours_and_no_padding():
    cases = Cases(2, 0)
    histories = [list(range(1, 15)), [7, 8]]
    batch = searched_of([3, 4], histories, [[0.5] * 14, [1.0, 2.0]])
    cases.add(batch, {"search": batch.score_TL}, torch.tensor([True, True]))
    by_target = {case["target"]: case for case in cases.chosen()}
    assert by_target[0]["categories"] == list(range(1, 11))
    assert by_target[1] == {
        "target": 1,
        "target_category": 4,
        "categories": [7, 8],
        "search": [1.0, 2.0],
    }


@pytest.mark.parametrize(("name", "least"), [("depth", 1), ("min_samples", 0), ("cases", 0)])
def test_options_out_of_range_are_refused(name, least):
    with pytest.raises(ValueError, match=rf"--{name} is {least - 1}; at least {least}"):
        RetrievalOptions(**{name: least - 1})
