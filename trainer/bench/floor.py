"""What a machine can do at best, and seconds of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

_LEAST_S = 0.02
"""A measurement takes at least so long, by doing again what is measured."""
_COPIED_BYTES, _PRODUCT_SIZE = 1 << 28, 2048


def copy_speed(device: torch.device, clock: Callable[[], float] | None = None) -> float:
    """Bytes a second, those read and those written, of copying a large block."""
    source = torch.ones(_COPIED_BYTES // 4, device=device)
    copied = torch.ones_like(source)  # Touched, so that no page is new.
    return 2 * _COPIED_BYTES / seconds_a_call(lambda: copied.copy_(source), device, clock)


def product_speed(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    clock: Callable[[], float] | None = None,
) -> float:
    """Operations a second of a large matrix product; of int8, summed in 32 bits."""
    one = torch.ones(_PRODUCT_SIZE, _PRODUCT_SIZE, device=device).to(dtype)
    product = torch._int_mm if dtype == torch.int8 else torch.mm
    taken = seconds_a_call(lambda: product(one, one), device, clock)
    return float(2 * _PRODUCT_SIZE**3) / taken


def seconds_a_call(
    task: Callable[[], Any], device: torch.device, clock: Callable[[], float] | None = None
) -> float:
    """Seconds of a call, the device's work included, over as many calls as can be measured.

    Args:
        task: what is measured.
        device: which it works on.
        clock: the wall's, where none is given.
    """
    now = clock or time.perf_counter
    started, calls = now(), 0
    while True:
        task()
        calls += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
        elapsed = now() - started
        if elapsed >= _LEAST_S:
            return elapsed / calls
