"""Dense Adam over sharded tables is `torch.optim.Adam` of dense ones, whoever holds which rows."""

import functools
from pathlib import Path

import pytest
import torch

from tests.dense_adam import Trained, check_equal, train_dense, train_sharded
from tests.ranks import run_on_ranks
from trainer.distributed import run_context

RUNS = {
    "pooled": "table_wise",
    "unpooled": "row_wise",
    "twin": "column_wise",
    "scored": "row_wise",
    "kept": "grid_shard",
}
"""How tables are cut, by how they are read."""


def _train_all(folder: Path, _rank: int) -> None:
    with run_context() as context:
        found = {
            way: train_sharded(way, context, f"--sharding.plan={folder / way}.yaml") for way in RUNS
        }
        if context.is_main:
            torch.save({way: vars(trained) for way, trained in found.items()}, folder / "found.pt")


@pytest.mark.dist
def test_all_ranks_step_as_one_also_without_ids(tmp_path: Path) -> None:
    """The third of four ranks has no requests at all."""
    for way, kind in RUNS.items():
        # Grids are for pooled tables only.
        tables = ["representation_item"] if kind == "grid_shard" else ["'*'"]
        cut = [f"{table}: {{sharding_types: [{kind}], min_partition: 8}}" for table in tables]
        (tmp_path / f"{way}.yaml").write_text(f"tables: {{{', '.join(cut)}}}\n")
    run_on_ranks(4, functools.partial(_train_all, tmp_path))
    for way, values in torch.load(tmp_path / "found.pt").items():
        trained = Trained(**values)
        check_equal(trained, train_dense(way, trained.start))
