"""Requests as they are read, before they are a batch: NumPy alone, so preparing loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipelines.interval import Clock


@dataclass(frozen=True)
class Requests:
    """Requests in memory, flat; both layouts on disk become this.

    Histories are slices of `history`, so that all requests of a user share one life.
    """

    history: dict[str, np.ndarray]
    """Ids of behaviours by feature, [N] each."""
    start: np.ndarray
    """Where each request's history starts in `history`, [R]."""
    end: np.ndarray
    """Where it ends, [R]."""
    user: np.ndarray
    """[R]."""
    target_offset: np.ndarray
    """Where each request's targets start, [R + 1]."""
    target: dict[str, np.ndarray]
    """Ids of targets by feature, [T] each."""
    label: np.ndarray
    clock: Clock | None = None
    """When behaviours and requests were, where intervals are read."""

    def __len__(self) -> int:
        return len(self.start)

    def with_targets(self) -> Requests:
        """The requests that have targets."""
        keep = np.diff(self.target_offset) > 0
        if keep.all():
            return self
        return replace(
            self,
            start=self.start[keep],
            end=self.end[keep],
            user=self.user[keep],
            target_offset=np.append(self.target_offset[:-1][keep], self.target_offset[-1]),
            clock=self.clock and self.clock.of_requests(keep),
        )

    def with_targets_apart(self) -> Requests:
        """Each target as a request of its own, with the history that they share."""
        request_T = np.repeat(np.arange(len(self)), np.diff(self.target_offset))
        return replace(
            self,
            start=self.start[request_T],
            end=self.end[request_T],
            user=self.user[request_T],
            target_offset=np.arange(request_T.size + 1) + self.target_offset[0],
            clock=self.clock and self.clock.of_requests(request_T),
        )

    def targets_of(self, chosen: np.ndarray) -> np.ndarray:
        """Targets of each chosen request."""
        return self.target_offset[chosen + 1] - self.target_offset[chosen]

    def behaviours_of(self, chosen: np.ndarray) -> np.ndarray:
        """Behaviours in the history of each chosen request."""
        return self.end[chosen] - self.start[chosen]
