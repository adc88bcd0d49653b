"""Programs that train in turns, A B A B, and what they say."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

logger = logging.getLogger(__name__)
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A program that takes turns."""

    name: str
    targets: int
    """That share a history, in the rows that it reads."""
    command: Sequence[str]
    """But for the steps of a turn and the rows."""
    steps: int
    """Of a turn."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that its own command sets."""


class Running:
    """A contestant at work.

    Args:
        contestant: which.
        process: it, with pipes.
        log: where its standard error goes.
    """

    def __init__(self, contestant: Contestant, process: subprocess.Popen[str], log: Path) -> None:
        self.contestant, self._process, self._log = contestant, process, log

    def line(self) -> dict[str, Any]:
        """What it says next.

        Raises:
            RuntimeError: it ended instead.
        """
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            code, told = self._process.wait(), self._log.read_text()[-2000:]
            raise RuntimeError(f"{self.contestant.name} ended with code {code}:\n{told}")
        found: dict[str, Any] = json.loads(said)
        return found

    def turn(self) -> float:
        """Let it take a turn; samples/s."""
        stdin = self._input()
        stdin.write("\n")
        stdin.flush()
        return float(self.line()["rate"])

    def end(self) -> dict[str, Any]:
        """Take no further turn; what it says of itself."""
        self._input().close()
        return self.line()

    def _input(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin


@contextmanager
def started(contestant: Contestant, data: Path, log: Path) -> Iterator[Running]:
    """Start it and wait until it is ready; it has ended afterwards."""
    turns = ["--data", str(data), "--steps", str(contestant.steps)]
    with log.open("w") as told, ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                [*contestant.command, *turns],
                cwd=ROOT,
                env={
                    **contestant.settings,
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "PYTHONUNBUFFERED": "1",
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=told,
                text=True,
            )
        )
        stack.callback(process.kill)
        running = Running(contestant, process, log)
        running.line()
        yield running


def race(
    contestants: Sequence[Contestant], data: dict[int, Path], work: Path, repeats: int
) -> dict[str, Any]:
    """Let all take turns; the first is what the others are compared with.

    All stay in memory, so none is started anew; each repeat another one is first.

    Args:
        contestants: who trains.
        data: folders of rows by targets a request.
        work: where logs go.
        repeats: turns of each.

    Returns:
        By name: samples/s of each turn, of which the n-th belong together, and what each said.

    Raises:
        RuntimeError: one ended early, or read other rows than another one.
    """
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    with ExitStack() as stack:
        runs = []
        for contestant in contestants:
            log = work / f"{contestant.name.replace(' ', '_')}.log"
            runs.append(stack.enter_context(started(contestant, data[contestant.targets], log)))
            logger.info("  %s is ready", contestant.name)
        for repeat in range(repeats):
            first = repeat % len(runs)
            for run in [*runs[first:], *runs[:first]]:
                rates[run.contestant.name].append(run.turn())
            told = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items())
            logger.info("  repeat %d of %d, samples/s: %s", repeat + 1, repeats, told)
        said = {run.contestant.name: run.end() for run in runs}
    _check_rows(contestants, said)
    return {
        contestant.name: {
            **said[contestant.name],
            "samples_per_s": [round(rate, 1) for rate in rates[contestant.name]],
            "targets_a_request": contestant.targets,
            "steps_a_turn": contestant.steps,
        }
        for contestant in contestants
    }


def _check_rows(contestants: Sequence[Contestant], said: dict[str, dict[str, Any]]) -> None:
    for targets in {contestant.targets for contestant in contestants}:
        read = {c.name: said[c.name]["digest"] for c in contestants if c.targets == targets}
        if len(set(read.values())) != 1:
            raise RuntimeError(f"they read different rows: {read}")
