"""TorchX components: `torchx run launch/components.py:train`, installed `torchx run dare.train`.

TorchX knows the types of `typing` only. No component starts a shell.
"""

import re
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional
from urllib.parse import quote

from torchx import specs
from torchx.specs.finder import ComponentValidationException

from launch.settings import RENDEZVOUS, SETTINGS

# A process's share where no named resource is given: it computes, reads with two workers, shuffles
# windows of requests, and holds small tables.
CPUS, MEMORY_MB = 4, 16_000


def train(
    *args: str,
    config: str,
    plan: Optional[str] = None,
    j: str = "1x1",
    h: Optional[str] = None,
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = 0,
    image: Optional[str] = None,
    name: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 3,
    max_restarts: int = 3,
    rdzv_port: int = 29500,
    rdzv_timeout: int = RENDEZVOUS["join_timeout"],
) -> specs.AppDef:
    """Train on one host or many; a job that is started again goes on from its newest checkpoint.

    Args:
        args: after `--`, options of `dare train`, such as `-- --loop.epochs 3`
        config: recipe, as the hosts see it
        plan: YAML file for the sharding planner, such as those in launch/plans
        j: [MIN:]HOSTSx[PROCESSES], one process a GPU; without PROCESSES one for each GPU of `-h`
        h: named resource that a host is, such as h100_8 or aws_h200_8 (launch/resources.py)
        cpu: CPUs of a host, where no named resource is given; 0 for 4 a process
        gpu: GPUs of a host, where no named resource is given
        memMB: memory of a host in MB, where no named resource is given; 0 for 16000 a process
        image: container image; without one, hosts run the Python that runs torchx
        name: of the job, for the scheduler; the recipe's where not given
        env: variables of the job, NAME=VALUE,NAME=VALUE
        mounts: type=bind,src=/on/host,dst=/in/job[,readonly], or type=volume
        max_retries: how often the scheduler starts a failed job again
        max_restarts: how often a host's processes are started again without the scheduler
        rdzv_port: port of the first host at which hosts find each other
        rdzv_timeout: seconds for all hosts to come
    """
    if "--overwrite" in args:
        raise ComponentValidationException(
            "--overwrite would delete the run at each restart; delete its folder by hand"
        )
    shape = _parse_shape(j, h, cpu, gpu, memMB)
    planned = ["--sharding.plan", plan] if plan else []
    command = ["train", "--config", config, *planned, *args, "--resume"]
    agent = _torchrun(shape, command, max_restarts, rdzv_port, rdzv_timeout)
    role = _role("train", agent, shape, image, env, mounts, max_retries, rdzv_port)
    return specs.AppDef(_job_name(name or Path(config).stem), [role])


def evaluate(
    *args: str,
    config: str,
    j: str = "1x1",
    h: Optional[str] = None,
    image: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 1,
    rdzv_port: int = 29500,
) -> specs.AppDef:
    """Score a split with a checkpoint of a run.

    Args:
        args: after `--`, options of `dare evaluate`, such as `-- --split val --at last`
        config: config.yaml of the run's folder, as the hosts see it
        j: [MIN:]HOSTSx[PROCESSES], one process a GPU
        h: named resource that a host is
        image: container image; without one, hosts run the Python that runs torchx
        env: variables of the job, NAME=VALUE,NAME=VALUE
        mounts: type=bind,src=/on/host,dst=/in/job[,readonly], or type=volume
        max_retries: how often the scheduler starts a failed job again
        rdzv_port: port of the first host at which hosts find each other
    """
    shape = _parse_shape(j, h)
    command = ["evaluate", "--config", config, *args]
    agent = _torchrun(shape, command, 0, rdzv_port, RENDEZVOUS["join_timeout"])
    role = _role("evaluate", agent, shape, image, env, mounts, max_retries, rdzv_port)
    return specs.AppDef(_job_name(f"evaluate-{Path(config).parent.name}"), [role])


