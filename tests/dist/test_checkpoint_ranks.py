"""What any number of ranks has saved, any other restores, whatever the plans of both."""

import functools
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed import comm
from torchrec.distributed.planner import enumerators

from pipelines.overlap import make_pipeline
from tests.ranks import COLLECTIVE_TIMEOUT_S, run_on_ranks
from tests.small_run import batches, small_config, small_schema
from trainer.build import ShardedRun, build
from trainer.checkpoints.checkpoint import Checkpoints
from trainer.checkpoints.config import CheckpointConfig
from trainer.checkpoints.manifest import Manifest
from trainer.checkpoints.snapshot import take_snapshot
from trainer.config import TrainConfig
from trainer.distributed import RunContext, run_context

TYPES = ("table_wise", "row_wise", "column_wise", "table_row_wise", "grid_shard")
OPTIMIZERS = ("adam", "rowwise_adagrad", "partial_rowwise_adam")
WORLDS = (4, 3, 2, 1)  # First all ranks: TorchRec remembers its first group.


def roads() -> Iterator[tuple[int, int, str, str, str]]:
    """Every world to every other, every sharding type to every other, over the optimizers."""
    worlds = itertools.cycle(itertools.product(WORLDS, WORLDS))
    for number, kinds in enumerate(itertools.product(TYPES, TYPES)):
        yield *next(worlds), *kinds, OPTIMIZERS[number % len(OPTIMIZERS)]


@contextmanager
def ranks_of(folder: Path, phase: str, world: int, rank: int) -> Iterator[RunContext]:
    """The first so many ranks of this machine as all there are."""
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    rendezvous = (folder / f"rendezvous-{phase}").as_uri()
    dist.init_process_group("gloo", rendezvous, timeout, world, rank)
    comm._INTRA_PG = comm._CROSS_PG = None  # TorchRec remembers those of the first world.
    try:
        with run_context() as context:
            yield context
            context.wait()
    finally:
        dist.destroy_process_group()


def config_of(folder: Path, kind: str, optimizer: str) -> TrainConfig:
    plan = folder / f"{kind}.yaml"
    return small_config(f"--sharding.plan={plan}", f"--optim.sparse.name={optimizer}")


def whole_state(run: ShardedRun, context: RunContext) -> dict[str, torch.Tensor]:
    """All tensors of a run, put together; a collective."""
    mine: dict[str, tuple[torch.Size, list[tuple[list[int], torch.Tensor]]]] = {}

    def walk(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{name}/{key}", inner)
        elif isinstance(value, ShardedTensor):
            shards = [(s.metadata.shard_offsets, s.tensor) for s in value.local_shards()]
            mine[name] = (value.size(), shards)
        elif isinstance(value, torch.Tensor):
            mine[name] = (value.size(), [([0] * value.dim(), value.detach())])

    snapshot = take_snapshot(run.model, run.optimizers, context)
    walk("", {name: snapshot[name] for name in ("model", "optimizer")})
    every = [mine] * context.world
    if context.world > 1:
        dist.all_gather_object(every, mine)
    whole: dict[str, torch.Tensor] = {}
    for name, (size, shards) in itertools.chain.from_iterable(one.items() for one in every):
        for offsets, part in shards:
            target = whole.setdefault(name, torch.full(size, torch.nan))
            copy_to(target, offsets, part)
    return whole


def copy_to(target: torch.Tensor, offsets: list[int], part: torch.Tensor) -> None:
    for axis, offset in enumerate(offsets):
        target = target.narrow(axis, offset, part.size(axis))
    target.copy_(part)


def save_one(folder: Path, name: str, config: TrainConfig, context: RunContext) -> None:
    run = build(config, small_schema(), context)
    pipeline = make_pipeline(run.model, run.optimizers.combined, context.device)
    run.model.train()
    shares = {1: [0, 24], 2: [0, 8, 24], 3: [0, 8, 16, 24], 4: [0, 3, 9, 9, 24]}
    with mock.patch("tests.small_run.SHARES", shares):
        source = batches(context.rank, context.world, 2)
        for step in range(2):
            run.optimizers.set_learning_rates(step)
            pipeline.progress(source)
    checkpoints = Checkpoints(str(folder / name), CheckpointConfig(), context)
    manifest = Manifest(
        step=2,
        samples=1,
        world=context.world,
        seconds=0.0,
        optimizers=config.optim.names(),
        metrics={},
    )
    checkpoints.save(run.model, run.optimizers, manifest, {"loader.json": "{}"})
    state = whole_state(run, context)
    if context.is_main:
        torch.save(state, folder / f"{name}.pt")


def restore_one(folder: Path, name: str, config: TrainConfig, context: RunContext) -> None:
    run = build(config, small_schema(), context)
    checkpoints = Checkpoints(str(folder / name), CheckpointConfig(), context)
    assert checkpoints.restore("step-00000002", run.model, run.optimizers).step == 2
    state = whole_state(run, context)
    if context.is_main:
        expected = torch.load(folder / f"{name}.pt")
        assert state.keys() == expected.keys()
        for key, value in state.items():
            told = expected[key]
            if value.shape != told.shape:
                # One number a row and column shard, here or there of one shard only.
                rows = min(len(value), len(told))
                told = told.view(-1, rows).mean(0).repeat(len(value) // rows)
                torch.testing.assert_close(value, told, rtol=1e-6, atol=0, msg=f"{name} {key}")
            else:
                assert torch.equal(value, told), (name, key)
        assert any("optimizer" in key and value.any() for key, value in state.items())


def check(folder: Path, rank: int) -> None:
    dist.barrier()
    dist.destroy_process_group()
    # Columns are cut in fours, where TorchRec would not cut such narrow tables.
    original = enumerators._extract_constraints_for_param
    enumerators._extract_constraints_for_param = lambda *arguments: (
        (found := original(*arguments))[0],
        4,
        *found[2:],
    )
    for world in WORLDS:
        if rank < world:
            with ranks_of(folder, f"save-{world}", world, rank) as context:
                for before, after, kind, other, optimizer in roads():
                    if before == world:
                        name = f"{before}-{after}-{kind}-{other}"
                        save_one(folder, name, config_of(folder, kind, optimizer), context)
    for world in WORLDS:
        if rank < world:
            with ranks_of(folder, f"restore-{world}", world, rank) as context:
                for before, after, other, kind, optimizer in roads():
                    if after == world:
                        name = f"{before}-{after}-{other}-{kind}"
                        restore_one(folder, name, config_of(folder, kind, optimizer), context)
    # For who has started this process, and ends its group.
    dist.init_process_group("gloo", (folder / "end").as_uri(), None, 4, rank)


@pytest.mark.dist
def test_any_ranks_and_plan_restore_what_any_others_saved(tmp_path: Path) -> None:
    for kind in TYPES:
        # The last two are for pooled tables only.
        tables = (
            ["'*'"] if kind in TYPES[:3] else ["representation_item", "representation_category"]
        )
        rows = [f"{table}: {{sharding_types: [{kind}]}}" for table in tables]
        (tmp_path / f"{kind}.yaml").write_text(f"tables: {{{', '.join(rows)}}}\n")
    run_on_ranks(4, functools.partial(check, tmp_path))
