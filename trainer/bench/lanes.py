"""Trainings beside each other, measured in turn: what else a machine does then meets all alike.

A lane is one training in processes of its own, which sleep while another lane is measured.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import multiprocessing as mp

from trainer.bench.data import write_uniform
from trainer.bench.profile import Operator, count_operations, profile
from trainer.bench.series import Series
from trainer.bench.setting import Effort, TrainSetting
from trainer.bench.training import Measured, Training
from trainer.distributed import run_context
from trainer.telemetry.logs import configure_logging
from trainer.telemetry.memory import peak_memory_bytes

logger = logging.getLogger(__name__)

_BATCHES = 24
"""Different ones; then they come again."""
_CALIBRATION_STEPS = 2
_END_S = 10.0


class Ready(NamedTuple):
    """A process that is ready to be measured."""

    before_bytes: int
    """Its memory before there was a model: Python, libraries, its pages of them."""
    peak_bytes: int
    """Its memory at most, first steps included."""
    table_bytes: int
    """Of all tables over all ranks, without optimizer state."""


class Lane:
    """One training, ready to be measured.

    Args:
        setting: what is trained.
        ranks: processes that train together; on a CPU they share its cores evenly.
        folder: for its data and the meeting of its ranks.

    Raises:
        RuntimeError: a process failed; its traceback is in the message.
    """

    def __init__(self, setting: TrainSetting, ranks: int, folder: Path) -> None:
        data = folder / "data"
        requests = _BATCHES * ranks * setting.requests
        write_uniform(data, setting.data, requests, setting.seed)
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # The profiler's start and stop, in lines.
        context = mp.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(ranks):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, rank, ranks, setting, data), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(mine)
            self._processes.append(process)
        ready = self._answers()
        self.ready: Ready = ready[0]
        """What rank 0 told when it had trained its first steps."""
        self.ranks = ranks

    def measure(self, steps: int) -> Measured:
        """Train some steps; seconds and waiting are those of rank 0, samples those of all."""
        found = self._ask("steps", steps)
        return found[0]._replace(samples=sum(one.samples for one in found))

    def profile(self, steps: int) -> list[Operator]:
        """Where rank 0 spends the time of some steps, the longest first."""
        operators: list[Operator] = self._ask("profile", steps)[0]
        return operators

    def operations(self) -> int:
        """Additions and multiplications of one step's matrix products on rank 0."""
        return int(self._ask("operations", 1)[0])

    def steps_of(self, seconds: float) -> int:
        """Steps that take about so long."""
        tried = self.measure(_CALIBRATION_STEPS)
        return max(1, round(seconds * _CALIBRATION_STEPS / tried.seconds))

    def close(self) -> None:
        """End its processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(_END_S)
            process.kill()

    def _ask(self, what: str, steps: int) -> list[Any]:
        for pipe in self._pipes:
            pipe.send((what, steps))
        return self._answers()

    def _answers(self) -> list[Any]:
        found = []
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            try:
                answer = pipe.recv()
            except EOFError:
                process.join(_END_S)
                raise RuntimeError(
                    f"a measured process ended with code {process.exitcode} (-9: out of memory)"
                ) from None
            if isinstance(answer, str):
                raise RuntimeError(f"a measured process failed:\n{answer}")
            found.append(answer)
        return found


@contextmanager
def open_lane(setting: TrainSetting, ranks: int = 1) -> Iterator[Lane]:
    """A lane, with its data in a folder of its own that goes with it."""
    with tempfile.TemporaryDirectory(prefix="dare-bench-") as folder:
        lane = Lane(setting, ranks, Path(folder))
        try:
            yield lane
        finally:
            lane.close()


def measure_in_turn(lanes: Sequence[Lane], effort: Effort, name: str) -> list[Series]:
    """Measure each lane for some seconds, one after the other, and that again and again.

    Args:
        lanes: in this order.
        effort: of each lane.
        name: for the log.
    """
    steps = [lane.steps_of(effort.seconds) for lane in lanes]
    found: list[list[Measured]] = [[] for _ in lanes]
    for repeat in range(effort.repeats):
        for lane, number, mine in zip(lanes, steps, found, strict=True):
            mine.append(lane.measure(number))
        told = ", ".join(f"{mine[-1].samples / mine[-1].seconds:,.0f}" for mine in found)
        logger.info("%s, repeat %d of %d: %s samples/s", name, repeat + 1, effort.repeats, told)
    return [Series(mine, number) for number, mine in zip(steps, found, strict=True)]


def join_by_file(rank: int, world: int, folder: Path) -> None:
    """Make this process a rank of several on this machine that meet in a folder.

    Args:
        rank: of this process.
        world: how many there are.
        folder: where they meet.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    os.environ |= dict(zip(names, map(str, (rank, rank, world, world)), strict=True))
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // world))
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        init_method=(folder / "rendezvous").as_uri(),
        rank=rank,
        world_size=world,
    )


def _serve(pipe: Connection, rank: int, world: int, setting: TrainSetting, folder: Path) -> None:
    """The process of a lane: do what is asked until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The asking process ends it.
    try:
        if world > 1:
            join_by_file(rank, world, folder)
        with run_context() as context:
            configure_logging(rank=1)  # Warnings only.
            before_bytes = int(peak_memory_bytes(context.device))
            training = Training(setting, folder, context)
            answers: dict[str, Callable[[int], Any]] = {
                "steps": training.steps,
                "profile": functools.partial(profile, training, context.device),
                "operations": functools.partial(count_operations, training),
            }
            pipe.send(Ready(before_bytes, training.peak_memory_bytes(), training.table_bytes))
            while True:
                what, steps = pipe.recv()
                pipe.send(answers[what](steps))
    except EOFError:
        pass
    except Exception:  # noqa: BLE001  # Whatever it is, the asking process tells it.
        pipe.send(traceback.format_exc())
    os._exit(0)  # As in trainer/start.py.
