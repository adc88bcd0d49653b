import functools
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from pipelines.lockstep import BatchStream
from pipelines.row_groups import RowRange, list_row_groups
from pipelines.stream import RequestDataset
from tests.ranks import run_on_ranks
from tests.split_files import (
    ROWS,
    User,
    draw_users,
    expected_requests,
    flat_batch,
    requests_of,
    sorted_requests,
    stream_config,
    write_users,
)

EPOCHS = 2


def users_of(world: int) -> list[User]:
    """Four users a rank: the first rank's want nothing, the last rank's most."""
    quiet = [User(number, [1], [1], []) for number in range(1000, 1004)]
    light = [user for user in draw_users(200, seed=2) if len(user.requests) == 1]
    heavy = [user for user in draw_users(200, seed=3) if len(user.requests) == 4]
    return [*quiet, *light[: 4 * (world - 2)], *heavy[:4]]


def open_stream(
    groups: list[RowRange], rank: int, world: int, group: dist.ProcessGroup | None = None
) -> BatchStream:
    # In the order of the files, so that the shares stay as unequal as these are.
    rows = {**ROWS, "interval": 9}
    config = stream_config(batch_size=6, shuffle_requests=0, rows=rows)
    dataset = RequestDataset(groups, config, rank=rank, world=world)
    group = group or dist.group.WORLD
    return BatchStream(dataset, workers=0, epochs=EPOCHS, group=group, pin_memory=False)


def gather(mine: Any, world: int) -> list[Any]:
    every: list[Any] = [None] * world
    dist.all_gather_object(every, mine)
    return every


def check_stream(folder: str, world: int, rank: int) -> None:
    groups = list_row_groups(folder, "user")
    stream = open_stream(groups, rank, world)
    batches, places, imbalances = [], [], []
    for batch in stream:
        batches.append(batch)
        imbalances.append(stream.imbalance_of(stream.batches))
        places.append(json.loads(json.dumps(stream.place_after(stream.batches))))

    counts = gather(len(batches), world)
    assert len(set(counts)) == 1, counts
    own = gather([float(batch.weight.sum()) for batch in batches], world)
    totals = gather([float(batch.total_weight) for batch in batches], world)
    assert totals == [[sum(step) for step in zip(*own, strict=True)]] * world
    assert min(totals[0]) > 0
    keys = {key for batch in batches for key in batch.features.keys()}  # noqa: SIM118
    assert {"history_interval", "target_interval"} < keys
    assert all(set(batch.features.keys()) == keys for batch in batches), "padding has all keys"
    assert own[0] == [0.0] * len(batches)
    assert all(batch.num_behaviours == 0 for batch in batches if not batch.weight.any())
    if world > 2:
        assert 0.0 in own[1], "rank 1 has little data and pads while the last rank reads on"

    users = users_of(world)
    half = [sum(place["epoch"] == epoch for place in places) for epoch in range(EPOCHS)]
    for first, last in ((0, half[0]), (half[0], sum(half))):
        seen = gather(requests_of(batches[first:last]), world)
        every = [request for part in seen for request in part]
        assert sorted_requests(every) == sorted_requests(expected_requests(users, 5))
    assert stream.samples == sum(totals[0])
    work = zip(*gather([batch.num_behaviours for batch in batches], world), strict=True)
    expected = [max(step) * world / sum(step) if any(step) else 1.0 for step in work]
    assert imbalances == pytest.approx(expected)

    whole = [flat_batch(batch) for batch in batches]
    for given in range(1, len(whole) + 1):
        resumed = open_stream(groups, rank, world)
        resumed.restore(places[given - 1])
        assert [flat_batch(batch) for batch in resumed] == whole[given:], given
        assert resumed.samples == stream.samples


def check_resizing(groups: list[RowRange], rank: int) -> None:
    """An epoch begun by 4 ranks, gone on with by 2, 3 and 1 of them; then a whole epoch."""
    seen: list[Any] = []
    place: dict[str, Any] | None = None
    samples = []
    for world, steps in ((4, 2), (2, 2), (3, 1), (1, 10**6)):
        group = dist.new_group(list(range(world)), backend="gloo")
        if rank < world:
            stream = open_stream(groups, rank, world, group)
            if place is not None:
                stream.restore(place)
            seen += requests_of(islice(stream, steps))
            place = json.loads(json.dumps(stream.place_after(stream.batches)))
            samples.append(stream.samples)
        box = [place]
        dist.broadcast_object_list(box, src=0)
        place = box[0]
    assert place is not None
    assert place["epoch"] == EPOCHS - 1
    every = [request for part in gather(seen, 4) for request in part]
    users = users_of(4)
    assert sorted_requests(every) == sorted_requests(expected_requests([*users, *users], 5))
    if rank == 0:
        assert samples[-1] == sum(len(request[3]) for request in every)
        assert samples == sorted(samples)


def check_all(folder: str, world: int, rank: int) -> None:
    check_stream(folder, world, rank)
    if world == 4:
        check_resizing(list_row_groups(folder, "user"), rank)


@pytest.mark.dist
@pytest.mark.parametrize("world", [2, 4])
def test_unequal_ranks_stay_in_step_and_resume_after_any_batch_with_as_many_or_others(
    tmp_path: Path, world: int
) -> None:
    write_users(tmp_path / "a.parquet", users_of(world))
    run_on_ranks(world, functools.partial(check_all, str(tmp_path), world))
