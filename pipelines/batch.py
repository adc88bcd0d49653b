"""A batch of requests, as the model takes it.

Letters: R requests, T targets, N behaviours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from pipelines.ragged import backward_ranges, ranges
from pipelines.requests import Requests
from pipelines.schema import FEATURES, INTERVAL


@dataclass
class Batch(Pipelineable):
    """Requests with their histories and targets; a history is there once, whoever shares it."""

    features: KeyedJaggedTensor
    """Keys `history_<feature>` of item, category and what else is read, then `target_<feature>`;
    stride R. Histories newest first, so that place l is position l + 1."""
    label: Tensor
    """Clicked or not, float [T], in the order of the requests."""
    weight: Tensor
    """What a target counts in the loss, float [T]; 0 on rows that only pad."""
    user: Tensor
    """Whose target it is, int64 [T]."""
    total_weight: Tensor
    """Sum of `weight` over all ranks, float []."""
    num_history: int
    """Behaviours of the longest history, at least 1."""
    num_targets: int
    """Targets of the fullest request, at least 1."""
    num_behaviours: int
    """Behaviours of all histories, each counted once."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """A copy on another device."""
        return self._map(lambda value: value.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory."""
        return self._map(lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the tensors alive until the stream is done with them."""
        for part in fields(self):
            value = getattr(self, part.name)
            if not isinstance(value, int):
                value.record_stream(stream)

    def _map(self, change: Callable[[Any], Any]) -> Batch:
        changed: dict[str, Any] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            changed[part.name] = value if isinstance(value, int) else change(value)
        return Batch(**changed)


def collate(parts: list[tuple[Requests, np.ndarray]]) -> Batch:
    """Cut a batch.

    Args:
        parts: requests in memory, and which of them, in order.

    Returns:
        The batch; every target counts 1, `total_weight` is this rank's own.
    """
    history: list[dict[str, np.ndarray]] = []
    target: list[dict[str, np.ndarray]] = []
    lengths, counts, labels, users = [], [], [], []
    for requests, chosen in parts:
        length = requests.end[chosen] - requests.start[chosen]
        newest_first = backward_ranges(requests.end[chosen], length)
        count = requests.targets_of(chosen)
        index = ranges(requests.target_offset[chosen], count)
        history.append({name: ids[newest_first] for name, ids in requests.history.items()})
        target.append({name: ids[index] for name, ids in requests.target.items()})
        if requests.clock is not None:
            history[-1][INTERVAL] = requests.clock.buckets_of(newest_first, chosen, length)
            target[-1][INTERVAL] = np.zeros(index.size, np.int64)
        labels.append(requests.label[index])
        users.append(np.repeat(requests.user[chosen], count))
        lengths.append(length)
        counts.append(count)
    return _batch(
        history=history,
        target=target,
        history_length=np.concatenate(lengths),
        target_count=np.concatenate(counts),
        label=np.concatenate(labels),
        user=np.concatenate(users),
        weight=1.0,
    )


def padding_batch(features: Sequence[str] = FEATURES) -> Batch:
    """One request without history and with one weightless target, for a rank without data.

    Args:
        features: those of the other ranks' batches.
    """
    return _batch(
        history=[{name: np.zeros(0, np.int64) for name in features}],
        target=[{name: np.zeros(1, np.int64) for name in features}],
        history_length=np.zeros(1, np.int64),
        target_count=np.ones(1, np.int64),
        label=np.zeros(1, np.float32),
        user=np.full(1, -1, np.int64),
        weight=0.0,
    )


def _batch(
    *,
    history: list[dict[str, np.ndarray]],
    target: list[dict[str, np.ndarray]],
    history_length: np.ndarray,
    target_count: np.ndarray,
    label: np.ndarray,
    user: np.ndarray,
    weight: float,
) -> Batch:
    # TorchRec learns the order of the keys from the first batch, so it must not change.
    names = [*FEATURES, *sorted(history[0].keys() - FEATURES)]
    values = [part[name] for parts in (history, target) for name in names for part in parts]
    lengths = np.concatenate([history_length] * len(names) + [target_count] * len(names))
    return Batch(
        features=KeyedJaggedTensor(
            keys=[f"{side}_{name}" for side in ("history", "target") for name in names],
            values=torch.from_numpy(np.concatenate(values).astype(np.int64, copy=False)),
            lengths=torch.from_numpy(lengths.astype(np.int32)),
            # Summed by key here, on the CPU, and carried along by `to`: otherwise each step would
            # wait for the device to send the lengths back.
        ).sync(),
        label=torch.from_numpy(label.astype(np.float32, copy=False)),
        weight=torch.full((label.size,), weight),
        user=torch.from_numpy(user),
        total_weight=torch.tensor(weight * label.size),
        num_history=int(history_length.max(initial=1)),
        num_targets=int(target_count.max(initial=1)),
        num_behaviours=int(history_length.sum()),
    )
