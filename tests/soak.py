"""`python -m tests.soak`, `make soak`: runs under random faults, for an hour or as long as asked.

A cycle is one run on some ranks under torchrun. While it trains, faults come at random times; where
torchrun gives up or is ended, the run is started again, some of its checkpoints damaged meanwhile,
some with another number of ranks. When it has ended, each target must have been trained exactly
once, and its tables must equal those of a run that nothing happened to, bit for bit, if it had as
many ranks all the time. One line a cycle, a JSON summary and a table at the end; exit code 1 where
anything was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.commands import data_options, prepare_small
from tests.processes import kill_tree, running_with
from tests.recorded import Start, starts_of, targets_of
from tests.slurm.cluster import free_ports
from tests.soak_checks import growth_per_1000_steps, problems_of, tracebacks_in
from tests.soak_faults import DAMAGE, FAULTS, Target, damage_newest

ROOT = Path(__file__).parents[1]
ITEMS = 20_000
"""So that a checkpoint is megabytes, and takes long enough to be killed in."""
FAULTS_OF_A_RUN = (1, 12)
STUCK_S = 300
MEMORY_LIMIT_BYTES = 20 << 20
"""By which a rank may grow in 1,000 steps."""


@dataclass
class Counts:
    """What a soak has seen."""

    cycles: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    """Starts of torchrun."""
    starts: int = 0
    """Starts of ranks that trained."""
    steps: int = 0
    """Steps trained, also those that a fault undid."""
    targets: int = 0
    """Targets of the runs that ended, each trained once."""
    violations: list[str] = field(default_factory=list)
    memory: list[Start] = field(default_factory=list)
    """Starts, without what they have trained."""


class Soak:
    """Runs, one after the other, in a folder.

    Args:
        folder: for data, runs and logs.
        seed: of all that is drawn.
        ranks: of the undisturbed run.
        epochs: of each run.
    """

    def __init__(self, folder: Path, *, seed: int, ranks: int, epochs: int) -> None:
        self.folder, self.ranks = folder, ranks
        self.draw, self.counts = random.Random(seed), Counts()
        self.data = prepare_small(folder / "data", f"--items={ITEMS}")
        self.wanted = Counter(
            {target: n * epochs for target, n in targets_of(self.data / "train").items()}
        )
        self.options = [
            *data_options(self.data),
            "--data.batch_size=32",
            "--telemetry.log_every=5",
            "--checkpoint.every=15",
            "--checkpoint.keep_last=3",
            f"--loop.epochs={epochs}",
            "--watchdog.hang_s=8",
            "--watchdog.slow_s=60",
            "--resume",
        ]

    def launch(self, home: Path, ranks: int, *options: str) -> subprocess.Popen[bytes]:
        """Begin to train, or to go on."""
        self.counts.launches += 1
        (port,) = free_ports(1)
        logs = home / "logs" / f"{self.counts.launches:04d}"
        (home / "records").mkdir(parents=True, exist_ok=True)
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
        launcher += [f"--master-port={port}", "--max-restarts=1000", "--monitor-interval=0.1"]
        launcher += [f"--log-dir={logs}", "--redirects=3"]
        options = (*options, f"--out_dir={home}")
        quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)}
        logs.mkdir(parents=True)
        with (logs / "torchrun.log").open("wb") as told:
            return subprocess.Popen(
                [*launcher, "-m", "tests.recorded", "train", *self.options, *options],
                env={**os.environ, **quiet, "RECORD": str(home / "records")},
                stdout=told,
                stderr=told,
            )

    def straight(self) -> None:
        """The run that nothing happens to."""
        home = self.folder / "straight"
        code = self.launch(home, self.ranks).wait()
        if code != 0:
            raise RuntimeError(f"the undisturbed run has failed: see {home / 'logs'}")
        self.counts.targets += self.wanted.total()
        self.count(home)

    def cycle(self) -> None:
        """One run that things happen to."""
        self.counts.cycles += 1
        home = self.folder / f"cycle-{self.counts.cycles:04d}"
        resizing = self.draw.random() < 0.25
        saving = f"--checkpoint.asynchronous={self.draw.choice(['true', 'false'])}"
        begun, before = time.monotonic(), Counter(self.counts.faults)
        ranks, launches = self.ranks, self.counts.launches
        until = before.total() + self.draw.randint(*FAULTS_OF_A_RUN)
        while (code := self.disturb(home, self.launch(home, ranks, saving), until)) != 0:
            if code is None:
                self.violate(home, f"left alone, it has not ended within {STUCK_S} s")
                break
            if self.draw.random() < 0.4 and not running_with(f"--out_dir={home}"):
                self.happened(DAMAGE, damage_newest(home / "run" / "checkpoints", self.draw))
            if resizing:
                ranks = self.draw.randint(1, self.ranks + 1)
        for pid in running_with(f"--out_dir={home}"):
            kill_tree(pid)
        self.count(home)
        if code == 0:
            straight = self.folder / "straight" / "run"
            found = problems_of(home / "run", home / "records", self.wanted, straight)
            found += tracebacks_in(home / "logs")
            for problem in found:
                self.violate(home, problem)
            if not found:
                self.counts.targets += self.wanted.total()
                shutil.rmtree(home)
        faults = self.counts.faults - before
        print(
            f"cycle {self.counts.cycles}: {'ok' if code == 0 else 'FAILED'} in "
            f"{time.monotonic() - begun:.0f} s, {faults.total()} faults, "
            f"{self.counts.launches - launches} launches, "
            f"{len(self.counts.violations)} violations so far",
            flush=True,
        )

    def disturb(self, home: Path, torchrun: subprocess.Popen[bytes], until: int) -> int | None:
        """Let faults happen, up to so many of the soak, until a job ends; its exit code."""
        target = Target(torchrun, home / "run", self.draw)
        kinds, weights = list(FAULTS), [weight for weight, _ in FAULTS.values()]
        try:
            while self.counts.faults.total() < until:
                # Else also in the middle of a start, which takes some seconds.
                if self.draw.random() < 0.7:
                    wait_for_training(home / "records", torchrun)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return torchrun.wait(self.draw.uniform(0.5, 12))
                (kind,) = self.draw.choices(kinds, weights)
                self.happened(kind, FAULTS[kind][1](target))
            with contextlib.suppress(subprocess.TimeoutExpired):
                return torchrun.wait(STUCK_S)
            return None
        finally:
            if torchrun.poll() is None:
                kill_tree(torchrun.pid)

    def happened(self, kind: str, really: bool) -> None:
        """Count a fault, where it could happen, and write down when it did."""
        if really:
            self.counts.faults[kind] += 1
            with (self.folder / "faults.log").open("a") as log:
                log.write(f"{time.strftime('%H:%M:%S')} cycle {self.counts.cycles}: {kind}\n")

    def violate(self, home: Path, problem: str) -> None:
        """Tell what is wrong, and keep it."""
        print(f"VIOLATION in {home}: {problem}", flush=True)
        self.counts.violations.append(f"{home.name}: {problem}")

    def count(self, home: Path) -> None:
        """Add what a run has trained."""
        starts = starts_of(home / "records")
        self.counts.starts += len(starts)
        self.counts.steps += sum(len(start.steps) for start in starts)
        for start in starts:
            start.steps = {}
        self.counts.memory += starts

    def summary(self, seconds: float, seed: int) -> dict[str, Any]:
        """What to tell at the end."""
        counts = self.counts
        growth, steps = growth_per_1000_steps(counts.memory)
        if growth > MEMORY_LIMIT_BYTES:
            counts.violations.append(f"a rank grows by {growth / 2**20:.1f} MiB in 1,000 steps")
        peak = max(
            (held for s in counts.memory for rank in s.memory for _, held in rank), default=0
        )
        return {
            "seed": seed,
            "minutes": round(seconds / 60, 1),
            "ranks": self.ranks,
            "runs": counts.cycles,
            "faults": dict(sorted(counts.faults.items())),
            "launches": counts.launches,
            "starts": counts.starts,
            "steps": counts.steps,
            "targets_trained_once": counts.targets,
            "memory_growth_mib_per_1000_steps": round(growth / 2**20, 3),
            "memory_growth_from_steps": steps,
            "memory_peak_mib": round(peak / 2**20, 1),
            "violations": counts.violations,
        }


def wait_for_training(records: Path, torchrun: subprocess.Popen[bytes]) -> None:
    """Wait until ranks record steps, or their job has ended; a minute at most."""
    deadline = time.monotonic() + 60
    while torchrun.poll() is None and time.monotonic() < deadline:
        changed = max((path.stat().st_mtime for path in records.glob("*.jsonl")), default=0.0)
        if time.time() - changed < 1:
            return
        time.sleep(0.1)


def table_of(summary: dict[str, Any]) -> str:
    """The summary as Markdown."""
    rows = [
        ("runs, each to its end", summary["runs"]),
        ("faults", sum(summary["faults"].values())),
        *((f"&nbsp;&nbsp;{kind}", count) for kind, count in summary["faults"].items()),
        ("starts of ranks that trained", summary["starts"]),
        ("steps, also those undone", f"{summary['steps']:,}"),
        ("targets, each trained exactly once", f"{summary['targets_trained_once']:,}"),
        (
            "growth of a rank's memory in 1,000 steps",
            f"{summary['memory_growth_mib_per_1000_steps']:+.2f} MiB "
            f"(from {summary['memory_growth_from_steps']:,} steps)",
        ),
        ("violations", len(summary["violations"])),
    ]
    head = f"| {summary['minutes']:g} minutes, {summary['ranks']} ranks, seed {summary['seed']} | |"
    return "\n".join([head, "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> int:
    """Soak."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10, help="of each run")
    parser.add_argument("--folder", type=Path, help="what is wrong stays there; else a new one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    begun = time.monotonic()
    soak = Soak(folder, seed=options.seed, ranks=options.ranks, epochs=options.epochs)
    print(f"{folder}: {options.epochs} epochs a run; the undisturbed one comes first", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        soak.straight()
        while time.monotonic() - begun < 60 * options.minutes or not soak.counts.cycles:
            soak.cycle()
    finally:
        for pid in running_with(f"--out_dir={folder}"):
            kill_tree(pid)
    summary = soak.summary(time.monotonic() - begun, options.seed)
    print(table_of(summary))
    print(json.dumps(summary))
    if not summary["violations"] and options.folder is None:
        shutil.rmtree(folder)
    return 1 if summary["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
