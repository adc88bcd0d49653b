"""Ranks agree on a batch while the one before it is trained."""

from types import SimpleNamespace
from unittest import mock

import torch

from pipelines.vote import Vote


class _LateSum:
    """A sum over ranks that arrives when it is waited for: rank 0 has 4 targets of 6 behaviours."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers, self.waited = numbers, False

    def wait(self) -> None:
        self.waited = True
        self.numbers += torch.tensor([1.0, 4.0, 0.0, 6.0, 0.0])


def test_a_vote_is_begun_when_a_batch_is_read_and_waited_for_when_it_is_needed() -> None:
    group = SimpleNamespace(rank=lambda: 1, size=lambda: 2)
    begun = []

    def all_reduce(numbers, *, group, async_op):
        assert async_op, "training goes on meanwhile"
        begun.append((group, _LateSum(numbers)))
        return begun[-1][1]

    with mock.patch("pipelines.vote.dist.all_reduce", all_reduce):
        batch = SimpleNamespace(total_weight=torch.tensor(3.0), num_behaviours=2)
        vote = Vote(batch, (), 0, group, stop=True)
        ((among, late),) = begun
        assert among is group, "not the group of training"
        assert not late.waited
        result = vote.wait()
    assert (result.readers, result.weight, result.stop) == (2, 7.0, True)
    assert result.imbalance == 6 / 4


def test_alone_there_is_nobody_to_ask() -> None:
    with mock.patch("pipelines.vote.dist.all_reduce", side_effect=AssertionError):
        result = Vote(None, (), 0, None, stop=False).wait()
    assert (result.readers, result.weight, result.stop, result.imbalance) == (0, 0.0, False, 1.0)
