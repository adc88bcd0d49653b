"""A few batches over tables of only the rows that they look up, numbered anew."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor


def looked_up(batches: Sequence[KeyedJaggedTensor]) -> dict[str, Tensor]:
    """All ids by feature, of histories and targets together, and 0; ascending, on the CPU.

    Args:
        batches: at least one, with the same keys.
    """
    found: dict[str, list[Tensor]] = {}
    for features, key in itertools.product(batches, batches[0].keys()):
        ids = features[key].values().cpu()
        found.setdefault(_feature(key), [ids.new_zeros(1)]).append(ids)
    return {name: torch.unique(torch.cat(parts)) for name, parts in found.items()}


def numbered_anew(features: KeyedJaggedTensor, ids: Mapping[str, Tensor]) -> KeyedJaggedTensor:
    """A batch whose ids are places in those of `looked_up`."""
    keys = list(features.keys())
    values = [torch.searchsorted(ids[_feature(key)], features[key].values()) for key in keys]
    return KeyedJaggedTensor(keys, torch.cat(values), lengths=features.lengths()).sync()


def _feature(key: str) -> str:
    return key.partition("_")[2]
