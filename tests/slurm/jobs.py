"""A training job of the test cluster, from `torchx run` to its end."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.slurm.cluster import Cluster, Process, free_ports, wait_for

ROOT = Path(__file__).parents[2]
TORCHX = Path(sys.executable).with_name("torchx")


@dataclass(frozen=True)
class Job:
    """A submitted job.

    Args:
        job_id: of its first component; TorchX gives each replica one.
        run: the folder of the run that it trains.
        folder: where it runs and leaves its logs, TorchX's job_dir.
    """

    cluster: Cluster
    job_id: str
    run: Path
    folder: Path

    def wait(self, what: str, ask: Callable[[], bool], *, seconds: float) -> None:
        """Wait until something is so.

        Raises:
            TimeoutError: it was not so within the time; the message is all that the job told.
        """
        try:
            wait_for(what, ask, seconds=seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.told()}") from None

    @property
    def state(self) -> str:
        """RUNNING, PENDING, COMPLETED, FAILED, ..."""
        return self.cluster.job(self.job_id)["JobState"]

    @property
    def batch_host(self) -> str:
        """The node that runs its script."""
        return self.cluster.job(self.job_id)["BatchHost"]

    @property
    def requeued(self) -> int:
        """How often Slurm started it again."""
        return int(self.cluster.job(self.job_id)["Restarts"])

    def saved(self) -> int:
        """Step of the newest complete checkpoint; 0 without one."""
        names = [folder.name for folder in self.run.glob("checkpoints/step-*[0-9]")]
        return max((int(name.removeprefix("step-")) for name in names), default=0)

    def wait_for_progress(self, *, seconds: float = 90) -> None:
        """Wait for a checkpoint beyond the newest that there is."""
        before = self.saved()
        self.wait(
            f"a checkpoint after step {before}", lambda: self.saved() > before, seconds=seconds
        )

    def wait_for_requeue(self, count: int, *, seconds: float = 60) -> None:
        """Wait until Slurm has put it back into the queue for the `count`-th time."""
        self.wait(f"requeue {count}", lambda: self.requeued >= count, seconds=seconds)

    def wait_for_end(self, *, seconds: float = 120) -> None:
        """Wait until it is done, and everything that it started is gone.

        Raises:
            AssertionError: it did not end well.
        """
        self.wait(
            "the end",
            lambda: self.state not in ("RUNNING", "PENDING", "COMPLETING"),
            seconds=seconds,
        )
        assert self.state == "COMPLETED", self.told()
        self.wait("no process of it", lambda: not self.processes(), seconds=30)

    def processes(self) -> list[Process]:
        """What runs of it, on all nodes."""
        return [one for one in self.cluster.processes() if "SLURM_JOB_ID" in one.environment]

    def trainer_on(self, node: str) -> Process:
        """The rank of a node."""
        (found,) = [one for one in self._on(node) if "RANK" in one.environment]
        return found

    def agent_on(self, node: str) -> Process:
        """The torchrun of a node."""
        (found,) = [
            one
            for one in self._on(node)
            if "launch.torchrun" in one.command and "RANK" not in one.environment
        ]
        return found

    def _on(self, node: str) -> list[Process]:
        return [one for one in self.processes() if one.environment["SLURMD_NODENAME"] == node]

    def steps_told(self, words: str) -> list[int]:
        """The steps in lines of its logs that have these words."""
        lines = [line for path in self._logs() for line in path.read_text().splitlines()]
        found = [re.search(r"at step ([\d,]+)", line) for line in lines if words in line]
        return sorted(int(match[1].replace(",", "")) for match in found if match)

    def _logs(self) -> list[Path]:
        return sorted(self.folder.glob("slurm-*"))

    def told(self) -> str:
        """The end of each log, and what Slurm knows."""
        known = self.cluster.ask("scontrol", "show", "job", self.job_id)
        logs = [
            "\n".join([f"--- {path.name}", *path.read_text().splitlines()[-25:]])
            for path in self._logs()
        ]
        return "\n".join([known, *logs])


def submit(cluster: Cluster, folder: Path, *options: str, arguments: list[str]) -> Job:
    """`torchx run -s slurm launch/components.py:train` from a folder of its own.

    Args:
        folder: new; runs go to `folder/runs`, the copy of the code and logs to `folder/job`.
        options: of the component.
        arguments: of `dare train`.
    """
    folder.mkdir()
    (port,) = free_ports(1)
    done = subprocess.run(
        [
            *(str(TORCHX), "run", "--scheduler=slurm", f"--workspace=file://{ROOT}"),
            f"--scheduler_args=partition=main,job_dir={folder / 'job'}",
            *(f"{ROOT}/launch/components.py:train", "-j", "2x1", f"--rdzv_port={port}"),
            *("--config=launch/recipes/synthetic_dare.yaml", *options, "--"),
            *(*arguments, f"--out_dir={folder / 'runs'}", "--name=run"),
        ],
        cwd=folder,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # Not its exit code: TorchX then asks sacct for the state, and sacct wants a database.
    assert done.stdout.startswith("slurm://"), done.stderr
    job_id = done.stdout.strip().rpartition("/")[2]
    return Job(cluster, job_id, folder / "runs" / "run", folder / "job")
