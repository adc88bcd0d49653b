"""Every preset trains alike on 1, 2 and 4 ranks, whatever the sharding of its tables."""

import functools
import json
from pathlib import Path

import pytest

from modules.presets import PRESETS
from tests.ranks import run_on_ranks
from tests.small_run import small_config, train_pipelined
from trainer.distributed import run_context

STEPS = 3
TYPES = {
    1: ("table_wise",),
    2: ("table_wise", "row_wise", "column_wise"),
    4: ("row_wise",),
}


def _options(folder: Path, preset: str, kind: str) -> list[str]:
    widths = "{item: 8, category: 8, position: 4}"
    plan = folder / f"{kind}.yaml"
    if not plan.exists():
        plan.write_text(f"tables: {{'*': {{sharding_types: [{kind}], min_partition: 4}}}}\n")
    return [
        f"--model.preset={preset}",
        f"--model.embeddings.representation={widths}",
        # A seed with which no two scores at a search's edge are equal up to rounding.
        "--seed=7",
        "--model.head.norm=batch_all_ranks",
        f"--sharding.plan={plan}",
    ]


def _train_all(folder: Path, world: int, _rank: int) -> None:
    with run_context() as context:
        found = {
            f"{preset} {kind}": train_pipelined(
                small_config(*_options(folder, preset, kind)), context, STEPS
            )
            for preset in PRESETS
            for kind in TYPES[world]
        }
        if context.is_main:
            (folder / f"losses-{world}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Losses of all presets on so many ranks; each number of ranks runs once."""
    folder = tmp_path_factory.mktemp("presets")
    for kind in TYPES[2]:
        _options(folder, "dare", kind)

    @functools.cache
    def on(world: int) -> dict:
        run_on_ranks(world, functools.partial(_train_all, folder, world))
        return json.loads((folder / f"losses-{world}.json").read_text())

    return on


@pytest.mark.dist
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("world", "kind"), [(w, k) for w in (2, 4) for k in TYPES[w]])
def test_a_preset_has_the_losses_of_one_rank(losses, world, kind, preset):
    alone = losses(1)[f"{preset} table_wise"]
    assert losses(world)[f"{preset} {kind}"] == pytest.approx(alone, abs=1e-5)


@pytest.mark.dist
def test_no_two_presets_are_the_same_model(losses):
    ways = {preset: tuple(losses(1)[f"{preset} table_wise"]) for preset in PRESETS}
    assert len(set(ways.values())) == len(PRESETS)
