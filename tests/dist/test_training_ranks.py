"""Training is the same whatever the number of ranks and the pipeline.

The sharding of tables is the subject of `test_preset_ranks.py` and `test_pooled_ranks.py`.
"""

import functools
import json
from pathlib import Path

import pytest

from tests.ranks import run_on_ranks
from tests.small_run import small_config, train_pipelined, train_plainly
from trainer.distributed import run_context

STEPS = 20
NORMS = ("none", "layer", "batch_all_ranks")


def _train_all(folder: Path, world: int, _rank: int) -> None:
    found = {}
    with run_context() as context:
        for norm in NORMS if world < 4 else NORMS[-1:]:
            config = small_config(f"--model.head.norm={norm}")
            found[norm] = train_pipelined(config, context, STEPS)
        found["batch"] = train_pipelined(small_config("--model.head.norm=batch"), context, 3)
        found["plain"] = train_plainly(
            small_config("--model.head.norm=batch_all_ranks"), context, STEPS
        )
        if context.is_main:
            (folder / f"losses-{world}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("losses")
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
