import functools

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.ranks import run_on_ranks
from trainer.metrics import METRICS, SplitMetrics

ROWS = 997


def split_rows() -> tuple[torch.Tensor, ...]:
    random = np.random.default_rng(3)
    user = random.integers(0, 60, ROWS)
    logit = random.normal(size=ROWS).round(1)
    label = random.random(ROWS) < 1 / (1 + np.exp(-logit))
    weight = random.integers(0, 3, ROWS)
    return (
        torch.tensor(logit, dtype=torch.float32),
        torch.tensor(label, dtype=torch.float32),
        torch.tensor(weight, dtype=torch.float32),
        torch.tensor(user),
    )


def single_process() -> SplitMetrics:
    metrics = SplitMetrics()
    metrics.update(*split_rows())
    return metrics


def check_against_single_process(world: int, rank: int) -> None:
    alone = single_process()
    expected = alone.compute()
    # Unequal shares: rank 0 has few rows, the last but one nothing, the last the rest.
    shares = {
        1: [ROWS],
        2: [10, ROWS - 10],
        4: [10, 300, 0, ROWS - 310],
    }[world]
    start = sum(shares[:rank])
    metrics = SplitMetrics()
    if shares[rank]:
        metrics.update(*(column[start : start + shares[rank]] for column in split_rows()))
    found = metrics.compute(dist.group.WORLD)
    assert list(found) == list(METRICS)
    for name in METRICS:
        assert found[name] == pytest.approx(expected[name], rel=1e-12), name
    if rank == 0:
        assert metrics.calibration_curve() == alone.calibration_curve()
    else:
        with pytest.raises(RuntimeError, match="rank 0"):
            metrics.calibration_curve()

    nothing = SplitMetrics().compute(dist.group.WORLD)
    assert nothing["samples"] == 0
    assert np.isnan(nothing["auc"])

    if world == 4:
        # A group that does not start at rank 0: its own first rank gathers.
        group = dist.new_group([1, 3])
        if rank in (1, 3):
            half = SplitMetrics()
            half.update(*(column[rank // 2 :: 2] for column in split_rows()))
            assert half.compute(group)["auc"] == pytest.approx(expected["auc"], rel=1e-12)


@pytest.mark.dist
@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_rank_returns_what_one_process_returns(world: int) -> None:
    run_on_ranks(world, functools.partial(check_against_single_process, world))


def a_rank_raises(rank: int) -> None:
    if rank == 1:
        raise ValueError("number 17")


@pytest.mark.dist
def test_a_failing_rank_fails_the_test_with_its_traceback() -> None:
    with pytest.raises(Exception, match=r"a_rank_raises(.|\n)*number 17"):
        run_on_ranks(2, a_rank_raises)
