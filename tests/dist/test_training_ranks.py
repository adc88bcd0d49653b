"""Training is the same whatever the number of ranks, the sharding and the pipeline."""

import functools
import json
from pathlib import Path

import pytest

from tests.ranks import run_on_ranks
from tests.small_run import small_config, train_pipelined, train_plainly
from trainer.distributed import run_context

STEPS = 20
SHARDING_STEPS = 6
FOUR_RANKS = ("batch_all_ranks", "dare row_wise")
NORMS = ("none", "layer", "batch_all_ranks")
TYPES = ("table_wise", "row_wise", "column_wise")
PRESETS = ("dare", "twin")


def _plan(folder: Path, kind: str) -> str:
    path = folder / f"{kind}.yaml"
    path.write_text(f"tables: {{'*': {{sharding_types: [{kind}]}}}}\n")
    return str(path)


def _runs(folder: Path):
    for norm in NORMS:
        yield f"{norm}", [f"--model.head.norm={norm}"]
    for preset in PRESETS:
        widths = "{item: 8, category: 8, position: 4}"
        same = [f"--model.embeddings.representation={widths}"] if preset == "twin" else []
        for kind in TYPES:
            yield (
                f"{preset} {kind}",
                [
                    f"--model.preset={preset}",
                    *same,
                    "--model.head.norm=batch_all_ranks",
                    f"--sharding.plan={_plan(folder, kind)}",
                ],
            )


def _train_all(folder: Path, world: int, _rank: int) -> None:
    found = {}
    with run_context() as context:
        for name, options in _runs(folder):
            steps = STEPS if name in NORMS else SHARDING_STEPS
            if world < 4 or name in FOUR_RANKS:
                found[name] = train_pipelined(small_config(*options), context, steps)
        found["batch"] = train_pipelined(small_config("--model.head.norm=batch"), context, 3)
        found["plain"] = train_plainly(
            small_config("--model.head.norm=batch_all_ranks"), context, STEPS
        )
        if context.is_main:
            (folder / f"losses-{world}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("losses")
    for kind in TYPES:
        _plan(folder, kind)
    found = {}
    for world in (1, 2, 4):
        run_on_ranks(world, functools.partial(_train_all, folder, world))
        found[world] = json.loads((folder / f"losses-{world}.json").read_text())
    return found


@pytest.mark.dist
@pytest.mark.parametrize(("world", "norm"), [*((2, norm) for norm in NORMS), (4, NORMS[-1])])
def test_losses_do_not_depend_on_the_number_of_ranks(losses, world, norm):
    assert losses[world][norm] == pytest.approx(losses[1][norm], abs=1e-5)


@pytest.mark.dist
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("preset", PRESETS)
def test_losses_do_not_depend_on_the_sharding(losses, kind, preset):
    alone = losses[1][f"{preset} table_wise"]
    assert losses[2][f"{preset} {kind}"] == pytest.approx(alone, abs=1e-5)
    assert losses[4]["dare row_wise"] == pytest.approx(losses[1]["dare table_wise"], abs=1e-5)


@pytest.mark.dist
@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_pipeline_gives_the_plain_loops_losses_bit_for_bit(losses, world):
    assert losses[world]["plain"] == losses[world]["batch_all_ranks"]


@pytest.mark.dist
def test_training_learns(losses):
    assert losses[1]["none"][-1] < losses[1]["none"][0] - 0.02


@pytest.mark.dist
def test_norms_of_one_rank_do_depend_on_the_split(losses):
    """What the equalities above would miss if all norms were the same."""
    pairs = zip(losses[1]["batch"], losses[2]["batch"], strict=True)
    assert max(abs(a - b) for a, b in pairs) > 1e-4
