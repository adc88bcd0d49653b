"""What a figure belongs to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

_PROCESSORS = Path("/proc/cpuinfo")


def machine() -> dict[str, Any]:
    """Commit, versions, threads, processor, cores, GPU."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    packages = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu")
    return {
        "commit": commit or None,
        "versions": {name: version for name in packages if (version := _version(name))},
        "threads": torch.get_num_threads(),
        "machine": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    named = _PROCESSORS.exists() and re.search(r"model name\s*: (.+)", _PROCESSORS.read_text())
    return named[1] if named else platform.processor() or platform.machine()
