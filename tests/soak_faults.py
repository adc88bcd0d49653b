"""What happens to the runs of `tests.soak`: each fault acts from outside, as the world does."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.processes import descendants, kill_tree

_SMALL_DISK_BYTES = 1 << 20
"""More than a rank logs and records, less than a table's file in a checkpoint."""


@dataclass
class Target:
    """A job that is running."""

    torchrun: subprocess.Popen[bytes]
    run: Path
    """Folder of the run."""
    draw: random.Random

    def ranks(self) -> list[int]:
        """Process ids of its ranks, none while they are being started."""
        return [pid for pid in descendants(self.torchrun.pid) if _variable(pid, "LOCAL_RANK")]

    def one(self) -> int | None:
        """A rank drawn at random."""
        ranks = self.ranks()
        return self.draw.choice(ranks) if ranks else None


def _variable(pid: int, name: str) -> bool:
    """Whether it is a process of Python itself that has a variable; readers inherit it too."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return f"\0{name}=".encode() in words and b"tests.recorded" in command


def _signal_one(target: Target, number: signal.Signals) -> bool:
    pid = target.one()
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    return True


def kill_rank(target: Target) -> bool:
    """`kill -9` of a rank."""
    return _signal_one(target, signal.SIGKILL)


def kill_in_save(target: Target) -> bool:
    """`kill -9` of a rank while a checkpoint is being written."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and target.torchrun.poll() is None:
        if any((target.run / "checkpoints").glob("*.incomplete")):
            time.sleep(target.draw.uniform(0, 0.05))
            return kill_rank(target)
        time.sleep(0.002)
    return False


def terminate_rank(target: Target) -> bool:
    """SIGTERM to a rank."""
    return _signal_one(target, signal.SIGTERM)


def terminate_job(target: Target) -> bool:
    """SIGTERM to torchrun, as a scheduler that takes the machine back."""
    target.torchrun.terminate()
    return True


def interrupt_job(target: Target) -> bool:
    """Ctrl-C: SIGINT to torchrun and to all ranks."""
    for pid in (*target.ranks(), target.torchrun.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    return True


def lose_host(target: Target) -> bool:
    """`kill -9` of torchrun and all ranks."""
    kill_tree(target.torchrun.pid)
    return True


def lose_launcher(target: Target) -> bool:
    """`kill -9` of torchrun alone; its ranks go on without it."""
    target.torchrun.kill()
    return True


def freeze_rank(target: Target) -> bool:
    """SIGSTOP to a rank, for good: another one's watchdog ends the job, so one must be left."""
    awake = [pid for pid in target.ranks() if not _is_frozen(pid)]
    if len(awake) < 2:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(target.draw.choice(awake), signal.SIGSTOP)
    return True


def _is_frozen(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")
    except OSError:
        return False


def stall_rank(target: Target) -> bool:
    """SIGSTOP to a rank, for a second or two: nothing ends."""
    pid = target.one()
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(target.draw.uniform(0.5, 2))
        os.kill(pid, signal.SIGCONT)
    return True


def fill_disk(target: Target) -> bool:
    """A limit on the size of a rank's files: its next save cannot be written."""
    pid = target.one()
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (_SMALL_DISK_BYTES, hard))
    return True


FAULTS: dict[str, tuple[int, Callable[[Target], bool]]] = {
    "kill -9 of a rank": (8, kill_rank),
    "kill -9 of a rank during a save": (6, kill_in_save),
    "SIGTERM to a rank": (4, terminate_rank),
    "SIGTERM to torchrun": (4, terminate_job),
    "Ctrl-C": (2, interrupt_job),
    "kill -9 of torchrun and its ranks": (3, lose_host),
    "kill -9 of torchrun alone": (2, lose_launcher),
    "a rank frozen for good": (1, freeze_rank),
    "a rank frozen for a moment": (3, stall_rank),
    "a disk that is full at the next save": (5, fill_disk),
}
"""Weights, as they are drawn, and what happens; it returns whether it could."""

DAMAGE = "a checkpoint damaged between starts"


def damage_newest(checkpoints: Path, draw: random.Random) -> bool:
    """Change one byte of the newest complete checkpoint, or cut a file of it; not of the only one.

    Args:
        checkpoints: folder of a run that is not running.
        draw: what is damaged.
    """
    complete = sorted(path.parent for path in checkpoints.glob("step-????????/manifest.json"))
    if len(complete) < 2:
        return False
    path = draw.choice(sorted(path for path in complete[-1].iterdir() if path.stat().st_size))
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    if draw.random() < 0.5:
        content[place] ^= 1 << draw.randrange(8)
    else:
        del content[place:]
    path.write_bytes(content)
    return True
