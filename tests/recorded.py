"""`python -m tests.recorded` is `python -m trainer` that writes down what it trains.

In the folder that the environment variable RECORD names, each process leaves a file of JSON lines:
first what it is (`start`: seconds, `job`: the same for all ranks of a start, `rank`, `world`, and
`from`, the step that it goes on from), then for each step its number, user and item of each of its
targets, and the bytes that the process holds. PACE_S is how much longer each step takes, so that a
test can act in the middle of a run.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from trainer.start import leave_at_once

if __name__ == "__main__":  # What comes next takes Python seconds to load.
    signal.signal(signal.SIGINT, leave_at_once)

import pyarrow.parquet as pq
import torch.distributed as dist

from tests.faulty import is_traced
from trainer.loop import Trainer
from trainer.task import TrainTask


def record(folder: Path, pace_s: float) -> None:
    """Let this process write down what it trains."""
    forward, steps = TrainTask.forward, Trainer._steps
    found: list[Any] = []

    def recorded_steps(trainer: Trainer, *arguments: Any) -> None:
        path = folder / f"{time.time():.3f}-{os.getpid()}.jsonl"
        found[:] = [trainer, path.open("a", buffering=1)]
        context = trainer.context
        job = [uuid.uuid4().hex]
        if context.world > 1:
            dist.broadcast_object_list(job, src=0, group=context.control)
        _tell(found[1], start=time.time(), job=job[0], rank=context.rank, world=context.world)
        steps(trainer, *arguments)

    def recorded_forward(task: TrainTask, batch: Any) -> Any:
        if task.training and found and not is_traced((batch,)):
            time.sleep(pace_s)
            items = batch.features["target_item"].values()
            mine = batch.weight > 0
            targets = [batch.user[mine].tolist(), items[mine].tolist()]
            pairs = list(zip(*targets, strict=True))
            _tell(found[1], step=found[0].step + 1, targets=pairs, rss=_resident_bytes())
        return forward(task, batch)

    def _tell(file: Any, **values: Any) -> None:
        file.write(json.dumps({**values, "from": found[0].step}) + "\n")

    Trainer._steps = recorded_steps  # type: ignore[method-assign]
    TrainTask.forward = recorded_forward  # type: ignore[method-assign]


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Start:
    """What all ranks of one start have recorded."""

    def __init__(self, told: list[list[dict[str, Any]]]) -> None:
        self.began, self.world = told[0][0]["start"], told[0][0]["world"]
        self.first = told[0][0]["from"]
        """The step that it went on from."""
        self.steps: dict[int, list[tuple[int, int]]] = {}
        self.memory: list[list[tuple[int, int]]] = []
        """(step, resident bytes) of each of its ranks."""
        for _, *lines in told:
            self.memory.append([(line["step"], line["rss"]) for line in lines])
            for line in lines:
                pairs = [(user, item) for user, item in line["targets"]]
                self.steps.setdefault(line["step"], []).extend(pairs)

    @property
    def last(self) -> int:
        """Its last step."""
        return max(self.steps, default=self.first)


def starts_of(folder: Path) -> list[Start]:
    """What was recorded so far, in the order of time."""
    jobs: dict[str, list[list[dict[str, Any]]]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        # A line that is being written, or whose writer was killed, has no end.
        text = path.read_text().rpartition("\n")[0]
        if text:
            lines = [json.loads(line) for line in text.splitlines()]
            jobs.setdefault(lines[0]["job"], []).append(lines)
    return sorted((Start(told) for told in jobs.values()), key=lambda start: start.began)


def surviving(starts: list[Start]) -> Counter[tuple[int, int]]:
    """How often each target was trained in the history that the last start ends.

    A later start undoes what was trained beyond the step that it went on from.
    """
    trained: Counter[tuple[int, int]] = Counter()
    until = float("inf")
    for start in reversed(starts):
        for step, pairs in start.steps.items():
            if step <= until:
                trained.update(pairs)
        until = min(until, start.first)
    return trained


def targets_of(folder: Path) -> Counter[tuple[int, int]]:
    """Each target of a split of a dataset, from its files."""
    return Counter(
        (user["user_id"], item)
        for path in sorted(folder.glob("*.parquet"))
        for user in pq.read_table(path, columns=["user_id", "requests"]).to_pylist()
        for request in user["requests"]
        for item in request["item"]
    )


if __name__ == "__main__":
    record(Path(os.environ["RECORD"]), float(os.environ.get("PACE_S", "0")))
    runpy.run_module("trainer", run_name="__main__")
