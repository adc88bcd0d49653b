import json
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from pipelines.batch import Batch
from pipelines.ids import hash_ids
from pipelines.loader import DataConfig, Split, count_collisions, make_dataset
from pipelines.lockstep import BatchStream
from pipelines.prepare.writer import DatasetWriter, user_table
from pipelines.row_groups import list_row_groups
from pipelines.schema import DatasetSchema, Layout
from pipelines.stream import RequestDataset
from pipelines.vote import Vote
from tests.split_files import (
    ROWS,
    User,
    batches_of,
    draw_users,
    expected_requests,
    flat_batch,
    flat_batches,
    requests_of,
    sorted_requests,
    stream_config,
    write_users,
)

USERS = draw_users(40)
EPOCHS = 3


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("split")
    write_users(folder / "a.parquet", USERS[:25])
    write_users(folder / "b.parquet", USERS[25:], rows_per_group=7)
    return str(folder)


def open_stream(
    split: str, *, workers: int = 0, epochs: int = EPOCHS, **options: Any
) -> BatchStream:
    config = stream_config(**options)
    groups = list_row_groups(split, config.layout)
    dataset = RequestDataset(groups, config, rank=0, world=1)
    return BatchStream(dataset, workers=workers, epochs=epochs, group=None, pin_memory=False)


