"""Collectives between the ranks of a process group, with gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

exchanged: ContextVar[str] = ContextVar("exchanged", default="")
"""What the running exchange of this file carries, for those who count bytes; a gradient is `<what>
gradient`."""


@dataclass(frozen=True)
class Wire:
    """The type of numbers on their way; they are float32 before and after."""

    forward: torch.dtype = torch.float32
    backward: torch.dtype = torch.float32


def start_counts(
    counts: Sequence[Sequence[int]], group: dist.ProcessGroup
) -> Callable[[], list[list[int]]]:
    """Begin to send a few numbers to each rank; a collective.

    Args:
        counts: for each rank, equally many whatever the sender.
        group: the ranks.

    Returns:
        Waits, and gives the numbers from each rank.
    """
    mine = len(counts[dist.get_rank(group)])
    device = _device(group)
    sent = torch.tensor([number for part in counts for number in part], device=device)
    received = torch.empty(mine * len(counts), dtype=torch.int64, device=device)
    sizes = [len(part) for part in counts]
    work = dist.all_to_all_single(
        received, sent, [mine] * len(counts), sizes, group=group, async_op=True
    )

    def wait() -> list[list[int]]:
        work.wait()
        numbers = received.tolist()
        return [numbers[first : first + mine] for first in range(0, len(numbers), mine)]

    return wait


def start_all_to_all(
    what: str, value: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup
) -> tuple[Tensor, dist.Work]:
    """Begin to send the pieces of a flat tensor; a collective.

    Args:
        what: name of what it carries.
        value: pieces for each rank after each other.
        sent: sizes of the pieces.
        received: sizes of the pieces that come.
        group: the ranks.

    Returns:
        The pieces of each rank after each other, and what to wait for before they are read.
    """
    result = value.new_empty(sum(received))
    token = exchanged.set(what)
    try:
        work = dist.all_to_all_single(result, value, received, sent, group=group, async_op=True)
    finally:
        exchanged.reset(token)
    return result, work


class _AllToAll(torch.autograd.Function):
    """`start_all_to_all` and its wait; its gradient goes the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        what: str,
        sent: list[int],
        received: list[int],
        group: dist.ProcessGroup,
        wire: Wire,
    ) -> Tensor:
        ctx.what, ctx.sent, ctx.received, ctx.group, ctx.wire = what, sent, received, group, wire
        value = value.contiguous().to(wire.forward)
        result, work = start_all_to_all(what, value, sent, received, group)
        work.wait()
        return result.float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous().to(ctx.wire.backward)
        result, work = start_all_to_all(
            f"{ctx.what} gradient", grad, ctx.received, ctx.sent, ctx.group
        )
        work.wait()
        return result.float(), None, None, None, None, None


def all_to_all(
    what: str,
    value: Tensor,
    sent: list[int],
    received: list[int],
    group: dist.ProcessGroup,
    wire: Wire,
) -> Tensor:
    """Send the pieces of a flat float32 tensor, with a gradient; as `start_all_to_all`.

    Where the value wants a gradient on one rank it must on all, since backward is a collective too.
    """
    result: Tensor = _AllToAll.apply(  # type: ignore[no-untyped-call]
        value, what, sent, received, group, wire
    )
    return result


class _ScaledGradient(torch.autograd.Function):
    """The value itself, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def scale_gradient(value: Tensor, factor: float) -> Tensor:
    """The same value; its gradient is multiplied by the factor."""
    if factor == 1:
        return value
    scaled: Tensor = _ScaledGradient.apply(value, factor)  # type: ignore[no-untyped-call]
    return scaled


def _device(group: dist.ProcessGroup) -> torch.device:
    nccl = dist.get_backend(group) == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
