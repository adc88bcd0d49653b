"""More ranks than there is data for: those without any go along, and nothing is lost."""

import functools
import json
import math
from pathlib import Path

import pytest

from tests.commands import dare, dare_without_report, data_options
from tests.ranks import run_on_ranks
from tests.split_files import Request, User, write_users

USER = User(1, [1, 2, 3], [1, 2, 3], [Request(2, [3, 4], [3, 1], [1.0, 0.0])])


def _train(folder: Path, rank: int) -> None:
    options = [*data_options(folder), f"--out_dir={folder / 'runs'}", "--loop.epochs=3"]
    outcome = dare_without_report("train", *options, "--data.history_length=5")
    assert outcome.code == 0, outcome.err
    if rank == 0:
        (folder / "told.json").write_text(outcome.out)


@pytest.mark.dist
def test_one_user_trains_on_four_ranks(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_users(tmp_path / split / "part.parquet", [USER])
    assert dare("prepare", "parquet", f"--out={tmp_path}").code == 0
    run_on_ranks(4, functools.partial(_train, tmp_path))
    result = json.loads((tmp_path / "told.json").read_text())
    assert (result["ranks"], result["steps"], result["samples"]) == (4, 3, 6)
    assert math.isfinite(result["logloss"])
    alone = [*data_options(tmp_path), f"--out_dir={tmp_path / 'alone'}", "--loop.epochs=3"]
    single = dare_without_report("train", *alone, "--data.history_length=5").result
    assert result["logloss"] == pytest.approx(single["logloss"], abs=1e-3)
