"""Schedules by hand, and that rates and clipping reach what they are for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torchrec.distributed.model_parallel import DistributedModelParallel

from modules.model_config import RankerConfig
from tests import small
from tests.dense_adam import WAYS, check_equal, train_dense, train_sharded
from trainer.distributed import RunContext, run_context
from trainer.optim import (
    DenseOptimizerConfig,
    OptimConfig,
    ScheduleConfig,
    SparseOptimizer,
    SparseOptimizerConfig,
    make_optimizers,
)
from trainer.planner.job import make_plan
from trainer.sharding import ShardingConfig, set_optimizer_step, shard, table_kernels


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ScheduleConfig(), [1, 1, 1, 1, 1, 1, 1]),
        (ScheduleConfig(warmup_steps=4), [0.25, 0.5, 0.75, 1, 1, 1, 1]),
        (ScheduleConfig(decay="linear", decay_steps=4), [1, 0.75, 0.5, 0.25, 0, 0, 0]),
        (
            ScheduleConfig(warmup_steps=2, decay="linear", decay_steps=2, final_factor=0.5),
            [0.5, 1, 1, 0.75, 0.5, 0.5, 0.5],
        ),
        (
            ScheduleConfig(decay="cosine", decay_steps=4, final_factor=0.2),
            [1, 0.2 + 0.8 * (2 + 2**0.5) / 4, 0.6, 0.2 + 0.8 * (2 - 2**0.5) / 4, 0.2, 0.2, 0.2],
        ),
    ],
)
def test_the_factor_follows_the_schedule(schedule: ScheduleConfig, expected: list[float]) -> None:
    assert [schedule.factor(step) for step in range(7)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"decay": "cosine"}, "decay is cosine, decay_steps 0"),
        ({"final_factor": 1.5}, "final_factor is 1.5"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_an_error(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**options)


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        (
            DenseOptimizerConfig,
            {"weight_decay": 0.1},
            r"optim\.dense\.weight_decay is 0\.1, which optim\.dense\.name adam does not use; "
            r"leave it at 0\.0, or set name to adamw$",
        ),
        (
            DenseOptimizerConfig,
            {"name": "sgd", "beta1": 0.5},
            r"optim\.dense\.beta1 is 0\.5, .* leave it at 0\.9, or set name to adam or adamw$",
        ),
        (
            SparseOptimizerConfig,
            {"name": "rowwise_adagrad", "beta2": 0.9},
            r"optim\.sparse\.beta2 is 0\.9, .* leave it at 0\.999, or set name to adam or ",
        ),
        (
            SparseOptimizerConfig,
            {"name": "sgd", "eps": 1e-3},
            r"optim\.sparse\.eps is 0\.001, .* or set name to rowwise_adagrad or adam or ",
        ),
        (
            ScheduleConfig,
            {"decay_steps": 9},
            r"optim\.schedule\.decay_steps is 9, which optim\.schedule\.decay constant does not "
            r"use; leave it at 0, or set decay to linear or cosine$",
        ),
        (ScheduleConfig, {"final_factor": 0.1}, r"optim\.schedule\.final_factor is 0\.1, which "),
    ],
)
def test_a_value_that_nothing_would_use_is_refused(kind: Any, options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        kind(**options)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (DenseOptimizerConfig, get_args(get_type_hints(DenseOptimizerConfig)["name"])),
        (SparseOptimizerConfig, get_args(SparseOptimizer)),
    ],
)
def test_every_optimizer_takes_all_defaults_as_a_run_writes_them(kind: Any, names: Any) -> None:
    for name in names:
        written = dataclasses.asdict(kind()) | {"name": name}
        assert dataclasses.asdict(kind(**written)) == written


@pytest.fixture
def context() -> Iterator[RunContext]:
    with run_context() as found:
        yield found


def make_model(context: RunContext, sparse: SparseOptimizerConfig) -> DistributedModelParallel:
    task = small.make_task(RankerConfig(embeddings=small.DARE), l2=0.0)
    features = ("history_item", "history_category", "target_item", "target_category")
    plan = make_plan(
        task,
        context,
        ShardingConfig(),
        fused_params=sparse.fused_params(),
        pooling=dict.fromkeys(features, 4.0),
        batch_size=10,
    )
    return shard(task, context, plan, fused_params=sparse.fused_params())


def tables(model: DistributedModelParallel) -> dict[str, torch.Tensor]:
    return {
        name: value.local_shards()[0].tensor.clone()
        for name, value in model.state_dict().items()
        if "embeddings" in name
    }


@pytest.mark.parametrize(
    "name", ["sgd", "rowwise_adagrad", "adam", "dense_adam", "partial_rowwise_adam"]
)
def test_rates_reach_the_fused_kernels_and_the_dense_optimizer(name, context: RunContext) -> None:
    config = OptimConfig(
        sparse=SparseOptimizerConfig(name=name, learning_rate=0.4),
        dense=DenseOptimizerConfig(learning_rate=0.2),
        schedule=ScheduleConfig(warmup_steps=4),
    )
    model = make_model(context, config.sparse)
    optimizers = make_optimizers(model, config)
    assert optimizers.set_learning_rates(1) == pytest.approx({"sparse": 0.2, "dense": 0.1})
    optimizers.combined.zero_grad()
    rates = [kernel.get_learning_rate() for kernel in table_kernels(model)]
    assert len(rates) == 3
    assert rates == pytest.approx([0.2] * 3)
    assert [group["lr"] for group in optimizers.dense.param_groups] == pytest.approx([0.1])


def test_a_resumed_step_number_reaches_every_table(context: RunContext, tmp_path: Path) -> None:
    """Adam corrects its moments by it: a first step from 0 moves each number by the rate."""
    sparse = SparseOptimizerConfig(name="adam", learning_rate=0.1, eps=1e-12)
    batch = small.read(small.users(), "user", tmp_path)
    moves = {}
    for step in (0, 9):
        model = make_model(context, sparse)
        before = tables(model)
        set_optimizer_step(model, step)
        model(batch)[0].backward()
        assert [int(kernel.iter) for kernel in table_kernels(model)] == [step + 1] * 3
        moves[step] = {name: (table - before[name]).abs() for name, table in tables(model).items()}
    # After n steps m = 0.1 g and v = 0.001 g^2 are divided by 1 - 0.9^n and 1 - 0.999^n.
    late = 0.1 * (0.1 / (1 - 0.9**10)) / (0.001 / (1 - 0.999**10)) ** 0.5
    for name, first in moves[0].items():
        assert first.max().item() == pytest.approx(0.1, rel=1e-3)
        assert moves[9][name].max().item() == pytest.approx(late, rel=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_dense_adam_is_torchs_adam_however_tables_are_read(context: RunContext, way: str) -> None:
    """All values start alike and end alike after 20 steps, in all of which some rows are absent."""
    trained = train_sharded(way, context)
    check_equal(trained, train_dense(way, trained.start))


def test_dense_adam_is_refused_where_fbgemm_would_step() -> None:
    SparseOptimizerConfig(name="dense_adam").check_device("cpu")
    SparseOptimizerConfig(name="adam").check_device("cuda")
    with pytest.raises(ValueError, match=r"dense_adam, the device is cuda.*use adam, or train on"):
        SparseOptimizerConfig(name="dense_adam").check_device("cuda")


def test_a_rate_of_zero_moves_nothing_and_a_rate_moves_everything_dense(
    context: RunContext, tmp_path: Path
) -> None:
    config = OptimConfig(
        sparse=SparseOptimizerConfig(name="sgd", learning_rate=1.0),
        dense=DenseOptimizerConfig(name="sgd", learning_rate=1.0),
        schedule=ScheduleConfig(decay="linear", decay_steps=2),
    )
    model = make_model(context, config.sparse)
    optimizers = make_optimizers(model, config)
    batch = small.read(small.users(), "user", tmp_path)
    for step, moves in ((2, False), (1, True)):
        before = tables(model)
        dense = {name: value.detach().clone() for name, value in model.named_parameters()}
        optimizers.set_learning_rates(step)
        optimizers.combined.zero_grad()
        model(batch)[0].backward()
        optimizers.combined.step()
        for name, table in tables(model).items():
            assert torch.equal(table, before[name]) is not moves, name
        for name, value in model.named_parameters():
            if "interaction" in name:
                assert torch.equal(value, dense[name]) is not moves, name


def test_dense_gradients_are_clipped_together(context: RunContext, tmp_path: Path) -> None:
    batch = small.read(small.users(), "user", tmp_path)
    steps = {}
    for clip_norm in (0.0, 0.01, 1e6):
        config = OptimConfig(
            sparse=SparseOptimizerConfig(name="sgd", learning_rate=0.0),
            dense=DenseOptimizerConfig(name="sgd", learning_rate=1.0, clip_norm=clip_norm),
        )
        model = make_model(context, config.sparse)
        optimizers = make_optimizers(model, config)
        dense = [value for name, value in model.named_parameters() if "interaction" in name]
        before = [value.detach().clone() for value in dense]
        optimizers.combined.zero_grad()
        model(batch)[0].backward()
        optimizers.combined.step()
        moved = [old - new.detach() for old, new in zip(before, dense, strict=True)]
        steps[clip_norm] = torch.cat([part.flatten() for part in moved])
    full, clipped = steps[0.0], steps[0.01]
    assert full.norm() > 0.1
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(clipped, full * (0.01 / full.norm()), rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(steps[1e6], full)
