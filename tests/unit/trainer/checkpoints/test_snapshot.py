"""Random generators go on where they were; a rank that was not there keeps its own."""

import torch

from trainer.checkpoints.snapshot import (
    copy_snapshot,
    set_generators,
    without_absent_generators,
)
from trainer.distributed import RunContext


def context_of(rank: int) -> RunContext:
    return RunContext(rank, 4, rank, 4, torch.device("cpu"), None)


def test_a_generator_goes_on_where_the_snapshot_was_taken() -> None:
    taken = {"generator_cpu_00002": torch.get_rng_state()}
    expected = torch.rand(3)
    torch.rand(5)
    set_generators(taken, context_of(2))
    assert torch.equal(torch.rand(3), expected)


def test_a_rank_that_the_checkpoint_does_not_know_keeps_its_generator() -> None:
    here = {"model": {}, "generator_cpu_00003": torch.get_rng_state()}
    names = {"model.weight", "generator_cpu_00000"}
    assert without_absent_generators(here, names) == {"model": {}}
    before = torch.get_rng_state()
    set_generators({"model": {}}, context_of(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_copy_does_not_follow_its_source() -> None:
    weight = torch.zeros(3)
    copied = copy_snapshot({"model": {"weight": weight}})
    weight += 1
    assert copied["model"]["weight"].tolist() == [0, 0, 0]
