"""A real Slurm on this machine: one controller and two nodes, gone without a trace afterwards.

Everything lies in one folder: keys, sockets, logs, the controller's state. All that is changed
outside is two names in /etc/hosts, since torchrun looks the first node up by its Slurm name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

NODES = ("slurm-test-1", "slurm-test-2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
HOSTS = Path("/etc/hosts")
MARK = "# tests/slurm: "
KILL_WAIT_S = 20
"""From the SIGTERM to the SIGKILL that end a preempted job (KillWait; Slurm's default is 30)."""

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/munge
# cred_expire is also the rest of a requeued job before it starts again: 120 s where not given.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
SlurmdLogFile={folder}/%n.log
# No control groups: they belong to the machine. A node is what SLURMD_NODENAME says.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# Jobs of TorchX are heterogeneous, which only the backfill scheduler starts; it looks every 30 s.
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1
KillWait={kill_wait_s}
# A node that is silent for so long is down, and its jobs are requeued.
SlurmdTimeout=10
MessageTimeout=5
ReturnToService=2
SlurmdParameters=config_overrides
{nodes}
# Jobs of `urgent` take the nodes of others, which get SIGTERM and wait for their turn.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=2
"""

Answer = TypeVar("Answer")


def missing() -> str:
    """Why no cluster can be started here; empty where it can."""
    if os.geteuid() != 0:
        return "Slurm's daemons start jobs for others: run as root"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)} not found: apt-get install slurm-wlm munge (make test-slurm)"
    return ""


def wait_for(what: str, ask: Callable[[], Answer], *, seconds: float) -> Answer:
    """Ask until the answer is true, and return it.

    Raises:
        TimeoutError: it was not true for so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)
    return answer


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@dataclass(frozen=True)
class Process:
    """A process of a job."""

    pid: int
    command: str
    environment: dict[str, str]

    def kill(self) -> None:
        """As a machine's power does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


@dataclass
class Cluster:
    """The running daemons; use `start_cluster`."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Of commands that talk to this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *command: str) -> str:
        """What a Slurm command prints.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        done = subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip()

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of a job, of its first component where it has several."""
        first = self.ask("scontrol", "--oneliner", "show", "job", job_id).splitlines()[0]
        return dict(pair.split("=", 1) for pair in first.split() if "=" in pair)

    def start(self, name: str, *command: str, **variables: str) -> None:
        """Start a daemon, in the foreground of a session of its own."""
        with (self.folder / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                command,
                env=self.environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self.start(node, "slurmd", "-D", "-N", node, SLURMD_NODENAME=node)

    def lose_node(self, node: str) -> None:
        """End all that runs on a node at once, and wait until Slurm has noticed."""
        for process in self.processes():
            if process.environment.get("SLURMD_NODENAME") == node:
                process.kill()
        self.daemons[node].wait(10)
        wait_for(
            f"Slurm to miss {node}",
            lambda: "down" in self.ask("sinfo", "--noheader", f"--nodes={node}", "--format=%T"),
            seconds=90,
        )

    def wait_until_idle(self) -> None:
        """Wait for both nodes to be up and without a job."""

        def idle() -> bool:
            states = self.ask("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T")
            return states.split() == ["idle"] * len(NODES)

        wait_for("idle nodes", idle, seconds=60)

    def processes(self) -> list[Process]:
        """All processes of this cluster's daemons and jobs."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                raw = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                environment = dict(pair.split("=", 1) for pair in raw if "=" in pair)
                if environment.get("SLURM_CONF") == self.environment["SLURM_CONF"]:
                    command = (folder / "cmdline").read_bytes().decode(errors="replace")
                    found.append(Process(int(folder.name), command.replace("\0", " "), environment))
        return found

    def stop(self) -> None:
        """End jobs and daemons, whatever state they are in."""
        with contextlib.suppress(subprocess.SubprocessError, TimeoutError):
            self.ask("scancel", "--user=root", "--full")
            wait_for("an empty queue", lambda: not self.ask("squeue", "--noheader"), seconds=30)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        for process in self.processes():
            process.kill()
        for daemon in self.daemons.values():
            daemon.wait(10)


@contextlib.contextmanager
def host_names(folder: Path) -> Iterator[None]:
    """Let the nodes' names mean this machine, until a cluster's folder is done with.

    Lines of clusters whose folder is gone, because their test was killed, go too.
    """

    def lines() -> list[str]:
        every = HOSTS.read_text().splitlines(keepends=True)
        marks = [line.partition(MARK) for line in every]
        return [
            line
            for line, (_, mark, owner) in zip(every, marks, strict=True)
            if not mark or (owner.strip() != str(folder) and Path(owner.strip()).exists())
        ]

    HOSTS.write_text("".join([*lines(), f"127.0.0.1 {' '.join(NODES)} {MARK}{folder}\n"]))
    try:
        yield
    finally:
        HOSTS.write_text("".join(lines()))


@contextlib.contextmanager
def start_cluster() -> Iterator[Cluster]:
    """A cluster whose nodes are idle, with ports of its own; ended on the way out."""
    # Not pytest's folder: munge wants every folder above its socket to be open to all users.
    folder = Path(tempfile.mkdtemp(prefix="slurm-test-"))
    folder.chmod(0o755)
    cluster = Cluster(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        stack.enter_context(host_names(folder))
        stack.callback(cluster.stop)
        _write_config(folder)
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        cluster.start("munged", "munged", "--foreground", f"--socket={folder}/munge.socket", *files)
        wait_for("munge", (folder / "munge.socket").exists, seconds=20)
        cluster.start("slurmctld", "slurmctld", "-D")
        for node in NODES:
            cluster.start_node(node)
        cluster.wait_until_idle()
        yield cluster


def _write_config(folder: Path) -> None:
    controller_port, *ports = free_ports(1 + len(NODES))
    for name in ("state", *NODES):
        (folder / name).mkdir()
    # config_overrides: the nodes have what is said here, not what this machine has.
    nodes = [
        f"NodeName={node} NodeAddr=127.0.0.1 Port={port} CPUs=64 RealMemory=1000000 State=UNKNOWN"
        for node, port in zip(NODES, ports, strict=True)
    ]
    (folder / "slurm.conf").write_text(
        CONFIG.format(
            host=socket.gethostname().split(".")[0],
            controller_port=controller_port,
            folder=folder,
            kill_wait_s=KILL_WAIT_S,
            nodes="\n".join(nodes),
        )
    )
