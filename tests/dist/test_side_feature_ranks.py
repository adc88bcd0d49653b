"""Interval, behaviour type and scenario train alike on one rank and on several, however sharded."""

import functools
from pathlib import Path

import pytest
import torch

from pipelines.overlap import check_overlap, make_pipeline
from tests.ranks import run_on_ranks
from tests.small_run import batches, full_tables, mean_loss, small_config, small_schema
from trainer.build import build
from trainer.distributed import run_context

STEPS = 8
SIDE = ("behaviour_type", "scenario")
WIDTHS = "position: 4, interval: 8, features: {scenario: 4, behaviour_type: 8}"
SGD = ["--optim.sparse.name=sgd", "--optim.sparse.eps=1e-8"]
"""With the default of eps, of which it has none."""
KINDS = {
    "unpooled row_wise": ("row_wise", ["--model.embeddings.representation_lookup=unpooled"]),
    "pooled row_wise": ("row_wise", []),
    "pooled column_wise": ("column_wise", []),
    "scored table_wise": ("table_wise", ["--model.embeddings.attention_lookup=scored"]),
    "kept only": ("row_wise", ["--model.head.auxiliary_weight=0", *SGD]),
    "twin": ("row_wise", ["--model.preset=twin"]),
}
FOUR_RANKS = ("unpooled row_wise", "pooled row_wise")
TABLES = 10


def _config(folder: Path, kind: str):
    sharding, options = KINDS[kind]
    plan = folder / f"{sharding}.yaml"
    return small_config(
        f"--model.embeddings.attention={{item: 8, category: 8, {WIDTHS}}}",
        f"--model.embeddings.representation={{item: 8, category: 8, {WIDTHS}}}",
        "--model.head.norm=batch_all_ranks",
        # A seed with which no two scores at a search's edge are equal up to rounding.
        "--seed=7",
        f"--sharding.plan={plan}",
        *options,
    )


def _train(config, context) -> dict:
    """Losses of the steps through TorchRec's pipeline, the tables before and after them."""
    run = build(config, small_schema(), context)
    pipeline = make_pipeline(run.model, run.optimizers.combined, context.device)
    run.model.train()
    start, losses = full_tables(run), []
    source = batches(context.rank, context.world, STEPS, side_features=SIDE)
    for step in range(STEPS):
        run.optimizers.set_learning_rates(step)
        output = pipeline.progress(source)
        check_overlap(pipeline, run.model)
        losses.append(mean_loss(output, 1.0))
    return {"losses": losses, "start": start, "tables": full_tables(run)}


def _train_all(folder: Path, world: int, rank: int) -> None:
    with run_context() as context:
        kinds = FOUR_RANKS if world == 4 else KINDS
        found = {kind: _train(_config(folder, kind), context) for kind in kinds}
    if rank == 0:
        torch.save(found, folder / f"found-{world}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What all kinds have found on so many ranks; of four, the third has padding alone."""
    folder = tmp_path_factory.mktemp("side")
    for sharding in ("table_wise", "row_wise", "column_wise"):
        cut = f"{{sharding_types: [{sharding}], min_partition: 4}}"
        (folder / f"{sharding}.yaml").write_text(f"tables: {{'*': {cut}}}\n")

    @functools.cache
    def on(world: int) -> dict:
        run_on_ranks(world, functools.partial(_train_all, folder, world))
        return torch.load(folder / f"found-{world}.pt", weights_only=True)

    return on


@pytest.mark.dist
@pytest.mark.parametrize(
    ("world", "kind"), [*((2, kind) for kind in KINDS), *((4, kind) for kind in FOUR_RANKS)]
)
def test_losses_and_tables_are_those_of_one_rank(found, world, kind):
    alone, here = found(1)[kind], found(world)[kind]
    assert here["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert here["tables"].keys() == alone["tables"].keys()
    assert len(alone["tables"]) == (TABLES // 2 if kind == "twin" else TABLES)
    for name, table in alone["tables"].items():
        torch.testing.assert_close(here["tables"][name], table, rtol=0, atol=1e-5, msg=name)
        assert not torch.equal(table, alone["start"][name]), name


@pytest.mark.dist
@pytest.mark.parametrize("kind", ["pooled row_wise", "pooled column_wise", "scored table_wise"])
def test_pooled_and_scored_features_train_as_unpooled_ones(found, kind):
    unpooled, other = found(2)["unpooled row_wise"], found(2)[kind]
    assert other["losses"] == pytest.approx(unpooled["losses"], rel=1e-5)
