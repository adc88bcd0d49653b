"""`dare doctor`: what is installed, whether it fits together and works, and what to do if not.

Imports only the standard library up front, so that it can report on a torch that does not import.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.doctor import probes

TESTED_TORCH_MINORS = (11, 12, 13)
"""torch 2.N goes with fbgemm 1.(N-5) and torchrec 1.(N-5); their wheels do not declare it."""

_GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `advice` is empty where there is nothing to do."""

    level: Literal["ok", "warning", "error"]
    subject: str
    found: str
    advice: str = ""


def diagnose() -> list[Finding]:
    """Look at this process, host and working folder; runs one real lookup and one all-reduce."""
    versions = probes.installed_versions()
    findings = [check_python(sys.version_info[:3]), *check_stack(versions)]
    findings += check_libraries(versions, probes.pinned_versions())
    try:
        devices = probes.devices(probes.driver_version())
    except probes.BROKEN as error:
        advice = "torch does not import; reinstall it: `make setup` in a new venv"
        findings.append(Finding("error", "torch", probes.first_line(error), advice))
    else:
        findings += check_devices(devices, versions)
        device = "cuda" if devices.gpus else "cpu"
        findings.append(check_lookup(device, probes.attempt(lambda: probes.lookup_error(device))))
        findings.append(check_gloo(probes.attempt(probes.gloo_sum)))
        findings.append(check_nccl(probes.has_nccl(), gpus=len(devices.gpus)))
    shared = Path("/dev/shm")
    free_shared = shutil.disk_usage(shared).free if shared.exists() else None
    findings += check_host(len(os.sched_getaffinity(0)), probes.memory_bytes(), free_shared)
    findings.append(check_disk(str(Path.cwd()), shutil.disk_usage(Path.cwd()).free))
    return findings


def has_errors(findings: list[Finding]) -> bool:
    """Whether training cannot be expected to work."""
    return any(finding.level == "error" for finding in findings)


