"""What readers leave of an epoch is read by others, whoever and however many they are."""

import json
import tempfile
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.place import Leftover, Place, share_after
from pipelines.row_groups import RowRange, list_row_groups
from pipelines.stream import Read, RequestDataset, Start, StreamConfig
from tests.split_files import (
    draw_users,
    expected_requests,
    requests_of,
    sorted_requests,
    stream_config,
    write_users,
)

GROUPS = [RowRange("file", number, 0, 0, rows) for number, rows in enumerate([25, 0, 7, 7, 1])]


@pytest.mark.parametrize("readers", [1, 2, 3, 7, 200])
def test_shares_differ_by_at_most_one_row_and_cover_each_once(readers: int) -> None:
    shares = [share_after(GROUPS, [], reader=r, readers=readers) for r in range(readers)]
    rows = [sum(part.stop - part.start for part in share.ranges) for share in shares]
    assert sum(rows) == 40
    assert max(rows) - min(rows) <= 1
    read = [
        (part.row_group, row)
        for share in shares
        for part in share.ranges
        for row in range(part.start, part.stop)
    ]
    assert read == [(group.row_group, row) for group in GROUPS for row in range(group.stop)]


def test_the_rest_of_a_window_is_cut_by_requests_and_whole_ranges_by_rows() -> None:
    # One reader has read 4 of the 10 requests of a window of the first 25 rows.
    before = [[Place(window=0, first_range=0, next_range=1, done=4, requests=10)]]
    shares = [share_after(GROUPS, before, reader=reader, readers=2) for reader in (0, 1)]
    window = (GROUPS[0],)
    assert [share.leftovers for share in shares] == [
        [Leftover(window, (0, 0, 0), 4, 7)],
        [Leftover(window, (0, 0, 0), 7, 10)],
    ]
    assert [[(r.row_group, r.start, r.stop) for r in share.ranges] for share in shares] == [
        [(2, 0, 7)],
        [(3, 0, 7), (4, 0, 1)],
    ]
    # Of those two, one has read 1 request of its leftover, the other is in its first own window.
    places = [Place(done=1, requests=3), Place(1, 0, 1, done=2, requests=9)]
    whole = share_after(GROUPS, [*before, places], reader=0, readers=1)
    assert whole.leftovers == [
        Leftover(window, (0, 0, 0), 5, 7),
        Leftover((GROUPS[3],), (1, 0, 0), 2, 9),
    ]
    assert whole.ranges == [GROUPS[2], GROUPS[4]]


def read_some(
    dataset: RequestDataset, start: Start, worker: int, workers: int, batches: int
) -> tuple[list[Read], Place]:
    """A reader's first batches, and where it stands after them."""
    dataset.start_at(start)
    info = SimpleNamespace(id=worker, num_workers=workers)
    with mock.patch("pipelines.stream.get_worker_info", return_value=info):
        reads = list(islice(dataset, batches))
    stood = start.places[worker] if start.places else Place()
    return reads, reads[-1].place if reads else stood


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=3, max_size=5),
    speed=st.integers(1, 5),
    kills=st.randoms(use_true_random=False),
    rows_per_group=st.integers(1, 9),
    options=st.fixed_dictionaries(
        {
            "shuffle_requests": st.sampled_from([0, 1, 9, 30, 1000]),
            "batch_size": st.sampled_from([1, 7, 64]),
            "behaviours_per_batch": st.sampled_from([0, 9]),
            "layout": st.sampled_from(["user", "request"]),
            "seed": st.integers(0, 3),
        }
    ),
)
def test_every_request_is_read_once_however_often_ranks_and_workers_change(
    sizes, speed, kills, rows_per_group, options
) -> None:
    users = draw_users(30, seed=options["seed"])
    config: StreamConfig = stream_config(**options)
    with tempfile.TemporaryDirectory() as folder:
        for name, some in (("a", users[:9]), ("b", users[9:])):
            write_users(
                Path(folder) / f"{name}.parquet",
                some,
                layout=config.layout,
                rows_per_group=rows_per_group,
            )
        groups = list_row_groups(folder, config.layout)
        seen, cuts, places = [], [], []
        for number, (ranks, workers) in enumerate(sizes):
            readers = ranks * workers
            if places and len(places) != readers:
                cuts, places = [*cuts, places], []
            stood = []
            for reader in range(readers):
                rank, worker = divmod(reader, workers)
                dataset = RequestDataset(groups, config, rank=rank, world=ranks)
                start = Start(0, cuts, places[rank * workers :][:workers])
                is_last = number == len(sizes) - 1
                batches = 10**6 if is_last else kills.randint(0, speed)
                reads, place = read_some(dataset, start, worker, workers, batches)
                seen += requests_of(read.batch for read in reads)
                stood.append(place)
            places = [Place(*numbers) for numbers in json.loads(json.dumps(stood))]
    assert sorted_requests(seen) == expected_requests(users, 5)
