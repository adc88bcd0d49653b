import math
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import stream
from pipelines.batch import Batch
from pipelines.place import Place
from pipelines.row_groups import list_row_groups
from pipelines.schema import Layout
from pipelines.stream import RequestDataset, Start, StreamConfig
from tests.split_files import (
    Request,
    User,
    batches_of,
    draw_users,
    expected_requests,
    flat_batches,
    requests_of,
    sorted_requests,
    stream_config,
    write_users,
)

USERS = draw_users(40)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("split")
    write_users(folder / "a.parquet", USERS[:25])
    write_users(folder / "b.parquet", USERS[25:], rows_per_group=7)
    write_users(folder / "c.parquet", [])
    return str(folder)


def dataset(split: str, config: StreamConfig) -> RequestDataset:
    return RequestDataset(list_row_groups(split, config.layout), config, rank=0, world=1)


def read_as(data: RequestDataset, worker: int, workers: int) -> list[Batch]:
    info = SimpleNamespace(id=worker, num_workers=workers)
    with mock.patch("pipelines.stream.get_worker_info", return_value=info):
        return batches_of(data)


def same_user(number: int) -> list[User]:
    """So many users with two requests each, of one target each."""
    life = [1, 2]
    return [
        User(u, life, life, [Request(2, [50_000 + 2 * u + k], [1], [1.0]) for k in (0, 1)])
        for u in range(number)
    ]


