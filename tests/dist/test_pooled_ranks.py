"""Tables pooled and scored on their shards train as unpooled ones do, whatever the sharding."""

import functools
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests import small_run
from tests.ranks import run_on_ranks
from tests.small_run import (
    batches,
    full_tables,
    mean_loss,
    requests_of_step,
    small_config,
    small_schema,
)
from trainer.build import build
from trainer.distributed import run_context
from trainer.telemetry.traffic import TrafficCounter

STEPS = 20
TYPES = (
    "table_wise",
    "row_wise",
    "column_wise",
    "table_column_wise",
    "table_row_wise",
    "grid_shard",
)
RANKS_A_HOST = {1: 1, 2: 2, 4: 2}
QUICK = ("row_wise", "grid_shard", "row_wise scored")
"""What four ranks always train; `make test-slow` trains the rest."""
WIDTHS = "{item: 16, category: 32, position: 4}"
HEADS = {
    # With whole histories every behaviour's row is touched, in both settings.
    "whole": ("--model.head.auxiliary_weight=1", "--optim.sparse.name=adam"),
    # Only what is kept is touched here, everything in the unpooled setting; Adam would show it.
    "kept": (
        "--model.head.auxiliary_weight=0",
        "--optim.sparse.name=sgd",
        "--optim.sparse.eps=1e-8",  # The default; it has none.
        "--optim.sparse.learning_rate=0.3",
    ),
}


def _options(folder: Path, head: str, kind: str) -> list[str]:
    """One model, read unpooled, pooled, or pooled and scored."""
    options = [
        *HEADS[head],
        # A seed with which no two scores at a search's edge are equal up to rounding.
        "--seed=7",
        "--model.head.norm=batch_all_ranks",
        f"--model.embeddings.attention={WIDTHS}",
        f"--model.embeddings.representation={WIDTHS}",
        f"--sharding.plan={folder / kind.removesuffix(' scored')}.yaml",
    ]
    if kind == "unpooled":
        return [*options, "--model.embeddings.representation_lookup=unpooled"]
    if kind.endswith("scored"):
        return [*options, "--model.embeddings.attention_lookup=scored"]
    return options


def _write_plans(folder: Path) -> None:
    for kind in TYPES:
        cut = f"{{sharding_types: [{kind}], min_partition: 8}}"
        # What the attention's unpooled tables cannot do, its scored ones can.
        rest = cut if kind in TYPES[:3] else "{sharding_types: [row_wise]}"
        tables = f"representation_item: {cut}, representation_category: {cut}, '*': {rest}"
        (folder / f"{kind}.yaml").write_text(f"tables: {{{tables}}}\n")
    (folder / "unpooled.yaml").write_text("tables: {'*': {sharding_types: [row_wise]}}\n")
    whole_grid = "{sharding_types: [grid_shard], min_partition: 8}"
    (folder / "scored-grid.yaml").write_text(f"tables: {{'*': {whole_grid}}}\n")


def _kinds() -> list[str]:
    return ["unpooled", *TYPES, "row_wise scored", "column_wise scored", "scored-grid scored"]


def _part(world: int, kind: str) -> bool:
    """Whether a kind is always trained on so many ranks."""
    return world < 4 or kind in QUICK


def _cases(kinds: list[str]) -> list[Any]:
    """Ranks and kinds, as pytest takes them."""
    return [
        pytest.param(world, kind, marks=[] if _part(world, kind) else pytest.mark.slow)
        for world in RANKS_A_HOST
        for kind in kinds
    ]


def _train(options: list[str], context) -> dict:
    """Losses of the steps, and the tables after them."""
    run = build(small_config(*options), small_schema(), context)
    run.model.train()
    start = _tables(run)
    losses, cut = [], {row["table"] for row in run.placement.rows if row["first column"]}
    for step, batch in enumerate(batches(context.rank, context.world, STEPS)):
        run.optimizers.set_learning_rates(step)
        run.optimizers.combined.zero_grad()
        loss, output = run.model(batch)
        loss.backward()
        run.optimizers.combined.step()
        losses.append(mean_loss(output, float(len(requests_of_step(step).label))))
    return {"losses": losses, "start": start, "tables": _tables(run), "cut": sorted(cut)}


def _tables(run) -> dict[str, torch.Tensor]:
    """All tables by name, on rank 0; a collective."""
    return {name.split(".")[-2]: table for name, table in full_tables(run).items()}


