import numpy as np
import pytest

from pipelines.prepare.negatives import ClickedItems, NegativeSampler
from pipelines.prepare.protocol import PAPER, Lives, Protocol, RequestBuilder


def _lives(*items):
    lengths = [len(life) for life in items]
    item = np.concatenate(items)
    return Lives(
        user=np.arange(1, len(items) + 1),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item=item,
        category=item + 100,
        timestamp=np.concatenate([np.arange(n) * 10 for n in lengths]),
    )


def _builder(protocol, num_items, *, seed=1, clicks=None):
    clicks = np.array([0] + [1] * num_items) if clicks is None else clicks
    category = np.arange(clicks.size) + 1000
    return RequestBuilder(
        protocol, sampler=NegativeSampler(clicks), item_category=category, seed=seed
    )


def test_the_paper_trains_on_19_clicks_at_offsets_3_to_93():
    assert PAPER.offsets("train").tolist() == list(range(93, 2, -5))
    assert PAPER.offsets("train").size == 19
    assert PAPER.min_clicks - PAPER.last_offset == 117
    assert PAPER.offsets("val").tolist() == [2]
    assert PAPER.offsets("test").tolist() == [1]


def test_a_life_of_ten_clicks_gives_the_requests_one_counts_by_hand():
    protocol = Protocol(min_clicks=4, first_offset=3, offset_step=3, last_offset=9)
    tables = _builder(protocol, 30).build(_lives(np.arange(1, 11)), 0)
    (train,), (val,), (test,) = (tables[name].to_pylist() for name in ("train", "val", "test"))
    # Offsets 9, 6, 3 of items 1..10 are the items 2, 5, 8, after 1, 4 and 7 behaviours.
    assert [r["history_end"] for r in train["requests"]] == [1, 4, 7]
    assert [r["item"][0] for r in train["requests"]] == [2, 5, 8]
    assert [r["timestamp"] for r in train["requests"]] == [10, 40, 70]
    assert [(r["history_end"], r["item"][0]) for r in val["requests"]] == [(8, 9)]
    assert [(r["history_end"], r["item"][0]) for r in test["requests"]] == [(9, 10)]
    # No row holds a behaviour that its newest request must not see.
    assert train["item"] == [1, 2, 3, 4, 5, 6, 7]
    assert val["item"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert test["item"] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert test["timestamp"] == [0, 10, 20, 30, 40, 50, 60, 70, 80]


def test_positives_keep_their_category_and_negatives_take_their_items():
    protocol = Protocol(min_clicks=4, last_offset=3, num_negatives=3)
    row = _builder(protocol, 30).build(_lives(np.arange(1, 11)), 0)["test"].to_pylist()[0]
    request = row["requests"][0]
    assert request["label"] == [1, 0, 0, 0]
    assert request["category"] == [110, *(item + 1000 for item in request["item"][1:])]
    assert all(11 <= item <= 30 for item in request["item"][1:])


def test_offsets_beyond_a_short_life_make_no_request_and_are_counted():
    protocol = Protocol(min_clicks=3, first_offset=3, offset_step=1, last_offset=6)
    builder = _builder(protocol, 30)
    tables = builder.build(_lives(np.arange(1, 4), np.arange(1, 6)), 0)
    # Three clicks leave offset 3 without a history; five leave offsets 4 and 3.
    assert tables["train"]["user_id"].to_pylist() == [2]
    assert [r["history_end"] for r in tables["train"]["requests"].to_pylist()[0]] == [1, 2]
    assert tables["test"]["user_id"].to_pylist() == [1, 2]
    assert builder.requests_without_history == 4 + 2


def test_a_user_who_clicked_every_item_is_dropped_and_counted():
    builder = _builder(Protocol(min_clicks=3, last_offset=3), 5)
    tables = builder.build(_lives(np.arange(1, 6), np.array([1, 2, 3, 4, 4])), 0)
    assert tables["test"]["user_id"].to_pylist() == [2]
    assert (builder.users_without_negatives, builder.clicks_without_negatives) == (1, 5)
    # Item 5 is all that is left for the other user.
    assert tables["test"]["requests"].to_pylist()[0][0]["item"][1:] == [5, 5]


def test_negatives_follow_the_clicks_of_items_the_user_never_clicked():
    clicks = np.array([0, 50, 10, 30, 60])
    owner, item = np.zeros(2, np.int64), np.array([1, 1])
    drawn = NegativeSampler(clicks).draw_unclicked(
        np.random.default_rng(0), np.zeros(100_000, np.int64), ClickedItems(owner, item, 1)
    )
    share = np.bincount(drawn, minlength=5) / drawn.size
    assert share[:2].tolist() == [0, 0]
    np.testing.assert_allclose(share[2:], [0.1, 0.3, 0.6], atol=0.006)


def test_a_user_who_clicked_all_popular_items_still_gets_the_rest_in_proportion():
    # Rejection would need about a billion draws for each negative.
    clicks = np.array([0, 4 * 10**9, 1, 3])
    clicked = ClickedItems(np.zeros(1, np.int64), np.array([1]), 1)
    drawn = NegativeSampler(clicks).draw_unclicked(
        np.random.default_rng(0), np.zeros(40_000, np.int64), clicked
    )
    assert np.bincount(drawn, minlength=4)[:2].tolist() == [0, 0]
    assert (drawn == 3).mean() == pytest.approx(0.75, abs=0.01)


def test_clicked_items_are_told_apart_by_owner():
    clicked = ClickedItems(np.array([0, 0, 0, 1]), np.array([1, 3, 3, 2]), 2)
    assert clicked.num_items.tolist() == [2, 1]
    assert clicked.of(0).tolist() == [1, 3]
    # Item 6 of owner 0 has the key of item 2 of owner 1 if keys were mixed up.
    owner, item = np.array([0, 0, 0, 0, 1, 1]), np.array([1, 2, 3, 6, 2, 3])
    assert clicked.holds(owner, item).tolist() == [True, False, True, False, True, False]


def test_negatives_depend_on_the_seed_and_the_chunk():
    lives = _lives(np.arange(1, 31))
    protocol = Protocol(min_clicks=20, last_offset=28)
    builds = [
        _builder(protocol, 5000, seed=seed).build(lives, chunk)["train"]
        for seed, chunk in [(1, 0), (1, 0), (2, 0), (1, 1)]
    ]
    assert builds[0].equals(builds[1])
    assert not builds[0].equals(builds[2])
    assert not builds[0].equals(builds[3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_offset": 1}, "must grow in this order"),
        ({"first_offset": 2}, "must grow in this order"),
        ({"num_negatives": 0}, "num_negatives is 0; it must be at least 1"),
        ({"min_clicks": 2}, "needs at least 3"),
        ({"offset_step": 0}, "offset_step is 0"),
    ],
)
def test_a_protocol_that_would_leak_or_cannot_be_met_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**options)