@settings(max_examples=25, deadline=None)
@given(
    ranks=st.integers(1, 4),
    workers=st.integers(1, 3),
    rows_per_group=st.integers(1, 9),
    users=st.integers(0, 25),
    shuffle=st.sampled_from([0, 1, 9, 1000]),
    batch_size=st.sampled_from([1, 7, 64]),
    seed=st.integers(0, 3),
)
def test_every_request_is_read_exactly_once_an_epoch_whatever_the_split(
    ranks: int,
    workers: int,
    rows_per_group: int,
    users: int,
    shuffle: int,
    batch_size: int,
    seed: int,
) -> None:
    some = draw_users(users, seed=seed)
    config = stream_config(batch_size=batch_size, shuffle_requests=shuffle, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        write_users(Path(folder) / "a.parquet", some[:7], rows_per_group=rows_per_group)
        write_users(Path(folder) / "b.parquet", some[7:], rows_per_group=rows_per_group)
        groups = list_row_groups(folder, "user")
        readers = [
            (RequestDataset(groups, config, rank=rank, world=ranks), worker)
            for rank in range(ranks)
            for worker in range(workers)
        ]
        for _ in range(3):
            seen = [
                request
                for data, worker in readers
                for request in requests_of(read_as(data, worker, workers))
            ]
            assert sorted_requests(seen) == expected_requests(some, 5)


def test_without_shuffling_requests_come_in_the_order_of_the_files(split: str) -> None:
    batches = batches_of(dataset(split, stream_config(shuffle_requests=0)))
    assert requests_of(batches) == expected_requests(USERS, 5)


@pytest.mark.parametrize("layout", ["user", "request"])
def test_targets_apart_are_shuffled_alone_and_keep_their_history(
    tmp_path: Path, layout: Layout
) -> None:
    path = write_users(tmp_path / "a.parquet", USERS, layout=layout)
    config = stream_config(layout=layout, targets="apart", shuffle_requests=1000)
    batches = batches_of(dataset(path, config))
    alone = [
        (user, items, categories, (target,), (label,))
        for user, items, categories, targets, labels in expected_requests(USERS, 5)
        for target, label in zip(targets, labels, strict=True)
    ]
    seen = requests_of(batches)
    assert sorted_requests(seen) == alone
    assert seen != alone
    assert [batch.label.numel() for batch in batches[:-1]] == [8] * (len(alone) // 8)


def test_epochs_have_orders_of_their_own_unless_all_shall_have_the_first(split: str) -> None:
    for order, same in (("new", False), ("same", True)):
        data = dataset(split, stream_config(epoch_order=order))
        first, second = (requests_of(batches_of(data)) for _ in range(2))
        assert (first == second) is same
        assert sorted_requests(first) == sorted_requests(second) == expected_requests(USERS, 5)


@pytest.mark.parametrize("users", [1, 7, 8, 9])
def test_a_last_batch_that_is_not_full_can_be_left_out(tmp_path: Path, users: int) -> None:
    """Requests of two targets each, of which batches of 7 hold three; one more would not fit."""
    some = [
        User(u, [1], [1], [Request(1, [50_000 + 2 * u, 50_001 + 2 * u], [1, 1], [1.0, 0.0])])
        for u in range(users)
    ]
    path = write_users(tmp_path / "a.parquet", some, rows_per_group=1)
    whole, cut = (
        [
            batch.label.numel()
            for batch in batches_of(
                dataset(path, stream_config(batch_size=7, shuffle_requests=2, last_batch=last))
            )
        ]
        for last in ("keep", "drop")
    )
    assert sum(whole) == 2 * users
    assert cut == [6] * (users // 3)
    assert len(whole) - len(cut) == (users % 3 > 0)


@pytest.mark.parametrize("layout", ["user", "request"])
def test_a_window_ends_at_so_many_behaviours(tmp_path: Path, layout: Layout) -> None:
    path = write_users(tmp_path / "a.parquet", USERS, layout=layout, rows_per_group=2)
    config = stream_config(layout=layout, shuffle_requests=1000, shuffle_behaviours=30)
    held: list[list[int]] = []
    shuffle = stream._Reader._shuffle

    def watched(reader: Any, tables: list[Any], *rest: Any) -> Any:
        held.append([len(table.history["item"]) for table in tables])
        return shuffle(reader, tables, *rest)

    with mock.patch.object(stream._Reader, "_shuffle", watched):
        batches = batches_of(dataset(path, config))
    assert len(held) > 3
    # Full with the last row group and not before it.
    assert all(sum(sizes[:-1]) < 30 for sizes in held)
    assert all(sum(sizes) >= 30 for sizes in held[:-1])
    assert sorted_requests(requests_of(batches)) == expected_requests(USERS, 5)
    assert flat_batches(batches_of(dataset(path, config))) == flat_batches(batches)


def test_the_same_seed_gives_the_same_batches_and_each_epoch_another_order(split: str) -> None:
    data = dataset(split, stream_config())
    epochs = [flat_batches(batches_of(data)) for _ in range(3)]
    again = dataset(split, stream_config())
    assert [flat_batches(batches_of(again)) for _ in range(3)] == epochs
    other = flat_batches(batches_of(dataset(split, stream_config(seed=2))))
    orders = [str(epoch) for epoch in [*epochs, other]]
    assert len(set(orders)) == 4


@pytest.mark.parametrize("layout", ["user", "request"])
def test_a_request_with_more_targets_than_a_batch_holds_comes_alone(
    tmp_path: Path, layout: Layout
) -> None:
    sizes = [2, 5, 1, 2, 3, 4, 1]
    requests, first = [], 50_000
    for size in sizes:
        requests.append(Request(1, list(range(first, first + size)), [1] * size, [1.0] * size))
        first += size
    path = write_users(tmp_path / "a.parquet", [User(1, [3], [3], requests)], layout=layout)
    config = stream_config(layout=layout, batch_size=3, shuffle_requests=0)
    counts = [len(batch.label) for batch in batches_of(dataset(path, config))]
    # 2 | 5 | 1 + 2 | 3 | 4 | 1 where a row is a user; a request a row gives the same.
    assert counts == [2, 5, 3, 3, 4, 1]


def test_batches_hold_at_most_batch_size_targets_and_no_room_for_the_next_request(
    split: str,
) -> None:
    for shuffle in (0, 20):
        batches = batches_of(dataset(split, stream_config(shuffle_requests=shuffle)))
        counts = [len(batch.label) for batch in batches]
        assert max(counts) <= 8
        fullest = max(len(request.item) for user in USERS for request in user.requests)
        assert all(count > 8 - fullest for count in counts[:-1])


def test_requests_of_a_user_meet_in_a_batch_no_more_often_than_by_chance(tmp_path: Path) -> None:
    users, batch = 600, 20
    path = write_users(tmp_path / "a.parquet", same_user(users), rows_per_group=10)
    config = stream_config(batch_size=batch, shuffle_requests=10_000)
    epochs = 4
    data = dataset(path, config)
    meetings = 0
    for _ in range(epochs):
        for batch_read in batches_of(data):
            owners = Counter(user for user, *_ in requests_of([batch_read]))
            meetings += sum(count == 2 for count in owners.values())
    # Of the n - 1 places for the second request, batch - 1 are in the batch of the first.
    expected = epochs * users * (batch - 1) / (2 * users - 1)
    assert abs(meetings - expected) < 5 * math.sqrt(expected)
    unshuffled = batches_of(dataset(path, stream_config(batch_size=batch, shuffle_requests=0)))
    assert all(len({user for user, *_ in requests_of([read])}) == 10 for read in unshuffled)


def test_a_shuffle_window_is_no_larger_than_asked_for_plus_one_row_group(tmp_path: Path) -> None:
    # 10 requests a row group and windows of 20: two groups are read, then shuffled together.
    path = write_users(tmp_path / "a.parquet", same_user(30), rows_per_group=5)
    read = requests_of(batches_of(dataset(path, stream_config(shuffle_requests=20))))
    windows = [{request[0] // 5 for request in read[at : at + 20]} for at in range(0, 60, 20)]
    assert [len(window) for window in windows] == [2, 2, 2]
    assert set.union(*windows) == set(range(6))


def test_a_pass_that_follows_a_start_goes_on_and_the_one_after_is_the_next_epoch(
    split: str,
) -> None:
    whole = dataset(split, stream_config())
    reads = list(whole)
    first, second = flat_batches(batches_of(reads)), flat_batches(batches_of(whole))
    for taken, place in enumerate([Place(), *(read.place for read in reads)]):
        resumed = dataset(split, stream_config())
        resumed.start_at(Start(places=[place]))
        assert flat_batches(batches_of(resumed)) == first[taken:], taken
        assert flat_batches(batches_of(resumed)) == second, taken


def test_a_batch_closes_before_its_behaviours_pass_the_budget(split: str) -> None:
    for shuffle in (0, 20):
        config = stream_config(shuffle_requests=shuffle, behaviours_per_batch=12, batch_size=10**6)
        batches = batches_of(dataset(split, config))
        assert sorted_requests(requests_of(batches)) == expected_requests(USERS, 5)
        counts = [batch.num_behaviours for batch in batches]
        assert max(counts) <= 12
        assert all(count > 12 - 5 for count in counts[:-1])


def test_a_request_with_more_behaviours_than_the_budget_comes_alone(split: str) -> None:
    config = stream_config(behaviours_per_batch=1, batch_size=10**6)
    batches = batches_of(dataset(split, config))
    assert sorted_requests(requests_of(batches)) == expected_requests(USERS, 5)
    for batch in batches:
        assert batch.num_behaviours <= 1 or len(requests_of([batch])) == 1


def test_empty_files_and_splits_give_no_batch(tmp_path: Path) -> None:
    users = [User(1, [1, 2], [1, 2], []), User(2, [], [], [])]
    for name, some in (("none", []), ("without requests", users)):
        for shuffle in (0, 10):
            path = write_users(tmp_path / f"{name}.parquet", some)
            data = dataset(path, stream_config(shuffle_requests=shuffle))
            assert list(data) == []
            assert list(data) == []


def test_users_without_requests_do_not_end_a_batch(tmp_path: Path) -> None:
    quiet = User(3, [1, 2], [1, 2], [])
    users = [quiet, quiet, *same_user(2), quiet, quiet, quiet, *same_user(4)[2:], quiet]
    path = write_users(tmp_path / "a.parquet", users, rows_per_group=1)
    batches = batches_of(dataset(path, stream_config(shuffle_requests=0)))
    assert [len(batch.label) for batch in batches] == [8]


def test_consecutive_epochs_of_one_window_are_not_the_same_shuffle(tmp_path: Path) -> None:
    path = write_users(tmp_path / "a.parquet", same_user(40), rows_per_group=100)
    data = dataset(path, stream_config(shuffle_requests=100))
    orders = [[request[3] for request in requests_of(batches_of(data))] for _ in range(4)]
    assert all(one != other for one, other in pairwise(orders))


def test_row_groups_come_in_another_order_each_epoch(tmp_path: Path) -> None:
    # Windows of a row group, a row group a user: the order of users is that of the row groups.
    path = write_users(tmp_path / "a.parquet", same_user(20), rows_per_group=1)
    data = dataset(path, stream_config(shuffle_requests=1))
    orders = [[request[0] for request in requests_of(batches_of(data))][::2] for _ in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert all(one != other for one, other in pairwise([list(range(20)), *orders]))
