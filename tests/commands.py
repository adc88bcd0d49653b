"""Runs `dare` in this process as a shell would, and a dataset small enough for seconds."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.ranks import run_on_ranks
from trainer.cli import main

TARGETS = {"train": 4800, "val": 1200, "test": 1200}
"""Of `prepare_small`: 300 users, 4 training requests each and 1 of each other split, 4 targets."""


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object that is all of stdout."""
        assert self.code == 0, self.err
        (line,) = self.out.splitlines()
        return dict(json.loads(line))


def dare(*arguments: str) -> Outcome:
    """Run a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as left:  # `--help` leaves so.
            code = int(left.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def dare_without_report(*arguments: str) -> Outcome:
    """Run a command; figures of reports and maps take seconds that only their tests should pay."""
    with (
        mock.patch("trainer.report.report.write_report"),
        mock.patch("trainer.analysis.attention.draw_attention"),
    ):
        return dare(*arguments)


def dare_on_ranks(world: int, *arguments: str) -> Outcome:
    """Run a command on several ranks, without a report; what torchrun adds has its own tests.

    Returns:
        The exit code and stdout of rank 0, and what all told.
    """
    with tempfile.TemporaryDirectory() as folder:
        run_on_ranks(world, functools.partial(_one_rank, Path(folder), arguments))
        told = [Path(folder) / str(rank) for rank in range(world)]
        first, *others = (Outcome(**json.loads(file.read_text())) for file in told)
    return Outcome(first.code, first.out, first.err + "".join(other.err for other in others))


def _one_rank(folder: Path, arguments: tuple[str, ...], rank: int) -> None:
    outcome = dare_without_report(*arguments)
    (folder / str(rank)).write_text(json.dumps(asdict(outcome)))


def prepare_small(folder: Path, *options: str) -> Path:
    """A synthetic dataset of 300 users with lives of 20."""
    sizes = ["--users=300", "--items=100", "--categories=10", "--history_length=20", "--requests=4"]
    done = dare("prepare", "synthetic", f"--out={folder}", *sizes, *options)
    assert done.code == 0, done.err
    return folder


def data_options(folder: Path) -> list[str]:
    """Options of a run that read a dataset of this folder; ten steps are an epoch."""
    splits = [f"--data.{split}={folder / split}" for split in TARGETS]
    return [
        *splits,
        f"--data.schema={folder / 'schema.json'}",
        "--data.history_length=20",
        "--data.batch_size=512",
        "--model.search.top_k=5",
        "--telemetry.tensorboard=false",
    ]


def rows_of(run: Path, name: str) -> dict[int, float]:
    """A scalar of a run's `metrics.jsonl` by step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if name in row]
    assert len(steps) == len(set(steps)), f"{name} is told twice for a step"
    return {row["step"]: row[name] for row in rows if name in row}