def through_json(place: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint keeps it."""
    loaded: dict[str, Any] = json.loads(json.dumps(place))
    return loaded


def with_places(stream: BatchStream) -> tuple[list[Batch], list[dict[str, Any]]]:
    batches, places = [], []
    for batch in stream:
        batches.append(batch)
        places.append(through_json(stream.place_after(stream.batches)))
    return batches, places


@pytest.mark.parametrize("shuffle", [0, 20, 1000])
def test_both_layouts_give_the_same_requests(tmp_path: Path, shuffle: int) -> None:
    read = {}
    for layout in ("user", "request"):
        path = write_users(tmp_path / f"{layout}.parquet", USERS, layout=layout)
        stream = open_stream(path, epochs=1, layout=layout, shuffle_requests=shuffle)
        read[layout] = sorted_requests(requests_of(stream))
    assert read["user"] == read["request"] == expected_requests(USERS, 5)


def test_both_layouts_give_the_same_batches_in_the_order_of_the_files(tmp_path: Path) -> None:
    batches = [
        flat_batches(
            open_stream(
                write_users(tmp_path / f"{layout}.parquet", USERS, layout=layout),
                epochs=1,
                layout=layout,
                shuffle_requests=0,
            )
        )
        for layout in ("user", "request")
    ]
    assert batches[0] == batches[1]
    assert len(batches[0]) > 5


def test_every_batch_knows_its_weight_and_the_stream_adds_them_up(split: str) -> None:
    stream = open_stream(split)
    targets = sum(len(request.item) for user in USERS for request in user.requests)
    for batch in stream:
        assert float(batch.total_weight) == len(batch.label) == float(batch.weight.sum())
    assert stream.samples == EPOCHS * targets
    assert stream.epoch == EPOCHS


def test_after_any_batch_a_fresh_stream_gives_exactly_the_remaining_batches(split: str) -> None:
    batches, places = with_places(open_stream(split))
    whole = [flat_batch(batch) for batch in batches]
    assert len(whole) > 12
    for given, place in enumerate(places, start=1):
        stream = open_stream(split)
        stream.restore(place)
        assert flat_batches(stream) == whole[given:], given
        assert stream.batches == len(whole)
        assert stream.samples == sum(batch.label.numel() for batch in batches)


def test_two_resumes_in_a_row_lose_and_repeat_nothing(split: str) -> None:
    whole = flat_batches(open_stream(split))
    for first, second in ((1, 1), (3, 9), (len(whole) // EPOCHS, len(whole) // EPOCHS)):
        given: list[Any] = []
        place = None
        for some in (first, second, len(whole)):
            stream = open_stream(split)
            if place is not None:
                stream.restore(place)
            given += [flat_batch(batch) for _, batch in zip(range(some), stream, strict=False)]
            place = through_json(stream.place_after(min(len(given), len(whole))))
        assert given == whole


def test_a_resume_at_the_last_batch_goes_on_when_more_epochs_are_asked_for(split: str) -> None:
    whole = flat_batches(open_stream(split, epochs=3))
    for epochs in (1, 2):
        stream = open_stream(split, epochs=epochs)
        given = flat_batches(stream)
        place = through_json(stream.place_after(stream.batches))
        for more, expected in ((epochs, []), (3, whole[len(given) :])):
            resumed = open_stream(split, epochs=more)
            resumed.restore(place)
            assert flat_batches(resumed) == expected


def test_workers_read_every_request_once_an_epoch_and_resume_after_any_batch(
    tmp_path: Path,
) -> None:
    users = draw_users(9, seed=4)
    path = write_users(tmp_path / "a.parquet", users, rows_per_group=1)
    batches, places = with_places(open_stream(path, workers=2, epochs=2, batch_size=4))
    whole = [flat_batch(batch) for batch in batches]
    assert sorted_requests(requests_of(batches)) == sorted_requests(
        expected_requests([*users, *users], 5)
    )
    of_first_epoch = [place["epoch"] for place in places].index(1)
    for given in (2, of_first_epoch - 1, of_first_epoch):
        stream = open_stream(path, workers=2, epochs=2, batch_size=4)
        stream.restore(places[given - 1])
        assert flat_batches(stream) == whole[given:], given


def test_another_number_of_workers_reads_what_is_left_once(tmp_path: Path) -> None:
    """Two resumes within an epoch, and the epoch after them."""
    users = draw_users(30, seed=4)
    path = write_users(tmp_path / "a.parquet", users, rows_per_group=3)
    seen: list[Batch] = []
    place = None
    for workers, batches in ((2, 3), (0, 3), (2, 10**6)):
        stream = open_stream(path, workers=workers, epochs=2, batch_size=4)
        if place is not None:
            stream.restore(place)
        seen += islice(stream, batches)
        place = through_json(stream.place_after(stream.batches))
    assert sorted_requests(requests_of(seen)) == sorted_requests(
        expected_requests([*users, *users], 5)
    )
    assert stream.samples == sum(batch.label.numel() for batch in seen)


def test_a_place_is_small_and_does_not_grow_with_the_data(tmp_path: Path) -> None:
    sizes = []
    for count in (10, 400):
        path = write_users(tmp_path / f"{count}.parquet", draw_users(count), rows_per_group=50)
        stream = open_stream(path, epochs=1)
        batches, places = with_places(stream)
        assert len(batches) > 3
        sizes.append(len(json.dumps(places[len(places) // 2])))
    assert max(sizes) < 1000
    assert abs(sizes[1] - sizes[0]) < 20


def test_the_next_batch_is_voted_on_before_one_is_handed_out(split: str) -> None:
    stream = open_stream(split, epochs=1)
    with mock.patch("pipelines.lockstep.Vote", wraps=Vote) as votes:
        for handed_out, _ in enumerate(islice(stream, 3), start=1):
            assert votes.call_count == handed_out + 1


def test_a_place_stays_known_while_a_pipeline_reads_ahead(split: str) -> None:
    stream = open_stream(split)
    whole = [flat_batch(next(stream)) for _ in range(12)]
    resumed = open_stream(split)
    resumed.restore(stream.place_after(7))
    assert [flat_batch(next(resumed)) for _ in range(5)] == whole[7:]
    assert resumed.place_after(7) == stream.place_after(7)


def test_a_resume_with_another_order_of_requests_is_refused_by_name(split: str) -> None:
    stream = open_stream(split)
    next(stream)
    place = through_json(stream.place_after(1))
    with pytest.raises(ValueError, match="seed is 2, the checkpoint was written with 1"):
        open_stream(split, seed=2).restore(place)
    with pytest.raises(ValueError, match=r"data\.shuffle_requests is 3, .* written with 20"):
        open_stream(split, shuffle_requests=3).restore(place)
    with pytest.raises(ValueError, match=r"data\.epoch_order is same, .* written with new"):
        open_stream(split, epoch_order="same").restore(place)
    with pytest.raises(ValueError, match=r"data\.targets is apart, .* written with together"):
        open_stream(split, targets="apart").restore(place)
    with pytest.raises(ValueError, match=r"number of row groups is 7, .* written with 10"):
        open_stream(f"{split}/a.parquet").restore(place)


def test_a_place_of_before_there_was_a_choice_is_gone_on_from(split: str) -> None:
    stream = open_stream(split)
    first = flat_batch(next(stream))
    place = through_json(stream.place_after(1))
    del place["order"]["data.epoch_order"], place["order"]["data.targets"]
    resumed = open_stream(split)
    resumed.restore(place)
    assert [first, *flat_batches(resumed)] == flat_batches(open_stream(split))


def test_resuming_a_later_epoch_of_the_same_order_goes_on_in_it(split: str) -> None:
    batches, places = with_places(open_stream(split, epoch_order="same"))
    stream = open_stream(split, epoch_order="same")
    given = len(batches) * 2 // 3 - 1
    stream.restore(places[given - 1])
    assert flat_batches(stream) == [flat_batch(batch) for batch in batches[given:]]


def test_an_empty_split_ends_at_once(tmp_path: Path) -> None:
    path = write_users(tmp_path / "a.parquet", [User(1, [], [], [])])
    stream = open_stream(path)
    assert list(stream) == []
    assert (stream.epoch, stream.batches, stream.samples) == (EPOCHS, 0, 0)


def dataset_on_disk(folder: Path, layout: Layout) -> DatasetSchema:
    """A user with a life of 1 2 3 in every split; requests after 0 and 3 behaviours."""
    writer = DatasetWriter(str(folder), layout=layout)
    for split in ("train", "val"):
        table = user_table(
            np.array([5]),
            {name: np.array([1, 2, 3]) for name in ("item", "category", "timestamp")},
            np.array([0, 3]),
            {"history_end": np.array([0, 3]), "timestamp": np.array([1, 4])},
            np.array([0, 2]),
            {"item": np.array([4, 9]), "category": np.array([1, 1]), "label": np.array([0, 1])},
            np.array([0, 1, 2]),
        )
        writer.add(split, table)
    return writer.close(source="test", seed=1, protocol={}, distinct={"item": 5, "category": 3})


def config_of(folder: Path, **options: Any) -> DataConfig:
    splits = {name: str(folder / name) for name in ("train", "val", "test")}
    return DataConfig(**splits, **options)


@pytest.mark.parametrize("layout", ["user", "request"])
def test_a_written_dataset_is_read_back_split_by_split(tmp_path: Path, layout: Layout) -> None:
    schema = dataset_on_disk(tmp_path, layout)
    config = config_of(tmp_path, layout=layout, history_length=2)
    expected = [(5, (), (), (4,), (0.0,)), (5, (3, 2), (3, 2), (9,), (1.0,))]
    for split, found in (("train", expected), ("val", expected), ("test", [])):
        name: Split = split
        dataset = make_dataset(config, name, schema, seed=1, rank=0, world=1)
        assert sorted_requests(requests_of(batches_of(dataset))) == found
        assert (dataset.config.shuffle_requests > 0) == (split == "train")


def test_a_split_that_is_not_there_is_named_by_its_field(tmp_path: Path) -> None:
    schema = dataset_on_disk(tmp_path, "user")
    config = DataConfig(val=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"data\.val: .*nowhere: no \.parquet file is there"):
        make_dataset(config, "val", schema, seed=1, rank=0, world=1)


@pytest.mark.parametrize("layout", ["user", "request"])
def test_collisions_are_those_a_dict_of_rows_counts(tmp_path: Path, layout: Layout) -> None:
    path = write_users(tmp_path / "a.parquet", USERS, layout=layout)
    rows = {"item": 97, "category": 60}
    config = stream_config(layout=layout, rows=rows)
    dataset = RequestDataset(list_row_groups(path, layout), config, rank=0, world=1)
    found = count_collisions(dataset)
    for name in ROWS:
        ids: set[int] = set()
        for user in USERS:
            for request in user.requests:
                stored = getattr(user, name)
                ids |= set(getattr(request, name)) | set(stored[: request.history_end])
            ids |= set(getattr(user, name)) if layout == "user" else set()
        owners: dict[int, list[int]] = {}
        for value in ids:
            (row,) = hash_ids(np.array([value]), rows[name])
            owners.setdefault(int(row), []).append(value)
        sharing = sum(len(values) for values in owners.values() if len(values) > 1)
        assert found[name] == (len(ids), sharing)
        assert sharing > 0


def test_nothing_collides_in_an_empty_split(tmp_path: Path) -> None:
    path = write_users(tmp_path / "a.parquet", [])
    config = stream_config(rows={"item": 5, "category": 5})
    dataset = RequestDataset(list_row_groups(path, "user"), config, rank=0, world=1)
    assert count_collisions(dataset) == {"item": (0, 0), "category": (0, 0)}
