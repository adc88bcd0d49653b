"""Bytes that a rank sends to other ranks, by what they carry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modules.exchange import exchanged


class TrafficCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every collective that runs inside, also in backward.

    Names are those of `modules.exchange`, and for TorchRec's and DDP's collectives `unpooled ids`,
    `unpooled rows`, `unpooled rows gradient`, `dense gradient` and `other`. Sums over ranks count
    as a ring sends them: 2 (n - 1) / n of their bytes over n ranks. Work that runs inside is
    slower.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sent_bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation; collectives are counted."""
        if func.namespace == "c10d":
            self._count(func._opname, args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: tuple[Any, ...]) -> None:
        backward = torch._C._current_graph_task_id() != -1
        if name == "alltoall_base_":
            _, sent, group, _, splits, *_ = args
            what = "unpooled rows" if sent.is_floating_point() else "unpooled ids"
            what += " gradient" * backward
            self.sent_bytes[exchanged.get() or what] += _to_others(sent, splits, _unboxed(group))
        elif name == "allreduce_":
            tensors, group, *_ = args
            ranks = _unboxed(group).size()
            for tensor in tensors:
                share = 2 * (ranks - 1) * tensor.nbytes // ranks
                self.sent_bytes["dense gradient" if backward else "other"] += share
        elif name in ("allgather_", "_allgather_base_"):
            sent, group = args[1], args[2]
            for tensor in sent if isinstance(sent, list) else [sent]:
                self.sent_bytes["other"] += tensor.nbytes * (_unboxed(group).size() - 1)


def _unboxed(group: Any) -> dist.ProcessGroup:
    unboxed: dist.ProcessGroup = dist.ProcessGroup.unbox(group)
    return unboxed


def _to_others(sent: Tensor, splits: Sequence[int], group: dist.ProcessGroup) -> int:
    """Bytes of an all-to-all that leave this rank; without splits all pieces are equal."""
    if not splits:
        return sent.nbytes * (group.size() - 1) // group.size()
    row = sent.nbytes // max(1, sent.size(0)) if sent.dim() else 0
    return row * (sum(splits) - splits[group.rank()])
