"""Groups of ranks, each with a copy of all tables, train as one when they are averaged each step.

TorchRec's DMPCollection is made for CUDA. Three things keep it from gloo, which the ranks below
mend: an assertion, a device number on a CPU's shards, an average that gloo does not know.
"""

import functools
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torchrec.distributed.model_parallel as model_parallel

from tests.ranks import run_on_ranks
from tests.small_run import batches, mean_loss, requests_of_step, small_config, small_schema
from trainer.build import build_task, make_workload
from trainer.checkpoints.checkpoint import Checkpoints, Manifest
from trainer.checkpoints.config import CheckpointConfig
from trainer.distributed import run_context
from trainer.optim import make_optimizers
from trainer.planner.config import PlanConfig, TableSpec, TopologySpec
from trainer.planner.planning import find_plan
from trainer.sharding import average_replicas, initialise_tables, shard, table_kinds

STEPS = 6
# With an eps this large Adagrad is SGD at a rate of 0.003, for which averaging is exact.
LINEAR = (
    "--optim.sparse.name=rowwise_adagrad",
    "--optim.sparse.eps=10000",
    "--optim.sparse.learning_rate=30",
    "--model.head.norm=batch_all_ranks",
)


def _sharded(config, context, groups):
    task = build_task(config, small_schema(), context.device)
    tables = {name: TableSpec(sharding_types=("row_wise",)) for name in table_kinds(task)}
    machines = TopologySpec(gpus_a_host=context.world // groups, device="cpu")
    workload = make_workload(config, small_schema(), PlanConfig(tables=tables), machines, task)
    outcome = [find_plan(workload) if context.is_main else None]
    if context.world > 1:
        dist.broadcast_object_list(outcome, src=0, group=context.control)
    model = shard(task, context, outcome[0], fused_params=workload.fused_params, groups=groups)
    initialise_tables(model, seed=config.seed, std=config.model.init.std)
    return model, make_optimizers(model, config.optim)


def _mend(groups: int) -> None:
    whole = model_parallel._remote_device
    model_parallel._remote_device = lambda text: whole(text.rpartition(":")[0])

    def average(_, context, tensors, *__):
        for tensor in (tensor for group in tensors.values() for tensor in group):
            dist.all_reduce(tensor, group=context.replica_pg)
            tensor.div_(groups)

    model_parallel.DMPCollection._allreduce_tensors = average


def _tables(model):
    return {
        name: [part.clone() for part in value.to_local().local_shards()]
        for name, value in model.state_dict().items()
        if hasattr(value, "to_local")
    }


def _train(folder: Path, groups: int, _rank: int) -> None:
    if groups > 1:
        _mend(groups)
    with run_context() as context:
        config = small_config(*LINEAR)
        model, optimizers = _sharded(config, context, groups)
        losses = []
        for step, batch in enumerate(batches(context.rank, context.world, STEPS)):
            optimizers.set_learning_rates(step)
            optimizers.combined.zero_grad()
            loss, output = model(batch.to(context.device))
            loss.backward()
            optimizers.combined.step()
            average_replicas(model)
            losses.append(mean_loss(output, float(len(requests_of_step(step).label))))
        if context.is_main:
            (folder / f"losses-{groups}.json").write_text(json.dumps(losses))
        if groups > 1:
            _check_checkpoint(folder, config, context, groups, (model, optimizers))


def _check_checkpoint(folder, config, context, groups, trained):
    model, optimizers = trained
    checkpoints = Checkpoints(str(folder), CheckpointConfig(), context)
    names = config.optim.names()
    manifest = Manifest(step=STEPS, samples=0, world=4, seconds=0.0, optimizers=names, metrics={})
    checkpoints.save(model, optimizers, manifest, {})
    fresh, fresh_optimizers = _sharded(config, context, groups)
    name, _ = checkpoints.latest()
    checkpoints.restore(name, fresh, fresh_optimizers)
    expected, found = _tables(model), _tables(fresh)
    if len(expected) != 4:
        raise AssertionError(f"{len(expected)} tables are replicated, 4 should be")
    for name, parts in expected.items():
        for part, other in zip(parts, found[name], strict=True):
            torch.testing.assert_close(other, part, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.skipif(torch.cuda.is_available(), reason="mends TorchRec for gloo")
def test_two_groups_of_two_ranks_train_and_save_as_one_rank_does(tmp_path, monkeypatch):
    run_on_ranks(1, functools.partial(_train, tmp_path, 1))
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")  # Without assertions, in the ranks alone.
    run_on_ranks(4, functools.partial(_train, tmp_path, 2), start="spawn")
    alone, replicated = (
        json.loads((tmp_path / f"losses-{groups}.json").read_text()) for groups in (1, 2)
    )
    assert replicated == pytest.approx(alone, abs=1e-5)
    assert alone[-1] != pytest.approx(alone[0], abs=1e-3)