def format_findings(findings: list[Finding]) -> str:
    """A line a finding, what to do below it, and a count at the end."""
    width = max((len(finding.subject) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<7}  {finding.subject:<{width}}  {finding.found}")
        if finding.advice:
            lines.append(f"{'':<7}  {'':<{width}}  -> {finding.advice}")
    counts = {level: sum(f.level == level for f in findings) for level in ("error", "warning")}
    summary = ", ".join(
        f"{count} {level}{'' if count == 1 else 's'}" for level, count in counts.items()
    )
    return "\n".join([*lines, "", summary])


def check_python(version: tuple[int, ...]) -> Finding:
    """Python 3.11 or newer."""
    found = ".".join(map(str, version))
    if version[:2] < (3, 11):
        advice = "3.11 or newer is needed: make a new venv, `make setup PYTHON=python3.12`"
        return Finding("error", "python", found, advice)
    return Finding("ok", "python", found)


def check_stack(versions: Mapping[str, str]) -> list[Finding]:
    """torch, fbgemm and torchrec: installed once each, and of versions made for each other."""
    torch = re.match(r"2\.(\d+)\.", versions.get("torch", ""))
    if torch is None:
        found = versions.get("torch", "not installed")
        return [Finding("error", "torch", found, "torch 2.11 to 2.13 is needed: `make setup`")]
    findings = [Finding("ok", "torch", versions["torch"])]
    minor = int(torch.group(1))
    if minor not in TESTED_TORCH_MINORS:
        advice = "2.11 to 2.13 are tested; install one of them if anything below fails"
        findings = [Finding("warning", "torch", versions["torch"], advice)]
    wanted = f"1.{minor - 5}"
    return [
        *findings,
        _check_fbgemm(versions, wanted),
        _check_companion("torchrec", versions.get("torchrec"), wanted, "--no-deps "),
    ]


def _check_fbgemm(versions: Mapping[str, str], wanted: str) -> Finding:
    both = [name for name in ("fbgemm-gpu", "fbgemm-gpu-cpu") if name in versions]
    if len(both) == 2:
        return Finding(
            "error",
            "fbgemm",
            "fbgemm-gpu and fbgemm-gpu-cpu are both installed, over the same folder",
            "`pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu`, then `pip install "
            f"fbgemm-gpu-cpu=={wanted}.0` on a CPU host or `fbgemm-gpu=={wanted}.0` on a GPU host",
        )
    name = both[0] if both else "fbgemm-gpu-cpu"
    return _check_companion(name, versions.get(name), wanted, "")


def _check_companion(name: str, version: str | None, wanted: str, options: str) -> Finding:
    advice = f"this torch needs {name} {wanted}: `pip install {options}{name}=={wanted}.0`"
    if version is None:
        return Finding("error", name, "not installed", advice)
    if not version.startswith(f"{wanted}."):
        return Finding("error", name, version, advice)
    return Finding("ok", name, version)


def check_libraries(versions: Mapping[str, str], pins: Mapping[str, str]) -> list[Finding]:
    """Libraries against the versions this project was tested with."""
    findings = []
    for name in probes.LIBRARIES:
        found, tested = versions.get(name), pins.get(name)
        install = f"`pip install {name}=={tested}`" if tested else f"`pip install {name}`"
        if found is None:
            findings.append(Finding("error", name, "not installed", install))
        elif tested is None or found.partition("+")[0] == tested:
            findings.append(Finding("ok", name, found))
        else:
            findings.append(Finding("warning", name, found, f"{tested} is tested: {install}"))
    return findings


def check_devices(devices: probes.Devices, versions: Mapping[str, str]) -> list[Finding]:
    """GPUs, and whether torch and fbgemm were built for the same kind of device."""
    build = f"torch for CUDA {devices.torch_cuda}" if devices.torch_cuda else "torch for CPU"
    driver = f"NVIDIA driver {devices.driver}" if devices.driver else "no NVIDIA driver"
    found = f"{build}, {driver}"
    findings = [Finding("ok", "devices", found)]
    if devices.driver and not devices.torch_cuda:
        advice = "this host's GPUs stay unused: `pip install -r requirements.txt`"
        findings = [Finding("warning", "devices", found, advice)]
    elif devices.driver and not devices.gpus:
        advice = "torch sees no GPU: check CUDA_VISIBLE_DEVICES, or update the driver for this CUDA"
        findings = [Finding("error", "devices", found, advice)]
    for index, (name, memory) in enumerate(devices.gpus):
        findings.append(Finding("ok", f"gpu {index}", f"{name}, {memory / _GIB:.1f} GiB"))
    if devices.gpus and "fbgemm-gpu-cpu" in versions:
        wrong, right = "fbgemm-gpu-cpu", "fbgemm-gpu"
    elif not devices.torch_cuda and "fbgemm-gpu" in versions:
        wrong, right = "fbgemm-gpu", "fbgemm-gpu-cpu"
    else:
        return findings
    advice = f"`pip uninstall -y {wrong}`, then `pip install {right}=={versions[wrong]}`"
    return [*findings, Finding("error", "fbgemm build", f"{wrong} beside {build}", advice)]


def check_lookup(device: str, outcome: float | str) -> Finding:
    """Judge `probes.lookup_error`: its value, or the message of what it raised."""
    subject = f"lookup on {device}"
    advice = "torch and fbgemm do not fit, see above; `make setup` in a new venv installs both"
    if isinstance(outcome, str):
        if "libnvidia" in outcome or "libcuda" in outcome:
            advice = (
                "this FBGEMM is the CUDA build, which needs NVIDIA's driver: install that, or "
                "`pip uninstall -y fbgemm-gpu` and `pip install -r requirements-cpu.txt`"
            )
        return Finding("error", subject, f"FBGEMM failed: {outcome}", advice)
    if not outcome < 1e-5:
        return Finding("error", subject, f"FBGEMM is off by {outcome:.2g}", advice)
    return Finding("ok", subject, "FBGEMM forward, backward and update are right")


def check_gloo(outcome: float | str) -> Finding:
    """Judge `probes.gloo_sum`: its value, or the message of what it raised."""
    if outcome == 3.0:
        return Finding("ok", "gloo", "one all-reduce is right")
    advice = "ranks cannot talk: check that the host name resolves, or set GLOO_SOCKET_IFNAME=lo"
    return Finding("error", "gloo", f"all-reduce of 3 gave {outcome}", advice)


def check_nccl(available: bool, *, gpus: int) -> Finding:
    """NCCL, which only several GPUs need."""
    found = "available" if available else "not in this torch"
    if gpus > 1 and not available:
        advice = f"{gpus} GPUs need it to train together: `pip install -r requirements.txt`"
        return Finding("error", "nccl", found, advice)
    return Finding("ok", "nccl", found if gpus > 1 else f"{found}; not needed for {gpus} GPUs")


def check_host(cores: int, memory: int, shared: int | None) -> list[Finding]:
    """Cores, memory and shared memory of this process, in bytes; shared is None where unknown."""
    few = "loading and training share one core: use no loader workers"
    small = "under 4 GiB: train with a smaller batch and narrower embeddings, or on more hosts"
    findings = [
        Finding("ok" if cores > 1 else "warning", "cores", f"{cores}", few if cores < 2 else ""),
        Finding("ok", "memory", f"{memory / _GIB:.1f} GiB")
        if memory >= 4 * _GIB
        else Finding("warning", "memory", f"{memory / _GIB:.1f} GiB", small),
    ]
    if shared is not None and shared < _GIB:
        advice = "loader workers pass batches through it: `docker run --shm-size 8g`"
        findings.append(Finding("warning", "/dev/shm", f"{shared / _GIB:.2f} GiB free", advice))
    return findings


def check_disk(folder: str, free: int) -> Finding:
    """Bytes free where data and runs go by default."""
    found = f"{free / _GIB:.1f} GiB free in {folder}"
    advice = "a dataset and its checkpoints need room: free some, or give --out on another disk"
    level: Literal["ok", "warning", "error"] = "ok"
    if free < 10 * _GIB:
        level = "warning" if free >= _GIB else "error"
    return Finding(level, "disk", found, "" if level == "ok" else advice)
