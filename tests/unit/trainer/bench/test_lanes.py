"""Lanes are measured in turns, and compared turn by turn."""

from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from trainer.bench.lanes import Lane, measure_in_turn, open_lane
from trainer.bench.profile import covered, own_time
from trainer.bench.series import Series, ratio
from trainer.bench.setting import DataShape, Effort, TrainSetting
from trainer.bench.training import Measured

TINY = TrainSetting(
    data=DataShape(items=50, history_length=6), top_k=3, batch_size=9, preset="dare", width=8
)


class Scripted:
    """A lane whose steps take what is written down."""

    def __init__(self, name, seconds, log):
        self.name, self.seconds, self.log = name, iter(seconds), log

    def measure(self, steps):
        self.log.append(self.name)
        return Measured(next(self.seconds), 10 * steps, 0.25)

    steps_of = Lane.steps_of


def test_lanes_take_turns_and_each_takes_its_own_number_of_steps():
    log = []
    # Two steps of 0.5 s and of 2 s: four and one of them are 2 s.
    one = Scripted("one", [1.0, 2.0, 4.0], log)
    other = Scripted("other", [4.0, 2.0, 1.0], log)
    first, second = measure_in_turn([one, other], Effort(seconds=2.0, repeats=2), "test")
    assert log == ["one", "other", "one", "other", "one", "other"]
    assert (first.steps, second.steps) == (4, 1)
    assert first.rates == [20.0, 10.0]
    assert second.rates == [5.0, 10.0]
    assert first.step_s == 0.75
    assert ratio(first.rates, second.rates) == {"ratio": 2.5, "ratio_min": 1.0, "ratio_max": 4.0}


def test_figures_are_medians_with_the_least_and_the_most():
    # Of 2 steps: 30, 5 and 12 samples a second; a 10th, a half and a 4th of the time waited.
    repeats = [Measured(1.0, 30, 0.1), Measured(4.0, 20, 2.0), Measured(2.0, 24, 0.5)]
    assert Series(repeats, 2).figures() == {
        "samples_per_s": 12.0,
        "samples_per_s_min": 5.0,
        "samples_per_s_max": 30.0,
        "step_ms": 1000.0,
        "data_wait_share": 0.25,
        "steps": 2,
    }


def test_a_kernel_counts_once_beside_the_operator_and_the_range_that_started_it():
    def entry(device_type, named, cpu_us, device_us):
        return SimpleNamespace(
            device_type=device_type,
            is_user_annotation=named,
            self_cpu_time_total=cpu_us,
            self_device_time_total=device_us,
        )

    operator = entry(DeviceType.CPU, False, 3.0, 40.0)
    kernel = entry(DeviceType.CUDA, False, 0.0, 40.0)
    forward = entry(DeviceType.CUDA, True, 0.0, 50.0)
    of_gpu, here = (
        [own_time(one, torch.device(device)) for one in (operator, kernel, forward)]
        for device in ("cuda", "cpu")
    )
    assert of_gpu == [0.0, 40.0, 0.0]
    assert here == [3.0, 0.0, 0.0]


def test_time_that_spans_cover_together_counts_once():
    assert covered([]) == 0.0
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4.0


@pytest.mark.dist
def test_two_ranks_train_a_lane_and_tell_of_their_exchange():
    with open_lane(TINY, ranks=2) as lane:
        measured = lane.measure(3)
        assert measured.samples == 2 * 3 * 9
        assert measured.seconds > 0
        # Item and category, twice, of 8 numbers; rows are ids and one more.
        assert lane.ready.table_bytes == 2 * (51 + 9_408) * 8 * 4
        assert 0 < lane.ready.before_bytes < lane.ready.peak_bytes
        # At least the products of 18 behaviours with 3 targets, 24 numbers wide; also backward.
        assert lane.operations() > 3 * 2 * 3 * 18 * 24
        operators = {one.name: one for one in lane.profile(2)}
    assert 0 < operators["exchange"].share <= 1
    assert "aten::mm" in operators


def test_a_lane_that_fails_says_why():
    hopeless = TrainSetting(data=DataShape(items=9, history_length=6), top_k=3, width=7)
    told = r"(?s)a measured process failed:.*multiple of 4"
    with pytest.raises(RuntimeError, match=told), open_lane(hopeless):
        pass
