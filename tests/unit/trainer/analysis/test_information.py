"""Mutual information and the counts it is taken from, against scikit-learn and plain loops."""

import math

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

import trainer.analysis.information
from tests.analysed import HISTORY, counts_of, log_of, samples_of
from tests.split_files import ROWS, Request, User, draw_users
from trainer.analysis.information import (
    CellSpace,
    count_cells,
    count_targets,
    find_cells,
    look_up,
    mutual_information,
)
from trainer.analysis.truth import cell_information

SPACE = CellSpace(ROWS["category"], HISTORY)
EVERY = np.ones(ROWS["category"], bool)


def cells_of(keys: np.ndarray) -> list[tuple[int, int, int]]:
    pair, column = np.divmod(keys, HISTORY)
    return [
        (int(p) // ROWS["category"], int(p) % ROWS["category"], int(c) + 1)
        for p, c in zip(pair, column, strict=True)
    ]


@pytest.mark.parametrize(
    ("with_click", "with_none", "clicks", "others", "bits"),
    [
        (4, 0, 4, 4, 1.0),  # It is there exactly where there is a click: all of one bit.
        (2, 2, 4, 4, 0.0),  # It is as frequent with clicks as without.
        # 3/8, 1/8, 1/8, 3/8 against 1/4 each: 3/4 log2(3/2) + 1/4 log2(1/2).
        (3, 1, 4, 4, 0.75 * math.log2(1.5) - 0.25),
        (1, 3, 4, 4, 0.75 * math.log2(1.5) - 0.25),  # What speaks against a click tells as much.
        (0, 0, 4, 4, 0.0),
        (4, 4, 4, 4, 0.0),
        (0, 0, 0, 0, 0.0),
    ],
)
def test_information_is_what_one_works_out_by_hand(with_click, with_none, clicks, others, bits):
    found = mutual_information(
        *(np.array([value]) for value in (with_click, with_none, clicks, others))
    )
    assert found == pytest.approx([bits], abs=1e-12)


def test_cells_of_a_tiny_log_have_the_information_worked_out_by_hand(tmp_path):
    # Four targets of category 7, two of them clicked. Category 1 is the newest behaviour of both
    # clicked ones and of no other: 1 bit. Category 2 is second in one clicked and one other: 0.
    # Category 3 is second in one clicked target only: P = 1/4 against 1/4 * 1/2 and so on.
    lives = {1: [2, 1], 2: [3, 1], 3: [2, 4], 4: [5, 4]}  # Oldest first.
    users = [
        User(user, [1, 1], life, [Request(2, [9], [7], [float(user <= 2)])])
        for user, life in lives.items()
    ]
    log = log_of(tmp_path, users)
    key_E = find_cells(log, SPACE, EVERY)
    bits_E = cell_information(
        SPACE, key_E, count_cells(log, SPACE, EVERY, key_E), count_targets(log)
    )
    one_in_four = 0.25 * math.log2(2) + 0.25 * math.log2(2 / 3) + 0.5 * math.log2(4 / 3)
    assert dict(zip(cells_of(key_E), bits_E, strict=True)) == pytest.approx(
        {
            (7, 1, 1): 1.0,
            (7, 4, 1): 1.0,
            (7, 2, 2): 0.0,
            (7, 3, 2): one_in_four,
            (7, 5, 2): one_in_four,
        }
    )


@pytest.mark.parametrize("layout", ["user", "request"])
@pytest.mark.parametrize(("pairs", "fresh"), [(1 << 22, 1 << 24), (3, 2)])
def test_cells_are_counted_as_a_loop_counts_them(tmp_path, monkeypatch, layout, pairs, fresh):
    monkeypatch.setattr(trainer.analysis.information, "_PAIRS", pairs)
    monkeypatch.setattr(trainer.analysis.information, "_FRESH", fresh)
    users = draw_users(30)
    expected, log = counts_of(users), log_of(tmp_path, users, layout=layout)
    key_E = find_cells(log, SPACE, EVERY)
    cells = cells_of(key_E)
    assert sorted(cells) == cells == sorted({cell for cell, _ in expected})
    assert len(cells) > 100
    count_E2 = count_cells(log, SPACE, EVERY, key_E)
    assert count_E2.tolist() == [[expected[cell, False], expected[cell, True]] for cell in cells]


def test_every_cell_has_the_information_that_scikit_learn_finds(tmp_path):
    # Few categories, so that cells have targets of both labels with and without them.
    random = np.random.default_rng(5)
    users = []
    for number in range(80):
        life = random.integers(1, 4, 6).tolist()
        targets = random.integers(1, 3, 4).tolist()
        clicks = [float(random.random() < (0.8 if life[-1] == t else 0.3)) for t in targets]
        users.append(User(number, [1] * 6, life, [Request(6, [9] * 4, targets, clicks)]))
    log, samples = log_of(tmp_path, users), samples_of(users)
    key_E = find_cells(log, SPACE, EVERY)
    bits_E = cell_information(
        SPACE, key_E, count_cells(log, SPACE, EVERY, key_E), count_targets(log)
    )
    assert len(key_E) == 2 * 3 * HISTORY
    for (target, behaviour, position), bits in zip(cells_of(key_E), bits_E, strict=True):
        mine = [(history, label) for category, history, label in samples if category == target]
        is_there = [history[position - 1] == behaviour for history, _ in mine]
        nats = mutual_info_score(is_there, [label for _, label in mine])
        assert bits == pytest.approx(nats / math.log(2), abs=1e-12)


def test_only_what_is_asked_for_is_counted(tmp_path):
    users = draw_users(40)
    log = log_of(tmp_path, users)
    wanted = EVERY.copy()
    wanted[10:] = False
    near = CellSpace(ROWS["category"], 2)
    key_E = find_cells(log, near, wanted)
    expected = counts_of(users, positions=2)
    assert len(key_E) == len({cell for cell, _ in expected if cell[0] < 10})
    assert count_cells(log, near, wanted, key_E).sum() == sum(
        times for (cell, _), times in expected.items() if cell[0] < 10
    )
    some = key_E[::3]
    assert (
        count_cells(log, near, wanted, some).tolist()
        == count_cells(log, near, wanted, key_E)[::3].tolist()
    )


def test_targets_are_counted_by_category_and_label(tmp_path):
    users = draw_users(30)
    count_C2 = count_targets(log_of(tmp_path, users))
    for label in (False, True):
        mine = [category for category, _, clicked in samples_of(users) if clicked == label]
        assert count_C2[:, int(label)].tolist() == [mine.count(c) for c in range(len(count_C2))]


def test_keys_tell_the_category_of_the_target():
    target, behaviour, column = np.array([0, 3, 49]), np.array([49, 0, 7]), np.array([4, 0, 2])
    keys = SPACE.keys(target, behaviour, column)
    assert SPACE.target(keys).tolist() == target.tolist()
    assert cells_of(keys) == [(0, 49, 5), (3, 0, 1), (49, 7, 3)]


def test_places_of_unknown_keys_are_marked():
    place, found = look_up(np.array([2, 5, 9]), np.array([[9, 1], [5, 10]]))
    assert found.tolist() == [[True, False], [True, False]]
    assert (place[0, 0], place[1, 0]) == (2, 1)
    assert not look_up(np.zeros(0, np.int64), np.array([3]))[1].any()


def test_the_largest_cell_has_a_number_for_either_label():
    space = CellSpace(2**31, 1)
    (key,) = space.keys(*(np.array([2**31 - 1]),) * 2, np.array([0]))
    assert int(2 * key + 1) == 2 * (2**62 - 1) + 1
    with pytest.raises(ValueError, match="2,147,483,648 categories squared times 2 positions"):
        CellSpace(2**31, 2)


def test_more_cells_than_can_be_numbered_are_refused():
    with pytest.raises(ValueError, match="4,000,000,000 categories squared times 10 positions"):
        CellSpace(4_000_000_000, 10)
