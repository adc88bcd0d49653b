"""What a command does not need is not loaded before it starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ranks import run_on_ranks

CALL = """
import gc, sys
from trainer.cli import main
assert main(sys.argv[1:]) == 0
loaded = "torch" in sys.modules
print(loaded, gc.isenabled(), file=sys.stderr)
"""


def left_behind(*arguments):
    """Whether torch is loaded after a command, and whether rubbish is collected."""
    done = subprocess.run(
        [sys.executable, "-c", CALL, *map(str, arguments)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1]


def test_listing_runs_loads_no_torch(tmp_path):
    assert left_behind("runs", tmp_path) == "False True"


def test_preparing_loads_no_torch(tmp_path):
    small = ["--users=30", "--items=20", "--categories=5", "--history_length=5"]
    out = f"--out={tmp_path / 'data'}"
    assert left_behind("prepare", "synthetic", out, *small) == "False True"


def no_plots(rank):
    del rank
    import trainer.job  # noqa: F401

    assert "torch" in sys.modules
    assert "matplotlib" not in sys.modules


@pytest.mark.dist
def test_ranks_that_draw_nothing_load_no_plots():
    run_on_ranks(1, no_plots)