def export(
    *args: str,
    config: str,
    out: str,
    h: Optional[str] = None,
    cpu: int = 0,
    memMB: int = 0,
    image: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 1,
) -> specs.AppDef:
    """Turn a checkpoint of any number of ranks into a folder to serve from, in one process.

    Args:
        args: after `--`, options of `dare export`, such as `-- --at last --precision int8`
        config: config.yaml of the run's folder, as the host sees it
        out: folder that is made, as the host sees it
        h: named resource that the host is; no GPU is needed
        cpu: CPUs of the host, where no named resource is given; 0 for 4
        memMB: memory of the host in MB, twice the largest table's; 0 for 16000
        image: container image; without one, the host runs the Python that runs torchx
        env: variables of the job, NAME=VALUE,NAME=VALUE
        mounts: type=bind,src=/on/host,dst=/in/job[,readonly], or type=volume
        max_retries: how often the scheduler starts a failed job again
    """
    shape = _parse_shape("1x1", h, cpu=cpu, memMB=memMB)
    command = ("trainer", "export", "--config", config, "--out", out, *args)
    agent = [_encode(word) for word in command]
    role = _role("export", agent, shape, image, env, mounts, max_retries)
    return specs.AppDef(_job_name(f"export-{Path(config).parent.name}"), [role])


def prepare(
    *args: str,
    source: str,
    h: Optional[str] = None,
    cpu: int = 0,
    memMB: int = 0,
    image: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 1,
) -> specs.AppDef:
    """Turn a log into a dataset, in one process.

    Args:
        args: after `--`, options of `dare prepare SOURCE`, such as `-- --out data/synthetic`
        source: synthetic, taobao, tmall, movielens, csv or parquet
        h: named resource that the host is
        cpu: CPUs of the host, where no named resource is given; 0 for 4
        memMB: memory of the host in MB, where no named resource is given; 0 for 16000
        image: container image; without one, the host runs the Python that runs torchx
        env: variables of the job, NAME=VALUE,NAME=VALUE
        mounts: type=bind,src=/on/host,dst=/in/job[,readonly], or type=volume
        max_retries: how often the scheduler starts a failed job again
    """
    shape = _parse_shape("1x1", h, cpu=cpu, memMB=memMB)
    agent = [_encode(word) for word in ("trainer", "prepare", source, *args)]
    role = _role("prepare", agent, shape, image, env, mounts, max_retries)
    return specs.AppDef(_job_name(f"prepare-{source}"), [role])


def sweep(
    *args: str,
    config: str,
    j: str = "1x1",
    h: Optional[str] = None,
    image: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 3,
) -> specs.AppDef:
    """Train many runs on one host, one after the other; started again, it goes on.

    Args:
        args: after `--`, options of `dare sweep`, such as `-- --presets dare,twin --seeds 5`
        config: base recipe, as the host sees it
        j: 1x[PROCESSES], of each run
        h: named resource that the host is
        image: container image; without one, the host runs the Python that runs torchx
        env: variables of the job, NAME=VALUE,NAME=VALUE
        mounts: type=bind,src=/on/host,dst=/in/job[,readonly], or type=volume
        max_retries: how often the scheduler starts a failed job again
    """
    shape = _parse_shape(j, h)
    if shape.hosts != 1:
        raise ComponentValidationException(f"-j {j}: a sweep runs on one host, 1xPROCESSES")
    command = ["trainer", "sweep", "--config", config, *args]
    if shape.processes > 1:
        command += ["--launcher", f"torchrun --nproc-per-node {shape.processes} -m trainer"]
    agent = [_encode(word) for word in command]
    role = _role("sweep", agent, shape, image, env, mounts, max_retries)
    return specs.AppDef(_job_name(f"sweep-{Path(config).stem}"), [role])


class _Shape(NamedTuple):
    """Hosts, processes on each, and what a host must have."""

    least: int
    hosts: int
    processes: int
    resource: specs.Resource


