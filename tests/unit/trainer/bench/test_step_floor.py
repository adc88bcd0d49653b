"""The floor of a step is arithmetic."""

import pytest
import torch

from trainer.bench.setting import CATEGORIES, DataShape, TrainSetting
from trainer.bench.step_floor import distinct, gather_speed, state_numbers, step_floor

TINY = {"data": DataShape(items=1, history_length=5, targets=2), "top_k": 3, "batch_size": 4}


def test_a_batch_names_as_many_rows_as_uniform_ids_do_on_average():
    assert distinct(3, 1) == 1.0
    assert distinct(1, 100) == pytest.approx(1.0)
    assert distinct(2, 4) == pytest.approx(1.75)  # Alike once in four times.
    drawn = torch.randint(1_000, (400, 700), generator=torch.Generator().manual_seed(1))
    found = sum(one.unique().numel() for one in drawn) / len(drawn)
    assert distinct(700, 1_000) == pytest.approx(found, rel=0.005)
    assert distinct(1_000, 1_000_000_000) == pytest.approx(1_000, rel=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [("sgd", 0), ("rowwise_adagrad", 1), ("partial_rowwise_adam", 17), ("adam", 32)],
)
def test_bytes_of_a_step_are_rows_and_state_and_ids(optimizer, numbers):
    # 2 requests, 10 behaviours, 4 targets. The item tables have one row.
    floor = step_floor(TrainSetting(**TINY, sparse_optimizer=optimizer))
    assert state_numbers(optimizer, 16) == numbers
    rows = 2 * (1 + distinct(14, CATEGORIES))
    assert floor.read_bytes == round(rows * 64)
    assert floor.update_bytes == round(rows * 2 * (64 + 4 * numbers))
    assert floor.id_bytes == 14 * 2 * 8
    # Item, category and position of 10 behaviours, and the gradient of each.
    assert floor.held_bytes == 2 * (1 + CATEGORIES) * (64 + 4 * numbers) + 2 * 10 * 48 * 4
    assert floor.moved_bytes == floor.read_bytes + floor.update_bytes + floor.id_bytes


def test_without_the_auxiliary_loss_the_representation_is_read_where_it_is_kept():
    floor = step_floor(TrainSetting(**TINY, auxiliary=False))
    # 4 targets keep 3 behaviours each.
    rows = 2 + distinct(14, CATEGORIES) + distinct(16, CATEGORIES)
    assert floor.read_bytes == round(rows * 64)


@pytest.mark.parametrize("other", [{"preset": "twin"}, {"sparse_optimizer": "dense_adam"}])
def test_no_floor_is_made_up_where_none_is_known(other):
    with pytest.raises(ValueError, match="is not known"):
        step_floor(TrainSetting(**TINY, **other))


def test_gathering_is_counted_as_bytes_read_and_written(monkeypatch):
    monkeypatch.setattr("trainer.bench.step_floor.seconds_a_call", lambda *_: 0.5)
    assert gather_speed(100, 16, torch.device("cpu")) == 2 * (1 << 17) * 64 / 0.5
