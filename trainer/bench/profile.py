"""Where the time of training steps goes, by operator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile
from torch.utils.flop_counter import FlopCounterMode

from trainer.bench.training import Training

_EXCHANGES = ("gloo:", "nccl:", "ncclDevKernel", "ncclKernel")


class Operator(NamedTuple):
    """An operator's own time, without what it calls."""

    name: str
    share: float
    """Of the time of the steps."""
    calls: float
    """A step."""


def profile(training: Training, device: torch.device, steps: int) -> list[Operator]:
    """Train some steps under PyTorch's profiler.

    Args:
        training: that goes on.
        device: whose time is told: kernels of a GPU, else operators of this process.
        steps: how many.

    Returns:
        Operators, the longest first; those of the exchange between ranks are one, called
        `exchange`, whose time is that in which any of them was under way.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with torch_profile(activities=activities, acc_events=True) as found:
        measured = training.steps(steps)
    total_us = 1e6 * measured.seconds
    events = found.events()
    exchanges = [event for event in events if event.name.startswith(_EXCHANGES)]
    operators = []
    for average in found.key_averages():
        if average.key.startswith(_EXCHANGES) or average.key.startswith("ProfilerStep"):
            continue
        own_us = own_time(average, device)
        if own_us > 0:
            operators.append(Operator(average.key, own_us / total_us, average.count / steps))
    if exchanges:
        busy = covered((e.time_range.start, e.time_range.end) for e in exchanges)
        operators.append(Operator("exchange", busy / total_us, len(exchanges) / steps))
    return sorted(operators, key=lambda operator: operator.share, reverse=True)


def count_operations(training: Training, steps: int) -> int:
    """Additions and multiplications of matrix products in some steps, forward and backward.

    Args:
        training: that goes on.
        steps: how many.
    """
    with FlopCounterMode(display=False) as counter:
        training.steps(steps)
    return int(counter.get_total_flops())


def own_time(average: Any, device: torch.device) -> float:
    """Microseconds of an entry of the profiler; on a GPU those of kernels, else of operators.

    On a GPU an operator of this process has the time of its kernels too, and a range that code has
    named that of all in it: both would count a kernel twice.

    Args:
        average: the entry.
        device: whose time is told.
    """
    if device.type != "cuda":
        return float(average.self_cpu_time_total)
    is_kernel = average.device_type.name == "CUDA" and not average.is_user_annotation
    return float(average.self_device_time_total) if is_kernel else 0.0


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How much some spans cover together; where they overlap it counts once.

    Args:
        spans: start and end of each.
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
