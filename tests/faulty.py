"""`python -m tests.faulty` is `python -m trainer` to which something happens once.

What is in the environment variable FAULT, as JSON: `rank`; `where`: `forward` (of a training step),
`read` (of a batch), `save` (of tensors), `meet` (the other ranks), `connect` (with them); `after`:
times that this went well; `what`: `kill`, `hang`, `freeze` (all of the process), `full` (the disk),
`terminate`, or `nan`; `once`: a file that is made when it happens, so that a job that is started
again is left alone.
"""

from __future__ import annotations

import errno
import json
import os
import runpy
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.cli import load_torch


def happen(what: str) -> None:
    """Let it happen to this process."""
    if what == "hang":
        time.sleep(3600)
    if what == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    numbers = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "terminate": signal.SIGTERM}
    if what in numbers:
        os.kill(os.getpid(), numbers[what])


def is_traced(arguments: tuple[Any, ...]) -> bool:
    """TorchRec looks through a model before it runs it."""
    from torch.fx import Proxy

    return any(isinstance(argument, Proxy) for argument in arguments)


def prepare(fault: dict[str, Any]) -> None:
    """Let a fault happen to this process when it comes to the place."""
    load_torch()
    from pipelines.lockstep import BatchStream
    from trainer import distributed
    from trainer.checkpoints.tensor_files import _DigestingStream
    from trainer.task import TrainTask

    places: dict[str, tuple[Any, str]] = {
        "meet": (distributed, "_meet"),
        "connect": (distributed, "_connect"),
        "forward": (TrainTask, "forward"),
        "read": (BatchStream, "_read"),
        "save": (_DigestingStream, "write"),
    }
    owner, name = places[fault["where"]]
    whole: Callable[..., Any] = getattr(owner, name)
    once, passed = Path(fault["once"]), [0]

    def faulty(self: Any, *arguments: Any) -> Any:
        if isinstance(self, TrainTask) and (not self.training or is_traced(arguments)):
            return whole(self, *arguments)
        passed[0] += 1
        if passed[0] <= fault["after"] or once.exists():
            return whole(self, *arguments)
        once.touch()
        happen(fault["what"])
        result = whole(self, *arguments)
        if fault["what"] == "nan":
            loss, output = result
            return loss * float("nan"), output._replace(loss=output.loss * float("nan"))
        return result

    def faulty_forward(self: Any, batch: Any) -> Any:  # By name, or TorchRec cannot look through.
        return faulty(self, batch)

    setattr(owner, name, faulty_forward if owner is TrainTask else faulty)


if __name__ == "__main__":
    asked = json.loads(os.environ["FAULT"])
    if int(os.environ.get("RANK", "0")) == asked["rank"]:
        prepare(asked)
    runpy.run_module("trainer", run_name="__main__")