def _train_all(folder: Path, world: int, kinds: list[str], rank: int) -> None:
    os.environ |= {
        "LOCAL_WORLD_SIZE": str(RANKS_A_HOST[world]),
        "LOCAL_RANK": str(rank % RANKS_A_HOST[world]),
    }
    with run_context() as context:
        found = {
            (head, kind): _train(_options(folder, head, kind), context)
            for head in HEADS
            for kind in kinds
        }
    if rank == 0:
        torch.save(found, folder / "found.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What a kind has found on so many ranks, beside others of its part, which runs once."""
    folder = tmp_path_factory.mktemp("pooled")
    _write_plans(folder)

    @functools.cache
    def train(world: int, part: bool) -> dict:
        kinds = [kind for kind in _kinds() if _part(world, kind) == part]
        run_on_ranks(world, functools.partial(_train_all, folder, world, kinds))
        return torch.load(folder / "found.pt", weights_only=True)

    return lambda world, head, kind: train(world, _part(world, kind))[head, kind]


@pytest.mark.dist
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("world", "kind"), _cases(_kinds()))
def test_losses_and_tables_are_those_of_unpooled_tables_on_one_rank(found, world, head, kind):
    alone, here = found(1, head, "unpooled"), found(world, head, kind)
    assert here["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert here["tables"].keys() == alone["tables"].keys()
    assert len(alone["tables"]) == 4
    for name, table in alone["tables"].items():
        torch.testing.assert_close(here["tables"][name], table, rtol=0, atol=1e-5, msg=name)


@pytest.mark.dist
@pytest.mark.parametrize(
    ("world", "kind"), _cases(["column_wise", "table_column_wise", "grid_shard"])
)
def test_columns_were_really_cut(found, world, kind):
    assert "representation_category" in found(world, "whole", kind)["cut"]


@pytest.mark.dist
@pytest.mark.parametrize("head", HEADS)
def test_training_moves_the_attention_tables_by_the_gradient_of_the_weights(found, head):
    """In DARE nothing else reaches them: were it lost, they would stay as they were drawn."""
    result = found(2, head, "row_wise")
    for name, table in result["tables"].items():
        assert (table - result["start"][name]).abs().max() > 1e-4, name


def _count(folder: Path, _rank: int) -> None:
    sent = {}
    with run_context() as context:
        for lookup in ("unpooled", "pooled"):
            options = [f"--model.embeddings.representation_lookup={lookup}"]
            run = build(small_config(*options, *HEADS["kept"]), small_schema(), context)
            (batch,) = batches(context.rank, context.world, 1)
            with TrafficCounter() as traffic:
                run.model(batch)[0].backward()
            sent[lookup] = dict(traffic.sent_bytes)
        total = [None] * context.world
        dist.all_gather_object(total, sent, group=context.control)
        if context.is_main:
            (folder / "sent.json").write_text(json.dumps(total))


@pytest.mark.dist
def test_every_rank_gets_back_gradients_of_what_it_sent(tmp_path):
    run_on_ranks(2, functools.partial(_count, tmp_path))
    ranks = json.loads((tmp_path / "sent.json").read_text())
    pooled = {}
    for rank in ranks:
        for name, size in rank["pooled"].items():
            pooled[name] = pooled.get(name, 0) + size
    for name in ("pooled weights", "pooled sums", "pooled rows", "unpooled rows"):
        assert pooled[name] == pooled[f"{name} gradient"] > 0
    whole = sum(sum(rank["unpooled"].values()) for rank in ranks)
    assert sum(pooled.values()) < whole


EXCHANGES = {
    "TorchRec's": ["--model.embeddings.representation_lookup=unpooled"],
    "ours": ["--model.embeddings.attention_lookup=scored"],
}
"""Models of which all rows, sums and scores go one way."""
WIRES = (("fp32", "fp32"), ("fp16", "fp32"), ("fp32", "bf16"), ("int8", "bf16"))


def _send_in(folder: Path, _rank: int) -> None:
    losses = {}
    with run_context() as context:
        for exchange, (forward, backward) in itertools.product(EXCHANGES, WIRES):
            losses[f"{exchange} {forward} {backward}"] = _train(
                [
                    f"--sharding.plan={folder / 'row_wise.yaml'}",
                    *EXCHANGES[exchange],
                    "--model.head.norm=layer",
                    "--model.embeddings.attention={item: 32, category: 32, position: 4}",
                    "--model.embeddings.representation={item: 32, category: 32, position: 4}",
                    f"--sharding.communication.forward={forward}",
                    f"--sharding.communication.backward={backward}",
                ],
                context,
            )["losses"]
        if context.is_main:
            (folder / "wires.json").write_text(json.dumps(losses))


@pytest.mark.dist
def test_narrow_types_on_the_way_forward_and_back_change_losses_a_little(tmp_path):
    _write_plans(tmp_path)
    run_on_ranks(2, functools.partial(_send_in, tmp_path))
    losses = json.loads((tmp_path / "wires.json").read_text())
    for exchange, (forward, backward) in itertools.product(EXCHANGES, WIRES[1:]):
        exact = losses[f"{exchange} fp32 fp32"]
        found = losses[f"{exchange} {forward} {backward}"]
        assert 0 < max(abs(a - b) for a, b in zip(found, exact, strict=True)) < 0.02
        # Gradients show from the second step on only.
        assert (found[0] == exact[0]) == (forward == "fp32"), (exchange, forward, backward)


def _with_few_categories(folder: Path, world: int, _rank: int) -> None:
    small_run.ROWS["category"] = 5  # Row-wise over four ranks: 2, 2, 1 and none.
    losses = {}
    with run_context() as context:
        for lookup in ("unpooled", "pooled"):
            losses[lookup] = _train(
                [
                    f"--sharding.plan={folder / 'unpooled.yaml'}",
                    "--model.head.norm=layer",
                    "--model.embeddings.attention={item: 16, category: 8, position: 4}",
                    f"--model.embeddings.representation_lookup={lookup}",
                ],
                context,
            )["losses"]
        if context.is_main:
            (folder / f"few-{world}.json").write_text(json.dumps(losses))


@pytest.mark.dist
def test_a_rank_without_rows_of_a_collection_keeps_in_step(tmp_path):
    _write_plans(tmp_path)
    found = {}
    for world in (1, 4):
        run_on_ranks(world, functools.partial(_with_few_categories, tmp_path, world))
        found[world] = json.loads((tmp_path / f"few-{world}.json").read_text())
    for lookup in ("unpooled", "pooled"):
        assert found[4][lookup] == pytest.approx(found[1]["unpooled"], abs=1e-5)
