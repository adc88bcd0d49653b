"""Rows of several features, feature by feature or side by side. Letters: N ids, D width of all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class FeatureRows:
    """Rows of the same behaviours or targets by feature, joined when somebody asks for it.

    Args:
        parts: of each feature [N, its width], in the order in which they lie side by side; or what
            was joined before, in one.
    """

    def __init__(self, *parts: Tensor) -> None:
        self.parts = parts

    @functools.cached_property
    def joined(self) -> Tensor:
        """Side by side, [N, D]; joined once for all who ask, with the first one's gradient mode."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=1)

    def by_width(self, widths: Sequence[int]) -> Sequence[Tensor]:
        """Feature by feature, also of what was joined before.

        Args:
            widths: of the features.
        """
        if len(self.parts) == len(widths):
            return self.parts
        return torch.split(self.joined, list(widths), dim=1)

    def pick(self, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Chosen rows side by side.

        Args:
            choose: some of a part's rows, their width last.
        """
        return torch.cat([choose(part) for part in self.parts], dim=-1)