def _parse_shape(j: str, h: Optional[str], cpu: int = 0, gpu: int = 0, memMB: int = 0) -> _Shape:
    """Read `-j` and complete the resource of a host.

    Raises:
        ComponentValidationException: what `-j` says is malformed or impossible.
    """
    found = re.fullmatch(r"(?:(\d+):)?(\d+)(?:x(\d*))?", j)
    if found is None:
        raise ComponentValidationException(
            f"-j {j!r} is not [MIN:]HOSTSx[PROCESSES], such as 1x8, 2x8 or 2:4x8"
        )
    try:
        host = specs.resource(h=h) if h else specs.Resource(cpu, gpu, memMB)
    except KeyError as unknown:
        raise ComponentValidationException(f"-h {h}: {unknown.args[0]}") from unknown
    hosts = int(found[2])
    least = int(found[1] or hosts)
    processes = int(found[3] or max(host.gpu, 1))
    if not 1 <= least <= hosts or processes < 1:
        raise ComponentValidationException(f"-j {j}: 1 <= MIN <= HOSTS and 1 <= PROCESSES")
    if 0 < host.gpu < processes:
        raise ComponentValidationException(
            f"-j {j} asks for {processes} processes a host, which has {host.gpu} GPUs; "
            f"one process a GPU: -j {j.split('x')[0]}x{host.gpu}"
        )
    if not h:
        host.cpu = cpu or CPUS * processes
        host.memMB = memMB or MEMORY_MB * processes
    return _Shape(least, hosts, processes, host)


def _torchrun(shape: _Shape, words: List[str], restarts: int, port: int, wait: int) -> List[str]:
    """Arguments of `launch.agent` that start a command of `dare` under torchrun.

    One host needs no agreed port; several meet at the first one's, whose address is in a variable
    that TorchX names for each scheduler.
    """
    meeting = {**RENDEZVOUS, "join_timeout": wait}
    where = ["--host-variable", specs.macros.rank0_env, "--port", str(port)]
    return [
        *(where if shape.hosts > 1 else []),
        "launch.torchrun",
        *([] if shape.hosts > 1 else ["--rdzv-endpoint=localhost:0"]),
        "--rdzv-backend=c10d",
        f"--rdzv-id={specs.macros.app_id}",
        f"--rdzv-conf={','.join(f'{name}={value}' for name, value in meeting.items())}",
        f"--nnodes={shape.least}:{shape.hosts}",
        f"--nproc-per-node={shape.processes}",
        f"--max-restarts={restarts}",
        *[_encode(word) for word in ("-m", "trainer", *words)],
    ]


def _role(
    name: str,
    agent: List[str],
    shape: _Shape,
    image: Optional[str],
    env: Optional[Dict[str, str]],
    mounts: Optional[List[str]],
    max_retries: int,
    port: int = 0,
) -> specs.Role:
    """What the hosts of a job run: `launch.agent` with its arguments."""
    variables = {**SETTINGS, **(env or {})}
    if shape.hosts * shape.processes == 1 and "OMP_NUM_THREADS" not in (env or {}):
        del variables["OMP_NUM_THREADS"]  # One process may use all of the host.
    # Values that would not pass every scheduler as they are go by way of the agent.
    odd = {key: value for key, value in variables.items() if key + value != _encode(key + value)}
    set_there = [f"--env={_encode(f'{key}={value}')}" for key, value in odd.items()]
    return specs.Role(
        name=name,
        image=image or specs.MISSING,
        entrypoint="python" if image else sys.executable,
        args=["-m", "launch.agent", *set_there, *agent],
        env={key: value for key, value in variables.items() if key not in odd},
        min_replicas=shape.least,
        num_replicas=shape.hosts,
        max_retries=max_retries,
        resource=shape.resource,
        port_map={"c10d": port} if port else {},
        mounts=specs.parse_mounts(mounts) if mounts else [],
    )


def _job_name(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "dare"


def _encode(value: str) -> str:
    """Percent-encode what any scheduler would read as its own; `launch.agent` decodes."""
    return quote(value, safe="/=:@+").replace("::", "%3A%3A")
