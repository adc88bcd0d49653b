import dataclasses

import numpy as np
import pytest
import torch

from pipelines.batch import Batch, collate, padding_batch
from pipelines.interval import Clock
from pipelines.requests import Requests

KEYS = ["history_item", "history_category", "target_item", "target_category"]


def two_lives() -> Requests:
    """A life 11 12 13 with a request after 2 and one after 3, and one without behaviours."""
    return Requests(
        history={"item": np.array([11, 12, 13]), "category": np.array([1, 2, 3])},
        start=np.array([0, 1, 3]),
        end=np.array([2, 3, 3]),
        user=np.array([7, 7, 8]),
        target_offset=np.array([0, 1, 3, 4]),
        target={"item": np.array([21, 22, 23, 24]), "category": np.array([4, 5, 6, 7])},
        label=np.array([1, 0, 1, 0], np.float32),
    )


def values(batch: Batch, key: str) -> list[list[int]]:
    jagged = batch.features[key]
    return [part.tolist() for part in jagged.values().split(jagged.lengths().tolist())]


def test_column_0_of_a_history_is_its_newest_behaviour() -> None:
    batch = collate([(two_lives(), np.array([0, 1, 2]))])
    assert values(batch, "history_item") == [[12, 11], [13, 12], []]
    assert values(batch, "history_category") == [[2, 1], [3, 2], []]


def test_a_batch_follows_the_chosen_order_and_its_targets_stay_with_their_request() -> None:
    batch = collate([(two_lives(), np.array([2, 1])), (two_lives(), np.array([0]))])
    assert values(batch, "target_item") == [[24], [22, 23], [21]]
    assert values(batch, "target_category") == [[7], [5, 6], [4]]
    assert batch.label.tolist() == [0, 0, 1, 1]
    assert batch.user.tolist() == [8, 7, 7, 7]
    assert batch.features.stride() == 3
    assert batch.features.keys() == KEYS


def test_targets_apart_each_have_the_history_the_user_and_the_moment_of_their_request() -> None:
    clock = Clock(behaviour=np.array([5, 9, 9]), request=np.array([9, 10, 0]), unit=1, buckets=9)
    apart = dataclasses.replace(two_lives(), clock=clock).with_targets_apart()
    batch = collate([(apart, np.arange(len(apart)))])
    assert values(batch, "target_item") == [[21], [22], [23], [24]]
    assert values(batch, "history_item") == [[12, 11], [13, 12], [13, 12], []]
    # 9 before 9 and 5 before 9, then 9 and 9 before 10.
    assert values(batch, "history_interval") == [[1, 4], [2, 2], [2, 2], []]
    assert batch.label.tolist() == [1, 0, 1, 0]
    assert batch.user.tolist() == [7, 7, 7, 8]


def test_sizes_and_weights_are_those_of_the_requests() -> None:
    batch = collate([(two_lives(), np.array([0, 1, 2]))])
    assert (batch.num_history, batch.num_targets, batch.num_behaviours) == (2, 2, 4)
    assert batch.weight.tolist() == [1, 1, 1, 1]
    assert float(batch.total_weight) == 4


def test_a_batch_of_empty_histories_has_one_column_for_them() -> None:
    batch = collate([(two_lives(), np.array([2]))])
    assert (batch.num_history, batch.num_behaviours) == (1, 0)
    assert values(batch, "history_item") == [[]]


def test_a_padding_batch_has_a_target_that_weighs_nothing() -> None:
    batch = padding_batch()
    assert batch.weight.tolist() == [0]
    assert float(batch.total_weight) == 0
    assert values(batch, "history_item") == [[]]
    assert values(batch, "target_item") == [[0]]
    assert (batch.num_history, batch.num_targets, batch.num_behaviours) == (1, 1, 0)
    assert batch.user.tolist() == [-1]


def test_requests_without_targets_are_left_out_and_the_others_keep_theirs() -> None:
    requests = dataclasses.replace(
        two_lives(), target_offset=np.array([0, 0, 4, 4]), user=np.array([6, 7, 8])
    ).with_targets()
    assert len(requests) == 1
    batch = collate([(requests, np.array([0]))])
    assert values(batch, "target_item") == [[21, 22, 23, 24]]
    assert values(batch, "history_item") == [[13, 12]]
    assert batch.user.tolist() == [7, 7, 7, 7]


def test_moving_a_batch_moves_every_tensor_and_keeps_the_sizes() -> None:
    batch = collate([(two_lives(), np.array([0, 1]))])
    moved = batch.to(torch.device("meta"))
    for part in dataclasses.fields(Batch):
        value = getattr(moved, part.name)
        if isinstance(value, int):
            assert value == getattr(batch, part.name)
        else:
            assert value.device().type == "meta" if part.name == "features" else value.is_meta
    assert batch.features.values().device.type == "cpu"


def test_a_moved_batch_knows_where_each_key_starts_without_asking_the_device() -> None:
    batch = collate([(two_lives(), np.array([0, 1]))])
    sums = ([4, 4, 3, 3], [0, 4, 8, 11, 14])
    for kept in (batch, batch.to(torch.device("cpu")), batch.to(torch.device("meta"))):
        assert (kept.features._length_per_key, kept.features._offset_per_key) == sums
    assert padding_batch().features._offset_per_key == [0, 0, 0, 1, 2]


@pytest.mark.gpu
def test_a_pinned_batch_arrives_whole_on_the_gpu() -> None:
    batch = collate([(two_lives(), np.array([0, 1, 2]))]).pin_memory()
    assert batch.features.values().is_pinned()
    assert batch.label.is_pinned()
    moved = batch.to(torch.device("cuda"), non_blocking=True)
    assert batch.features._offset_per_key == moved.features._offset_per_key == [0, 4, 8, 12, 16]
    moved.record_stream(torch.cuda.current_stream())
    torch.cuda.synchronize()
    assert values(moved, "history_item") == [[12, 11], [13, 12], []]
    assert moved.label.tolist() == [1, 0, 1, 0]
