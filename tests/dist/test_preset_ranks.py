"""Every preset trains alike on 1, 2 and 4 ranks, whatever the sharding of its tables."""

import functools
import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from modules.presets import PRESETS
from tests.ranks import run_on_ranks
from tests.small_run import small_config, small_schema, train_pipelined
from trainer.build import build_task
from trainer.distributed import run_context
from trainer.sharding import table_kinds

STEPS = 3
TIMEOUT_S = 1200
RANKS_A_HOST = {1: 1, 2: 2, 4: 2}
WHOLE = ("table_wise", "row_wise", "column_wise")
BAGS = ("table_column_wise", "table_row_wise", "grid_shard")
"""What pooled tables alone can do: those of presets whose representation has a space of its own."""
TYPES = {1: ("table_wise",), 2: ("column_wise",), 4: ("row_wise",)}
"""The part of the matrix that is always tested; `make test-slow` tests the rest."""
REST = {
    world: tuple(kind for kind in (*WHOLE, *BAGS) if kind not in tested)
    for world, tested in TYPES.items()
}


def _options(preset: str, plan: Path | None = None) -> list[str]:
    widths = "{item: 8, category: 8, position: 4}"
    return [
        f"--model.preset={preset}",
        f"--model.embeddings.representation={widths}",
        # A seed with which no two scores at a search's edge are equal up to rounding.
        "--seed=7",
        "--model.head.norm=batch_all_ranks",
        f"--sharding.plan={plan or ''}",
    ]


def _pooled(preset: str) -> list[str]:
    """Names of a preset's pooled tables."""
    task = build_task(small_config(*_options(preset)), small_schema(), torch.device("meta"))
    return [name for name, kind in table_kinds(task).items() if kind == "pooled"]


def _cells(kinds: Iterable[str]) -> list[tuple[str, str]]:
    """Presets and sharding types that there are of them."""
    return [
        (preset, kind)
        for kind, preset in itertools.product(kinds, PRESETS)
        if kind in WHOLE or _pooled(preset)
    ]


def _write_plan(plan: Path, preset: str, kind: str) -> None:
    cut = f"{{sharding_types: [{kind}], min_partition: 4}}"
    rows = ["'*': {sharding_types: [row_wise]}", *(f"{name}: {cut}" for name in _pooled(preset))]
    tables = [f"'*': {cut}"] if kind in WHOLE else rows
    plan.write_text(f"tables: {{{', '.join(tables)}}}\n")


def _train_all(folder: Path, world: int, cells: list[tuple[str, str]], rank: int) -> None:
    os.environ |= {
        "LOCAL_WORLD_SIZE": str(RANKS_A_HOST[world]),
        "LOCAL_RANK": str(rank % RANKS_A_HOST[world]),
    }
    with run_context() as context:
        found = {
            f"{preset} {kind}": train_pipelined(
                small_config(*_options(preset, folder / f"{preset}-{kind}.yaml")), context, STEPS
            )
            for preset, kind in cells
        }
        if context.is_main:
            (folder / f"losses-{world}.json").write_text(json.dumps(found))


def _losses(folder: Path, world: int, cells: list[tuple[str, str]]) -> dict[str, list[float]]:
    """Losses of presets and sharding types on so many ranks."""
    for preset, kind in cells:
        _write_plan(folder / f"{preset}-{kind}.yaml", preset, kind)
    train = functools.partial(_train_all, folder, world, cells)
    run_on_ranks(world, train, timeout_s=TIMEOUT_S)
    return json.loads((folder / f"losses-{world}.json").read_text())


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Losses of all presets on so many ranks; each number of ranks runs once."""
    folder = tmp_path_factory.mktemp("presets")
    return functools.cache(lambda world: _losses(folder, world, _cells(TYPES[world])))


@pytest.mark.dist
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("world", "kind"), [(w, k) for w in (2, 4) for k in TYPES[w]])
def test_a_preset_has_the_losses_of_one_rank(losses, world, kind, preset):
    alone = losses(1)[f"{preset} table_wise"]
    assert losses(world)[f"{preset} {kind}"] == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timeout(2 * TIMEOUT_S)
@pytest.mark.parametrize("world", REST)
def test_the_rest_of_sharding_types_by_ranks_by_presets_is_alike_too(losses, world, tmp_path):
    alone, cells = losses(1), _cells(REST[world])
    assert {kind for _, kind in cells} == set(REST[world])
    found = _losses(tmp_path, world, cells)
    for preset, kind in cells:
        expected = pytest.approx(alone[f"{preset} table_wise"], abs=1e-5)
        assert found[f"{preset} {kind}"] == expected, (preset, kind)


@pytest.mark.dist
def test_no_two_presets_are_the_same_model(losses):
    ways = {preset: tuple(losses(1)[f"{preset} table_wise"]) for preset in PRESETS}
    assert len(set(ways.values())) == len(PRESETS)
