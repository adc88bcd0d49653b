"""What TorchX would send to each scheduler: to train on two hosts of eight GPUs, and to export.

`python -m tests.torchx_requests` writes the golden files that tests compare with.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import docker
from torchx.runner import get_runner

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "torchx"
IMAGE = "registry.example.com/dare-torchrec:0.1.0"
HOSTILE = "run; touch /tmp/owned $(id) `id` \"'$HOME"
"""As a run's name: a shell would read four commands in it."""

SCHEDULERS: dict[str, dict[str, Any]] = {
    "kubernetes": {"queue": "training", "namespace": "ads", "service_account": "trainer"},
    "kubernetes_mcad": {"namespace": "ads", "service_account": "trainer", "priority": 5},
    "slurm": {"partition": "gpu", "time": "2-00:00:00"},
    "aws_batch": {"queue": "training", "user": "someone"},
    "local_docker": {},
}
"""Schedulers and their options."""

_MOUNTS = {
    "kubernetes": "type=volume,src=datasets,dst=/data,readonly,type=volume,src=runs,dst=/runs",
    "kubernetes_mcad": "type=volume,src=datasets,dst=/data,readonly",
    "slurm": "",
    "aws_batch": "type=volume,src=fs-0123456789abcdef0,dst=/data,readonly",
    "local_docker": "type=bind,src=/srv/data,dst=/data,readonly",
}


def check_installed() -> None:
    """TorchX finds named resources by entry points only."""
    names = {entry.name for entry in importlib.metadata.entry_points(group="torchx.components")}
    assert "dare" in names, "this package is not installed as pyproject.toml says: make setup"


def arguments_of(scheduler: str) -> list[str]:
    """Of `train`, for a scheduler."""
    images = [] if scheduler == "slurm" else [f"--image={IMAGE}"]
    mounts = [f"--mounts={_MOUNTS[scheduler]}"] if _MOUNTS[scheduler] else []
    return [
        "--config=launch/recipes/taobao_dare.yaml",
        "--plan=/data/plan_2x8.yaml",
        "-j=2x8",
        "-h=aws_h100_8" if scheduler == "aws_batch" else "-h=h100_8",
        "--env=NCCL_SOCKET_IFNAME=eth0,eth1",
        *images,
        *mounts,
        "--",
        "--name",
        HOSTILE,
        "--loop.epochs=3",
    ]


@contextlib.contextmanager
def same_everywhere() -> Iterator[None]:
    """No chance, no daemon, no path of this machine."""
    with (
        mock.patch("torchx.schedulers.ids.random_uint64", return_value=2**60),
        mock.patch("torchx.schedulers.ids.random.choice", side_effect=lambda given: given[0]),
        mock.patch.object(docker, "from_env", return_value=mock.Mock()),
        mock.patch.object(sys, "executable", "/opt/venv/bin/python"),
        mock.patch(
            "torchx.schedulers.slurm_scheduler.SlurmScheduler._partition_memmb", return_value=None
        ),
        warnings.catch_warnings(),
    ):
        # Of Volcano 1.4's retries, which later versions have mended.
        warnings.simplefilter("ignore")
        yield


def dry_run(scheduler: str, component: str, arguments: Sequence[str]) -> Any:
    """TorchX's dry run of a component of ours."""
    path = f"{ROOT / 'launch' / 'components.py'}:{component}"
    with same_everywhere(), get_runner("golden") as runner:
        return runner.dryrun_component(path, list(arguments), scheduler, SCHEDULERS[scheduler])


def training_request(scheduler: str) -> Any:
    """The dry run of a training job, on two hosts of eight GPUs."""
    return dry_run(scheduler, "train", arguments_of(scheduler))


def export_request(scheduler: str) -> Any:
    """The dry run of an export, in one process."""
    images = [] if scheduler == "slurm" else [f"--image={IMAGE}"]
    mounts = [f"--mounts={_MOUNTS[scheduler]}"] if _MOUNTS[scheduler] else []
    run = ["--config=/runs/taobao_dare/config.yaml", "--out=/runs/served"]
    return dry_run(
        scheduler, "export", [*run, "--memMB=64000", *images, *mounts, "--", "--precision=int8"]
    )


REQUESTS = {"train": training_request, "export": export_request}
"""Jobs of which there are golden files."""


def golden_of(scheduler: str, component: str) -> Path:
    """The file that says what this scheduler is sent."""
    name = scheduler if component == "train" else f"{component}_{scheduler}"
    return GOLDEN / f"{name}.{'sh' if scheduler == 'slurm' else 'yaml'}"


def main() -> None:
    """Write all golden files."""
    check_installed()
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for component, request in REQUESTS.items():
        for scheduler in SCHEDULERS:
            golden_of(scheduler, component).write_text(f"{request(scheduler)}\n")


if __name__ == "__main__":
    main()
